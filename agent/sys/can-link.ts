import { readAttributes, textOf, uint32, writeAttribute } from "./netlink-messages.ts";

/** What netlink says of CAN interfaces (linux/if_link.h, linux/can/netlink.h), as bytes; pure. */

/** struct ifinfomsg */
export const ifinfomsg = { bytes: 16, ifi_type: 2, ifi_index: 4, ifi_flags: 8, ifi_change: 12 } as const;
export const canStructures = {
  can_bittiming: { bytes: 32, bitrate: 0, sample_point: 4 },
  can_ctrlmode: { bytes: 8, mask: 0, flags: 4 },
  can_berr_counter: { bytes: 4, txerr: 0, rxerr: 2 },
  can_device_stats: {
    bytes: 24,
    bus_error: 0,
    error_warning: 4,
    error_passive: 8,
    bus_off: 12,
    arbitration_lost: 16,
    restarts: 20,
  },
} as const;

/** linux/if_arp.h: the interface speaks CAN. */
const ARPHRD_CAN = 280;
const [IFF_UP, IFF_RUNNING] = [0x1, 0x40];
const [IFLA_IFNAME, IFLA_MTU, IFLA_LINKINFO] = [3, 4, 18];
const [IFLA_INFO_KIND, IFLA_INFO_DATA, IFLA_INFO_XSTATS] = [1, 2, 3];
const [IFLA_CAN_BITTIMING, IFLA_CAN_STATE, IFLA_CAN_CTRLMODE, IFLA_CAN_RESTART_MS, IFLA_CAN_RESTART] = [1, 4, 5, 6, 7];
const [IFLA_CAN_BERR_COUNTER, IFLA_CAN_DATA_BITTIMING] = [8, 9];
const CAN_CTRLMODE_LISTENONLY = 0x02;
const CAN_CTRLMODE_FD = 0x20;

/** enum can_state */
export const canStates = ["ERROR-ACTIVE", "ERROR-WARNING", "ERROR-PASSIVE", "BUS-OFF", "STOPPED", "SLEEPING"] as const;

/** A controller; vcan and the like have none. */
export interface CanController {
  readonly state: (typeof canStates)[number];
  /** Bits a second; 0 while none is set. */
  readonly bitrate: number;
  /** Of the data of FD frames; 0 while none is set. */
  readonly dataBitrate: number;
  /** Between 0 and 1. */
  readonly samplePoint: number;
  readonly fd: boolean;
  readonly listenOnly: boolean;
  /** How long after bus-off the kernel starts it again; 0: never. */
  readonly restartMs: number;
  /** Error counters of ISO 11898-1; undefined where the driver does not tell them. */
  readonly sendErrors: number | undefined;
  readonly receiveErrors: number | undefined;
  /** How often it has happened since the interface is there. */
  readonly busErrors: number;
  readonly busOffs: number;
  readonly restarts: number;
}

export interface CanLink {
  readonly index: number;
  readonly name: string;
  readonly up: boolean;
  /** Can be sent on: not while bus-off. */
  readonly running: boolean;
  /** 16: classic CAN, 72: CAN FD. */
  readonly mtuBytes: number;
  /** `can` has a controller; `vcan`, `vxcan`, `slcan` have not. */
  readonly kind: string | undefined;
  readonly controller: CanController | undefined;
}

/** @param body what follows the header of RTM_NEWLINK. @returns undefined for what is no CAN interface */
export function readCanLink(body: Buffer): CanLink | undefined {
  if (body.length < ifinfomsg.bytes || body.readUInt16LE(ifinfomsg.ifi_type) !== ARPHRD_CAN) return undefined;
  const attributes = readAttributes(body.subarray(ifinfomsg.bytes));
  const name = textOf(attributes.get(IFLA_IFNAME));
  if (name === undefined) return undefined;
  const info = readAttributes(attributes.get(IFLA_LINKINFO) ?? Buffer.alloc(0));
  const kind = textOf(info.get(IFLA_INFO_KIND));
  const data = info.get(IFLA_INFO_DATA);
  const flags = body.readUInt32LE(ifinfomsg.ifi_flags);
  return {
    index: body.readInt32LE(ifinfomsg.ifi_index),
    name,
    up: (flags & IFF_UP) !== 0,
    running: (flags & IFF_RUNNING) !== 0,
    mtuBytes: number32(attributes.get(IFLA_MTU), 0) ?? 0,
    kind,
    controller: kind === "can" && data !== undefined ? readController(data, info.get(IFLA_INFO_XSTATS)) : undefined,
  };
}

function readController(data: Buffer, statistics: Buffer | undefined): CanController {
  const attributes = readAttributes(data);
  const { can_bittiming, can_ctrlmode, can_berr_counter, can_device_stats } = canStructures;
  const timing = attributes.get(IFLA_CAN_BITTIMING);
  const counters = attributes.get(IFLA_CAN_BERR_COUNTER);
  const known = counters !== undefined && counters.length >= can_berr_counter.bytes;
  const modes = number32(attributes.get(IFLA_CAN_CTRLMODE), can_ctrlmode.flags) ?? 0;
  return {
    state: canStates[number32(attributes.get(IFLA_CAN_STATE), 0) ?? -1] ?? "STOPPED",
    bitrate: number32(timing, can_bittiming.bitrate) ?? 0,
    dataBitrate: number32(attributes.get(IFLA_CAN_DATA_BITTIMING), can_bittiming.bitrate) ?? 0,
    samplePoint: (number32(timing, can_bittiming.sample_point) ?? 0) / 1000,
    fd: (modes & CAN_CTRLMODE_FD) !== 0,
    listenOnly: (modes & CAN_CTRLMODE_LISTENONLY) !== 0,
    restartMs: number32(attributes.get(IFLA_CAN_RESTART_MS), 0) ?? 0,
    sendErrors: known ? counters.readUInt16LE(can_berr_counter.txerr) : undefined,
    receiveErrors: known ? counters.readUInt16LE(can_berr_counter.rxerr) : undefined,
    busErrors: number32(statistics, can_device_stats.bus_error) ?? 0,
    busOffs: number32(statistics, can_device_stats.bus_off) ?? 0,
    restarts: number32(statistics, can_device_stats.restarts) ?? 0,
  };
}

function number32(value: Buffer | undefined, at: number): number | undefined {
  return value !== undefined && value.length >= at + 4 ? value.readUInt32LE(at) : undefined;
}

/** What can be changed. Bit rates and modes only while the interface is down. */
export interface CanLinkChange {
  readonly up?: boolean | undefined;
  readonly bitrate?: number | undefined;
  readonly samplePoint?: number | undefined;
  readonly dataBitrate?: number | undefined;
  readonly dataSamplePoint?: number | undefined;
  readonly fd?: boolean | undefined;
  readonly listenOnly?: boolean | undefined;
  readonly restartMs?: number | undefined;
  /** Ends bus-off now. */
  readonly restart?: true | undefined;
}

/** What follows the header of RTM_NEWLINK to change this interface. */
export function writeCanLinkChange(index: number, change: CanLinkChange): Buffer {
  const head = Buffer.alloc(ifinfomsg.bytes);
  head.writeInt32LE(index, ifinfomsg.ifi_index);
  if (change.up !== undefined) {
    head.writeUInt32LE(change.up ? IFF_UP : 0, ifinfomsg.ifi_flags);
    head.writeUInt32LE(IFF_UP, ifinfomsg.ifi_change);
  }
  const data: Buffer[] = [];
  if (change.bitrate !== undefined) {
    data.push(writeAttribute(IFLA_CAN_BITTIMING, timing(change.bitrate, change.samplePoint)));
  }
  if (change.dataBitrate !== undefined) {
    data.push(writeAttribute(IFLA_CAN_DATA_BITTIMING, timing(change.dataBitrate, change.dataSamplePoint)));
  }
  const modes = [
    [CAN_CTRLMODE_FD, change.fd],
    [CAN_CTRLMODE_LISTENONLY, change.listenOnly],
  ] as const;
  const mask = modes.reduce((bits, [bit, wanted]) => bits | (wanted === undefined ? 0 : bit), 0);
  const flags = modes.reduce((bits, [bit, wanted]) => bits | (wanted === true ? bit : 0), 0);
  if (mask !== 0) data.push(writeAttribute(IFLA_CAN_CTRLMODE, uint32(mask), uint32(flags)));
  if (change.restartMs !== undefined) data.push(writeAttribute(IFLA_CAN_RESTART_MS, uint32(change.restartMs)));
  if (change.restart === true) data.push(writeAttribute(IFLA_CAN_RESTART, uint32(1)));
  if (data.length === 0) return head;
  const info = [writeAttribute(IFLA_INFO_KIND, Buffer.from("can")), writeAttribute(IFLA_INFO_DATA, ...data)];
  return Buffer.concat([head, writeAttribute(IFLA_LINKINFO, ...info)]);
}

/** The kernel calculates the rest. A sample point of 0 lets it choose one, too. */
function timing(bitrate: number, samplePoint = 0): Buffer {
  const { can_bittiming } = canStructures;
  const bytes = Buffer.alloc(can_bittiming.bytes);
  bytes.writeUInt32LE(bitrate, can_bittiming.bitrate);
  bytes.writeUInt32LE(Math.round(samplePoint * 1000), can_bittiming.sample_point);
  return bytes;
}
