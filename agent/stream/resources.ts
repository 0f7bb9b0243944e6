import { randomUUID } from "node:crypto";
import { Duplex, type Readable } from "node:stream";
import { AgentError } from "../driver/errors.ts";
import type { CheckedResourceHandle, ContentEncoding } from "../driver/resource.ts";

export interface ResourceOptions {
  /** How long a handle may wait to be used. */
  readonly ttlMs?: number;
  /** How many handles may wait. */
  readonly limit?: number;
}

interface Waiting {
  readonly stream: Readable;
  readonly encoding: ContentEncoding | null;
  readonly expiry: NodeJS.Timeout;
}

/** Byte streams that were lent to calls and not used yet: handle → stream. Each can be taken once. */
export class ResourceTable {
  readonly #ttlMs: number;
  readonly #limit: number;
  readonly #waiting = new Map<string, Waiting>();

  constructor({ ttlMs = 600_000, limit = 256 }: ResourceOptions = {}) {
    this.#ttlMs = ttlMs;
    this.#limit = limit;
  }

  get size(): number {
    return this.#waiting.size;
  }

  /** @param stream a Duplex if it may also be written. @throws AgentError E_LIMIT when too many wait. */
  lend(stream: Readable, encoding: ContentEncoding | null): CheckedResourceHandle {
    if (this.#waiting.size >= this.#limit) {
      throw new AgentError("E_LIMIT", `${this.#limit} resources wait to be used already`);
    }
    const uuid = randomUUID();
    const expiry = setTimeout(() => {
      const error = new AgentError("E_TIMEOUT", `no call used this resource within ${this.#ttlMs / 1000} s`);
      this.#drop(uuid)?.stream.destroy(error);
    }, this.#ttlMs);
    expiry.unref();
    this.#waiting.set(uuid, { stream, encoding, expiry });
    stream.once("close", () => this.#drop(uuid));
    return { kind: "client_stream", uuid, x_jmp_content_encoding: encoding };
  }

  /** Hands out a lent stream. @throws AgentError E_NO_RESOURCE if the handle is unknown or was used. */
  take(uuid: string): { stream: Readable; encoding: ContentEncoding | null } {
    const found = this.#drop(uuid);
    if (found === undefined) throw new AgentError("E_NO_RESOURCE", `UUID('${uuid}')`);
    return found;
  }

  /** A call that was given this handle is over: if it did not use it, nobody will. */
  discard(uuid: string): void {
    const found = this.#drop(uuid);
    if (found === undefined) return;
    endOfUse(found.stream);
  }

  close(): void {
    for (const uuid of [...this.#waiting.keys()]) this.#drop(uuid)?.stream.destroy();
  }

  #drop(uuid: string): Waiting | undefined {
    const found = this.#waiting.get(uuid);
    if (found === undefined) return undefined;
    this.#waiting.delete(uuid);
    clearTimeout(found.expiry);
    return found;
  }
}

/** Ends a lent stream. Its client may send on, unheard; it sees our end and then ends its own side. */
export function endOfUse(stream: Readable): void {
  if (!(stream instanceof Duplex)) {
    stream.destroy();
  } else if (!stream.destroyed) {
    stream.resume();
    stream.end();
  }
}
