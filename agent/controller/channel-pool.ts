import type { TcpAddress } from "../client/address.ts";
import { Channel, type ChannelOptions } from "../client/channel.ts";

export interface Acquired {
  readonly channel: Channel;
  /** Has to be called once nothing is called on the channel any more; a second time does nothing. */
  readonly release: () => void;
}

/** A channel that nobody uses is kept this long: the next call or tunnel often follows at once. */
const keptMs = 5_000;

/** The connections of all exporters of the process: those that go to one place, in one way, share one. */
export class ChannelPool {
  readonly #keptMs: number;
  readonly #channels = new Map<string, { channel: Channel; users: number; closing: NodeJS.Timeout | undefined }>();

  constructor(options: { readonly keptMs?: number } = {}) {
    this.#keptMs = options.keptMs ?? keptMs;
  }

  get size(): number {
    return this.#channels.size;
  }

  acquire(address: TcpAddress, options: ChannelOptions): Acquired {
    const key = keyOf(address, options);
    const entry = this.#channels.get(key) ?? { channel: new Channel(address, options), users: 0, closing: undefined };
    this.#channels.set(key, entry);
    entry.users += 1;
    clearTimeout(entry.closing);
    let held = true;
    return {
      channel: entry.channel,
      release: () => {
        if (!held) return;
        held = false;
        entry.users -= 1;
        if (entry.users > 0) return;
        entry.closing = setTimeout(() => {
          this.#channels.delete(key);
          void entry.channel.close();
        }, this.#keptMs);
      },
    };
  }

  /** Closes all, also those in use. */
  async close(): Promise<void> {
    const entries = [...this.#channels.values()];
    this.#channels.clear();
    for (const { closing } of entries) clearTimeout(closing);
    await Promise.all(entries.map(({ channel }) => channel.close()));
  }
}

function keyOf({ host, port }: TcpAddress, options: ChannelOptions): string {
  const { ca, ...rest } = options;
  return JSON.stringify([host, port, ca?.toString(), Object.entries(rest).sort()]);
}
