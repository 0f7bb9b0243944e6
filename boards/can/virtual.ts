import { AgentError } from "../../agent/driver/errors.ts";
import type { CanBus, CanFrame } from "./bus.ts";

/** The buses of a process that lead nowhere else, by channel: what python-can calls `interface: virtual`. */
export interface VirtualBuses {
  attach(channel: string | number | null, receivesOwn?: boolean): CanBus;
}

export function createVirtualBuses(): VirtualBuses {
  const channels = new Map<string | number | null, Channel>();
  return {
    attach(channel, receivesOwn = false) {
      let found = channels.get(channel);
      if (found === undefined) channels.set(channel, (found = createChannel(channel, () => channels.delete(channel))));
      return found.attach(receivesOwn);
    },
  };
}

interface Channel {
  attach(receivesOwn: boolean): CanBus;
}

function createChannel(channel: string | number | null, onUnused: () => void): Channel {
  const ends = new Set<VirtualBus>();
  const inFlight: { readonly from: VirtualBus; readonly frame: CanFrame }[] = [];
  let delivering = false;

  /** What a listener sends while it is told of a frame waits until all others have that frame: the bus has one order. */
  const deliver = (from: VirtualBus, frame: CanFrame) => {
    inFlight.push({ from, frame });
    if (delivering) return;
    delivering = true;
    try {
      for (let next = inFlight.shift(); next !== undefined; next = inFlight.shift()) {
        for (const end of [...ends]) {
          const own = end === next.from;
          if (!own || end.receivesOwn) end.receive(copyOf(next.frame, channel, own));
        }
      }
    } finally {
      delivering = false;
    }
  };

  return {
    attach(receivesOwn) {
      const end = new VirtualBus(channel, receivesOwn, deliver, () => {
        ends.delete(end);
        if (ends.size === 0) onUnused();
      });
      ends.add(end);
      return end;
    },
  };
}

function copyOf(frame: CanFrame, channel: CanFrame["channel"], sentHere: boolean): CanFrame {
  return { ...frame, data: Uint8Array.from(frame.data), timestampS: Date.now() / 1000, channel, sentHere };
}

class VirtualBus implements CanBus {
  readonly channelInfo: string;
  readonly fd = true;
  readonly lostFrames = 0;
  readonly receivesOwn: boolean;
  readonly #listeners = new Set<(frame: CanFrame) => void>();
  readonly #deliver: (from: VirtualBus, frame: CanFrame) => void;
  readonly #leave: () => void;
  #closed = false;

  constructor(
    channel: CanFrame["channel"],
    receivesOwn: boolean,
    deliver: (from: VirtualBus, frame: CanFrame) => void,
    leave: () => void,
  ) {
    this.channelInfo = `Virtual bus channel ${channel ?? "None"}`;
    this.receivesOwn = receivesOwn;
    this.#deliver = deliver;
    this.#leave = leave;
  }

  async send(frame: CanFrame): Promise<void> {
    if (this.#closed) throw new AgentError("E_FAILED", "Cannot operate on a closed bus");
    this.#deliver(this, frame);
  }

  receive(frame: CanFrame): void {
    for (const listener of [...this.#listeners]) if (this.#listeners.has(listener)) listener(frame);
  }

  listen(onFrame: (frame: CanFrame) => void): () => void {
    const listener = (frame: CanFrame) => onFrame(frame);
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  async state(): Promise<"error-active"> {
    return "error-active";
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#listeners.clear();
    this.#leave();
  }
}
