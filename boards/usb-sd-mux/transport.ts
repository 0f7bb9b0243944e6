import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { AgentError, DeviceOffline } from "../../agent/driver/errors.ts";
import { openScsi, type ScsiDevice } from "../../agent/sys/sg-io.ts";
import { describeUsb, listUsbDevices, nodesBelow, type UsbDevice } from "../../agent/sys/usb-devices.ts";
import { chooseDevice, matchDevices, type Fingerprint, type Wanted } from "../usb/match.ts";
import * as protocol from "./protocol.ts";

/** The bare card reader; it is a mux by its SCSI model. */
const prints: readonly Fingerprint[] = [{ name: "USB-SD-Mux", vendorId: 0x0424, productId: 0x4041 }];

const commandTimeoutMs = 3_000;
const CHECK_CONDITION = 2;
/** A card that was just connected is not ready at once. */
const cardTries = 6;
const cardTryAgainMs = 500;

export interface FoundMux {
  readonly device: UsbDevice;
  readonly kind: protocol.Kind;
  /** `sg1` */
  readonly sg: string;
}

/** All that are plugged in. */
export async function listMuxes(sysRoot = "/sys"): Promise<FoundMux[]> {
  const readers = matchDevices(await listUsbDevices(sysRoot), prints);
  const muxes = await Promise.all(
    readers.map(async ({ device }) => {
      const [sg] = await nodesBelow(device, "scsi_generic");
      if (sg === undefined) return undefined;
      const model = await readFile(join(sysRoot, "class/scsi_generic", sg, "device/model"), "utf8").catch(() => "");
      const kind = protocol.kindOf(model);
      return kind === undefined ? undefined : { device, kind, sg };
    }),
  );
  return muxes.filter((mux) => mux !== undefined);
}

/** @throws DeviceOffline when it is not plugged in, or several may be meant */
export async function findMux(wanted: Wanted, sysRoot?: string): Promise<FoundMux> {
  const muxes = await listMuxes(sysRoot);
  const devices = muxes.map(({ device }) => device);
  if (muxes.length === 0) {
    const readers = matchDevices(await listUsbDevices(sysRoot), prints).map(({ device }) => describeUsb(device));
    const instead = readers.length === 0 ? "" : `; ${readers.join(" and ")} has no SCSI generic device of one`;
    throw new DeviceOffline(`failed to find USB-SD-Mux device (checked 0424:4041)${instead}`, {
      hint: "the kernel needs the modules usb-storage and sg",
    });
  }
  const { device } = chooseDevice(devices, prints, wanted, "USB-SD-Mux");
  return muxes.find((mux) => mux.device === device) as FoundMux;
}

/** The expander of one mux, for the time of a few commands. */
class MuxLink {
  readonly #scsi: ScsiDevice;
  readonly #kind: protocol.Kind;
  readonly #name: string;

  constructor(scsi: ScsiDevice, { kind, device }: FoundMux) {
    this.#scsi = scsi;
    this.#kind = kind;
    this.#name = describeUsb(device);
  }

  get #address(): number {
    return protocol.expanders[this.#kind].address;
  }

  async #read(register: number): Promise<number> {
    const cdb = protocol.i2cWriteRead(this.#address, [register], 1);
    const { status, hostStatus, data } = await this.#scsi.command(cdb, protocol.i2cBufferBytes, commandTimeoutMs);
    const [value] = data;
    if (status !== 0 || hostStatus !== 0 || value === undefined) throw this.#refused("read", status, hostStatus);
    return value;
  }

  async #write(register: number, value: number): Promise<void> {
    const { cdb, data } = protocol.i2cWrite(this.#address, [register, value]);
    const { status, hostStatus } = await this.#scsi.command(cdb, data, commandTimeoutMs);
    if (status !== 0 || hostStatus !== 0) throw this.#refused("write", status, hostStatus);
  }

  #refused(what: string, status: number, hostStatus: number): AgentError {
    const answer = hostStatus === 0 ? `SCSI status ${status}` : `host status ${hostStatus}`;
    return new AgentError("E_IO", `${what} of the expander of ${this.#name} failed: ${answer}`);
  }

  /** The levels that the chip drives; pins that nobody has made outputs are where the pull resistors have them. */
  async mode(): Promise<protocol.Mode> {
    const register = this.#kind === "fast" ? protocol.registers.input : protocol.registers.output;
    return protocol.modeOf(this.#kind, await this.#read(register));
  }

  async switchTo(mode: protocol.Mode, signal: AbortSignal): Promise<void> {
    const { output, direction } = protocol.registers;
    const directions = await this.#read(direction);
    let isDriven = (directions & protocol.cardPins) === 0;
    if (this.#kind === "fast" && directions === protocol.allInputs) {
      // Since power-on nobody has switched it: first the pins are driven as the pull resistors have them, and the board keeps its card.
      await this.#write(output, protocol.levelsAtPowerOn(this.#kind));
      await this.#write(direction, directions & ~protocol.cardPins);
      isDriven = true;
    }
    if (isDriven && (await this.mode()) === mode) return;
    const { cut, then } = protocol.levelsFor(this.#kind, mode);
    await this.#setCardPins(cut);
    if (!isDriven) await this.#write(direction, directions & ~protocol.cardPins & 0xff);
    if (then.length > 0) {
      await sleep(protocol.supplyFallMs, undefined, { signal });
      for (const levels of then) await this.#setCardPins(levels);
    }
    const now = await this.mode();
    if (now === mode) return;
    throw new AgentError("E_IO", `${this.#name} did not switch to ${mode}: the card is still at ${now}`);
  }

  async #setCardPins(levels: number): Promise<void> {
    const { output } = protocol.registers;
    const others = this.#kind === "fast" ? (await this.#read(output)) & ~protocol.cardPins : 0;
    await this.#write(output, others | levels);
  }

  /** What the card says of itself; undefined if it says nothing sensible. It must be at the host. */
  async card(signal: AbortSignal): Promise<string | undefined> {
    const cid = protocol.decodeCid(await this.#cardRegister("cid", signal));
    if (cid === undefined) return undefined;
    const capacityBytes = protocol.decodeCapacityBytes(await this.#cardRegister("csd", signal));
    const capacity = capacityBytes === undefined ? "" : `, ${(capacityBytes / 1e9).toFixed(2)} GB`;
    return protocol.describeCard(cid) + capacity;
  }

  async #cardRegister(register: "cid" | "csd", signal: AbortSignal): Promise<Buffer> {
    const cdb = protocol.readCardRegister(register);
    for (let tries = 1; ; tries += 1) {
      const { status, hostStatus, data } = await this.#scsi.command(cdb, protocol.cardRegisterBytes, commandTimeoutMs);
      if (status === 0 && hostStatus === 0) return data;
      if (status !== CHECK_CONDITION || tries === cardTries) throw this.#refused(register, status, hostStatus);
      await sleep(cardTryAgainMs, undefined, { signal });
    }
  }
}

/** @throws DeviceOffline, AgentError E_IO naming the device */
export async function withMux<T>(mux: FoundMux, use: (link: MuxLink) => Promise<T>): Promise<T> {
  const scsi = await openScsi(`/dev/${mux.sg}`, describeUsb(mux.device));
  try {
    return await use(new MuxLink(scsi, mux));
  } finally {
    await scsi.close();
  }
}
