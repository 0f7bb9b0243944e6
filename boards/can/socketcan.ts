import { setTimeout as sleep } from "node:timers/promises";
import type { Finding } from "../../agent/driver/driver.ts";
import { AgentError, DeviceOffline, toAgentError } from "../../agent/driver/errors.ts";
import type { Logger } from "../../agent/driver/log.ts";
import type { CanController, CanLink } from "../../agent/sys/can-link.ts";
import { loadCan, type CanSocket } from "../../agent/sys/can.ts";
import { systemError } from "../../agent/sys/native.ts";
import { loadCanLinks, type CanLinks } from "../../agent/sys/rtnetlink.ts";
import type { CanBus, CanFilter, CanFrame, CanSendOptions, CanState } from "./bus.ts";
import { describeLink, downHint, findLink, prepareLink, restartLink, type LinkSettings } from "./link.ts";
import {
  busOffBy,
  decodeFrame,
  describeError,
  encodeFilters,
  encodeFrame,
  fdBytes,
  filtersLimit,
  longestClassicBytes,
} from "./protocol.ts";

export interface SocketCanSettings extends LinkSettings {
  /** Name of the interface. */
  readonly channel: string;
  readonly receiveOwnMessages?: boolean | undefined;
}

/** The longest queue that interfaces have by default, ten frames, is empty in 10 ms at 125 kbit/s if anybody listens. */
const defaultSendTimeoutMs = 1_000;
/** A full queue of an interface is not told by any event (ENOBUFS); a frame takes 0.2 ms at 500 kbit/s, and ten are queued. */
const retryMs = 1;
const [EAGAIN, ENOBUFS, ENXIO, ENODEV, ENETDOWN, EINVAL] = [11, 105, 6, 19, 100, 22];

/**
 * One more socket on a CAN interface of this host. With settings for the link, these hold first.
 * @throws DeviceOffline if the interface is missing or down; AgentError E_CONFIG if it cannot be set up so, E_UNSUPPORTED without CAN
 */
export async function openSocketCan(settings: SocketCanSettings, log: Logger): Promise<CanBus> {
  const [sockets, links] = await Promise.all([loadCan(), loadCanLinks()]);
  const { channel } = settings;
  const link = prepareLink(links, channel, settings, log);
  const fd = settings.fd ?? link.mtuBytes >= fdBytes;
  if (fd && link.mtuBytes < fdBytes) {
    throw new AgentError("E_CONFIG", `CAN interface ${channel} is set up for classic CAN only`, {
      hint: "give the driver a dbitrate, or leave out fd",
    });
  }
  const receiveOwn = settings.receiveOwnMessages ?? false;
  const socket = sockets.open({ interfaceIndex: link.index, fd, loopback: true, receiveOwn });
  return new SocketCanBus(channel, fd, socket, links, link.controller?.state === "BUS-OFF", log);
}

/** Looks whether an interface is there and up. @throws DeviceOffline */
export async function checkInterface(name: string): Promise<void> {
  const link = findLink(await loadCanLinks(), name);
  if (!link.up) throw new DeviceOffline(`CAN interface ${name} is down`, { hint: downHint(link) });
}

/** What `jmp-agent doctor` says of an interface. */
export async function inspectInterface(name: string): Promise<Finding> {
  try {
    const link = findLink(await loadCanLinks(), name);
    const text = `CAN interface ${describeLink(link)}`;
    if (!link.up) return { ok: false, text, hint: downHint(link) };
    return link.controller?.state === "BUS-OFF" ? { ok: false, text, hint: busOffHint } : { ok: true, text };
  } catch (thrown) {
    const { message, hint } = toAgentError(thrown);
    return { ok: false, text: message, ...(hint === undefined ? {} : { hint }) };
  }
}

/** The CAN interfaces of this host, with what there is to say of them. */
export async function listInterfaces(): Promise<{ name: string; text: string }[]> {
  return (await loadCanLinks())
    .list()
    .map((link) => ({ name: link.name, text: `CAN interface ${describeLink(link)}` }));
}

const busOffHint = "set restart_ms, so that the controller comes back by itself, or call restart";

const states: Record<CanController["state"], CanState> = {
  "ERROR-ACTIVE": "error-active",
  "ERROR-WARNING": "error-warning",
  "ERROR-PASSIVE": "error-passive",
  "BUS-OFF": "bus-off",
  STOPPED: "stopped",
  SLEEPING: "stopped",
};

class SocketCanBus implements CanBus {
  readonly channelInfo: string;
  readonly fd: boolean;
  readonly #name: string;
  readonly #socket: CanSocket;
  readonly #links: CanLinks;
  readonly #log: Logger;
  readonly #listeners = new Set<{ onFrame: (frame: CanFrame) => void; onLost: ((error: Error) => void) | undefined }>();
  /** Aborted with the reason when the bus is lost or closed. */
  readonly #over = new AbortController();
  /** Frames leave one after the other. */
  #turn: Promise<void> | undefined;
  #busOff: boolean;
  #lost: DeviceOffline | undefined;

  constructor(name: string, fd: boolean, socket: CanSocket, links: CanLinks, busOff: boolean, log: Logger) {
    this.#name = name;
    this.channelInfo = `socketcan channel '${name}'`;
    this.fd = fd;
    this.#socket = socket;
    this.#links = links;
    this.#busOff = busOff;
    this.#log = log;
    socket.watch(() => this.#receive());
  }

  get lostFrames(): number {
    return this.#socket.lostFrames;
  }

  async send(frame: CanFrame, options: CanSendOptions = {}): Promise<void> {
    const bytes = this.#encode(frame);
    options.signal?.throwIfAborted();
    if (this.#turn === undefined && this.#trySend(bytes)) return;
    const deadlineMs = performance.now() + (options.timeoutMs ?? defaultSendTimeoutMs);
    const last = this.#turn ?? Promise.resolve();
    const mine = last.then(() => this.#sendBy(bytes, deadlineMs, options.signal));
    const turn = mine.catch(() => {});
    this.#turn = turn;
    void turn.then(() => {
      if (this.#turn === turn) this.#turn = undefined;
    });
    await mine;
  }

  listen(onFrame: (frame: CanFrame) => void, onLost?: (error: Error) => void): () => void {
    const listener = { onFrame, onLost };
    if (this.#lost === undefined) this.#listeners.add(listener);
    else onLost?.(this.#lost);
    return () => this.#listeners.delete(listener);
  }

  setFilters(filters: readonly CanFilter[] | null): void {
    this.#throwIfOver();
    if (filters !== null && filters.length > filtersLimit) {
      throw new AgentError("E_LIMIT", `${this.#name} takes ${filtersLimit} filters, not ${filters.length}`);
    }
    this.#socket.setFilters(encodeFilters(filters));
  }

  async state(): Promise<CanState> {
    const { controller } = this.link();
    return controller === undefined ? "error-active" : states[controller.state];
  }

  link(): CanLink {
    this.#throwIfOver();
    return findLink(this.#links, this.#name);
  }

  restart(): void {
    this.#throwIfOver();
    restartLink(this.#links, this.#name);
  }

  close(): void {
    this.#listeners.clear();
    this.#over.abort(new AgentError("E_FAILED", "Cannot operate on a closed bus"));
    this.#socket.close();
  }

  #throwIfOver(): void {
    this.#over.signal.throwIfAborted();
  }

  #encode(frame: CanFrame): Uint8Array {
    if (frame.fd && !this.fd) {
      throw new AgentError("E_INVALID", `${this.#name} takes classic CAN frames only, and this one is CAN FD`);
    }
    if (!frame.fd && frame.data.length > longestClassicBytes) {
      const text = `${frame.data.length} bytes do not fit into a classic CAN frame, and it is not marked as CAN FD`;
      throw new AgentError("E_INVALID", text);
    }
    try {
      return encodeFrame(frame);
    } catch (error) {
      throw new AgentError("E_INVALID", (error as Error).message, { cause: error });
    }
  }

  async #sendBy(bytes: Uint8Array, deadlineMs: number, signal: AbortSignal | undefined): Promise<void> {
    for (;;) {
      signal?.throwIfAborted();
      if (this.#trySend(bytes)) return;
      if (performance.now() >= deadlineMs) throw new AgentError("E_TIMEOUT", `${this.#name}: Transmit buffer full`);
      await sleep(retryMs);
    }
  }

  /** @returns false if there is no room now */
  #trySend(bytes: Uint8Array): boolean {
    this.#throwIfOver();
    // The kernel would take it and throw it away.
    if (this.#busOff && this.link().controller?.state === "BUS-OFF") {
      throw new AgentError("E_IO", `${this.#name} is bus-off: too many errors when it sent`, { hint: busOffHint });
    }
    const errno = -this.#socket.send(bytes);
    switch (errno) {
      case 0:
        return true;
      case EAGAIN:
      case ENOBUFS:
        return false;
      case ENETDOWN:
        throw this.#lose(this.#down());
      case ENXIO:
      case ENODEV:
        throw this.#lose(this.#gone());
      case EINVAL:
        throw new AgentError("E_INVALID", `${this.#name} does not take this frame`);
      default: {
        const error = toAgentError(systemError(errno, "send"));
        throw new AgentError(error.code, `${this.#name}: ${error.message}`, { cause: error });
      }
    }
  }

  #receive(): void {
    const errno = -this.#socket.receive((bytes, timestampS, sentHere) => {
      const frame = decodeFrame(bytes, { timestampS, channel: this.#name, sentHere });
      if (frame === undefined) return;
      this.#followBusOff(frame);
      for (const listener of [...this.#listeners]) listener.onFrame(frame);
    });
    if (errno === 0) return;
    if (errno === ENETDOWN) this.#lose(this.#down());
    else if (errno === ENODEV || errno === ENXIO) this.#lose(this.#gone());
    else this.#log.warn(`receiving from ${this.#name}: ${systemError(errno, "recvmmsg").message}`);
  }

  #followBusOff(frame: CanFrame): void {
    const off = busOffBy(frame);
    if (off === undefined || off === this.#busOff) return;
    this.#busOff = off;
    if (off) this.#log.warn(`${this.#name}: ${describeError(frame)}`);
    else this.#log.info(`${this.#name} is on the bus again`);
  }

  #down(): DeviceOffline {
    return new DeviceOffline(`CAN interface ${this.#name} is down`);
  }

  #gone(): DeviceOffline {
    return new DeviceOffline(`CAN interface ${this.#name} has gone`);
  }

  #lose(error: DeviceOffline): DeviceOffline {
    if (this.#over.signal.aborted) return this.#lost ?? error;
    this.#lost = error;
    this.#over.abort(error);
    const listeners = [...this.#listeners];
    this.#listeners.clear();
    for (const { onLost } of listeners) onLost?.(error);
    return error;
  }
}
