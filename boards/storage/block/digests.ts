import { Worker } from "node:worker_threads";

/** A part of memory or of a disk: bytes from `start` up to, but not including, `end`. */
export interface Part {
  readonly start: number;
  readonly end: number;
}

/** What is known of a group of parts. */
export interface Digested {
  /** SHA-256 of all parts up to the end of this group, in hex: two that are equal vouch for everything until there. */
  readonly until: string;
  /** CRC-32 of the group's own parts, one after the other; 0 where it was not asked for. */
  readonly checksum: number;
}

/** Plain text, so that it runs from wherever the agent was built to. */
const program = `
const { parentPort } = require("node:worker_threads");
const { createHash } = require("node:crypto");
const { crc32 } = require("node:zlib");
let whole = createHash("sha256");
parentPort.on("message", (request) => {
  if (request === null) {
    parentPort.postMessage(whole.digest("hex"));
    whole = createHash("sha256");
    return;
  }
  parentPort.postMessage(request.groups.map((parts) => {
    let checksum = 0;
    for (const { start, end } of parts) {
      const part = Buffer.from(request.memory, start, end - start);
      whole.update(part);
      if (request.withChecksums) checksum = crc32(part, checksum);
    }
    return { until: whole.copy().digest("hex"), checksum };
  }));
});
`;

interface Waiting {
  readonly resolve: (answer: unknown) => void;
  readonly reject: (error: unknown) => void;
}

/**
 * Digests on a thread of their own: at the speed of a fast disk they take most of a core, which the consoles of other drivers need.
 * Whoever makes one closes it.
 */
export class Digests {
  readonly #worker: Worker;
  readonly #waiting: Waiting[] = [];
  #broken: Error | undefined;

  constructor() {
    this.#worker = new Worker(program, { eval: true, execArgv: [], env: {} });
    this.#worker.on("message", (answer) => this.#waiting.shift()?.resolve(answer));
    this.#worker.on("error", (error: Error) => {
      this.#broken = error;
      for (const { reject } of this.#waiting.splice(0)) reject(error);
    });
  }

  /**
   * Takes the parts into the whole, one after the other.
   * @param memory shared, and left as it is until then
   * @param withChecksums also of each group by itself
   * @returns one for each group of parts
   */
  update(
    memory: Buffer,
    groups: readonly (readonly Part[])[],
    { withChecksums = false }: { readonly withChecksums?: boolean } = {},
  ): Promise<Digested[]> {
    const shift = memory.byteOffset;
    const moved = groups.map((parts) => parts.map(({ start, end }) => ({ start: start + shift, end: end + shift })));
    return this.#ask({ memory: memory.buffer, groups: moved, withChecksums }) as Promise<Digested[]>;
  }

  /** SHA-256 of all parts, in hex. Those that come after that are another whole. */
  sha256(): Promise<string> {
    return this.#ask(null) as Promise<string>;
  }

  async close(): Promise<void> {
    await this.#worker.terminate();
  }

  #ask(request: unknown): Promise<unknown> {
    return new Promise((resolve, reject) => {
      if (this.#broken !== undefined) throw this.#broken;
      this.#waiting.push({ resolve, reject });
      this.#worker.postMessage(request);
    });
  }
}
