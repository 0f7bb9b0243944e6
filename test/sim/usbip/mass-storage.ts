/** A USB disk or card reader: bulk-only transport (usbmassbulk_10.pdf) with the SCSI commands that Linux uses (SPC-4, SBC-3). */
import { InEndpoint, OutEndpoint, type DeviceFunction } from "./device.ts";

export interface MassStorageOptions {
  /** 8 characters. */
  readonly vendor?: string;
  /** 16 characters. */
  readonly product?: string;
  readonly revision?: string;
  /** Numbers of the endpoints. Default 1 and 2. */
  readonly inEndpoint?: number;
  readonly outEndpoint?: number;
  /** Commands of its own, and faults: undefined leaves the command to the disk. */
  command?(cdb: Buffer, data: Buffer): ScsiResult | undefined;
}

/** Data for the host; or why not: sense key, additional sense code and qualifier (SPC-4, annex D). */
export type ScsiResult = { readonly data: Buffer } | { readonly sense: Sense } | "stall";
export type Sense = readonly [key: number, code: number, qualifier: number];

export interface MassStorage extends DeviceFunction {
  /** What is on the card, if there is one. */
  readonly medium: Buffer | undefined;
  /** Puts a card in. The host learns of it when it asks the next time. */
  insert(medium: Buffer, options?: { writeProtected?: boolean }): void;
  /** Takes the card out. */
  eject(): void;
  /** What the host has asked for, without what it asks for again and again to see whether there is a card. */
  readonly commands: readonly number[];
}

const blockBytes = 512;
const senses = {
  none: [0, 0, 0],
  mediumNotPresent: [2, 0x3a, 0],
  mediumMayHaveChanged: [6, 0x28, 0],
  invalidCommand: [5, 0x20, 0],
  outOfRange: [5, 0x21, 0],
  writeProtected: [7, 0x27, 0],
} as const satisfies Record<string, Sense>;

const scsi = {
  testUnitReady: 0x00,
  requestSense: 0x03,
  inquiry: 0x12,
  modeSense6: 0x1a,
  startStop: 0x1b,
  preventRemoval: 0x1e,
  readCapacity10: 0x25,
  read10: 0x28,
  write10: 0x2a,
  synchronizeCache: 0x35,
  modeSense10: 0x5a,
} as const;

/** A disk without a medium. */
export function massStorage(options: MassStorageOptions = {}): MassStorage {
  const { vendor = "Sim", product = "Card reader", revision = "1.00" } = options;
  const toHost = new InEndpoint({ number: options.inEndpoint ?? 1, type: "bulk" });
  const fromHost = new OutEndpoint({ number: options.outEndpoint ?? 2, type: "bulk" }, receive);
  const commands: number[] = [];
  let card: { medium: Buffer; writeProtected: boolean } | undefined;
  let sense: Sense = senses.none;
  let isNew = false;
  /** A command whose data has not come yet. */
  let open: { wrapper: Buffer; data: Buffer[]; missing: number } | undefined;

  function receive(bytes: Buffer): void | "stall" {
    if (open !== undefined) {
      open.data.push(bytes);
      open.missing -= bytes.length;
    } else {
      if (bytes.length !== 31 || bytes.toString("latin1", 0, 4) !== "USBC") return "stall";
      open = { wrapper: Buffer.from(bytes), data: [], missing: isIn(bytes) ? 0 : bytes.readUInt32LE(8) };
    }
    if (open.missing > 0) return;
    const { wrapper, data } = open;
    open = undefined;
    answer(wrapper, execute(wrapper.subarray(15, 31), Buffer.concat(data)));
  }

  function answer(wrapper: Buffer, result: ScsiResult): void {
    const expected = wrapper.readUInt32LE(8);
    const failed = result === "stall" || "sense" in result;
    if (result !== "stall" && "sense" in result) sense = result.sense;
    const data = result !== "stall" && "data" in result ? result.data.subarray(0, expected) : Buffer.alloc(0);
    const status = Buffer.alloc(13);
    status.write("USBS");
    wrapper.copy(status, 4, 4, 8);
    status.writeUInt32LE(isIn(wrapper) ? expected - data.length : 0, 8);
    status[12] = failed ? 1 : 0;
    // Either way the host asks for the status next: a halted endpoint it clears before.
    if (result === "stall") toHost.halt();
    else if (isIn(wrapper) && expected > 0) toHost.send(data);
    toHost.send(status);
  }

  function execute(cdb: Buffer, data: Buffer): ScsiResult {
    const operation = cdb.readUInt8(0);
    const own = options.command?.(cdb, data);
    if (operation !== scsi.testUnitReady && operation !== scsi.requestSense) commands.push(operation);
    if (own !== undefined) return own;
    const nothing = { data: Buffer.alloc(0) };
    if (operation === scsi.inquiry)
      return (cdb.readUInt8(1) & 1) === 0 ? { data: inquiry() } : refuse(senses.invalidCommand);
    if (operation === scsi.requestSense) {
      const reported = { data: fixedSense(sense) };
      sense = senses.none;
      return reported;
    }
    if (operation === scsi.preventRemoval || operation === scsi.startStop) return nothing;
    if (card === undefined) return refuse(senses.mediumNotPresent);
    if (isNew) {
      isNew = false;
      return refuse(senses.mediumMayHaveChanged);
    }
    const { medium, writeProtected } = card;
    switch (operation) {
      case scsi.testUnitReady:
      case scsi.synchronizeCache:
        return nothing;
      case scsi.readCapacity10: {
        const capacity = Buffer.alloc(8);
        capacity.writeUInt32BE(medium.length / blockBytes - 1, 0);
        capacity.writeUInt32BE(blockBytes, 4);
        return { data: capacity };
      }
      case scsi.modeSense6:
        return { data: Buffer.from([3, 0, writeProtected ? 0x80 : 0, 0]) };
      case scsi.modeSense10:
        return { data: Buffer.from([0, 6, 0, writeProtected ? 0x80 : 0, 0, 0, 0, 0]) };
      case scsi.read10:
      case scsi.write10: {
        const start = cdb.readUInt32BE(2) * blockBytes;
        const end = start + cdb.readUInt16BE(7) * blockBytes;
        if (end > medium.length) return refuse(senses.outOfRange);
        if (operation === scsi.read10) return { data: medium.subarray(start, end) };
        if (writeProtected) return refuse(senses.writeProtected);
        data.copy(medium, start);
        return nothing;
      }
      default:
        return refuse(senses.invalidCommand);
    }
  }

  function inquiry(): Buffer {
    const bytes = Buffer.alloc(36, " ");
    const [disk, removable, spc2, format] = [0, 0x80, 4, 2];
    bytes.set([disk, removable, spc2, format, bytes.length - 5, 0, 0, 0]);
    bytes.write(vendor.slice(0, 8), 8, "latin1");
    bytes.write(product.slice(0, 16), 16, "latin1");
    bytes.write(revision.slice(0, 4), 32, "latin1");
    return bytes;
  }

  return {
    interfaces: () => [{ class: 0x08, subclass: 0x06, protocol: 0x50, endpoints: [toHost, fromHost] }],
    control({ requestType, request }) {
      if (requestType === 0xa1 && request === 0xfe) return Buffer.from([0]); // Get Max LUN
      if (requestType !== 0x21 || request !== 0xff) return undefined; // Bulk-Only Mass Storage Reset
      open = undefined;
      return Buffer.alloc(0);
    },
    reset: () => (open = undefined),
    get medium() {
      return card?.medium;
    },
    insert(medium, { writeProtected = false } = {}) {
      card = { medium, writeProtected };
      isNew = true;
    },
    eject: () => (card = undefined),
    commands,
  };
}

const refuse = (sense: Sense): ScsiResult => ({ sense });
const isIn = (wrapper: Buffer) => (wrapper.readUInt8(12) & 0x80) !== 0;

function fixedSense([key, code, qualifier]: Sense): Buffer {
  const bytes = Buffer.alloc(18);
  bytes.set([0x70, 0, key], 0);
  bytes[7] = 10;
  bytes.set([code, qualifier], 12);
  return bytes;
}
