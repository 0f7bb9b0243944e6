import { randomUUID } from "node:crypto";
import { AgentError } from "../../agent/driver/errors.ts";
import { anySignal } from "../../agent/sys/any-signal.ts";
import type { Reader, Writer } from "./store/store.ts";

/** More files than any client needs, fewer than a process may have. */
const maxOpen = 128;

/** Of how many closed files it is remembered that they existed. */
const maxRemembered = 4096;

interface OpenReader {
  readonly mode: "rb";
  readonly reader: Reader;
  position: number;
}

interface OpenWriter {
  readonly mode: "wb";
  readonly writer: Writer;
  /** A write has failed: what is there must not be taken for the whole file. */
  isBroken: boolean;
}

type Opened = (OpenReader | OpenWriter) & {
  /** Settles when the operations begun so far have ended. */
  idle: Promise<unknown>;
  readonly closing: AbortController;
};

export type OpenFile = OpenReader | OpenWriter;

/** The files that clients hold open, by the uuid they know them by. */
export class OpenFiles {
  readonly #open = new Map<string, Opened>();
  readonly #closed = new Set<string>();
  #opening = 0;

  /** Opens a file if there is room for one more. */
  async add(open: () => Promise<OpenFile>): Promise<string> {
    if (this.#open.size + this.#opening >= maxOpen) {
      throw new AgentError("E_LIMIT", `${maxOpen} files are open already: close some`);
    }
    this.#opening += 1;
    const opened = await open().finally(() => (this.#opening -= 1));
    const fd = randomUUID();
    this.#open.set(fd, Object.assign(opened, { idle: Promise.resolve(), closing: new AbortController() }));
    return fd;
  }

  /** Undefined for a closed file. @throws AgentError E_FAILED for one that never was */
  get(fd: string): OpenFile | undefined {
    return this.#find(fd);
  }

  /**
   * Runs an operation when those begun before it on this file have ended; closing the file aborts it.
   * `work` gets undefined for a closed file.
   */
  async use<T>(
    fd: string,
    signal: AbortSignal,
    work: (file: OpenFile | undefined, signal: AbortSignal) => Promise<T>,
  ): Promise<T> {
    const file = this.#find(fd);
    if (file === undefined) return work(undefined, signal);
    const ended = file.idle.then(() => {
      const isOpen = this.#open.has(fd);
      return work(isOpen ? file : undefined, anySignal([signal, file.closing.signal]));
    });
    file.idle = ended.catch(() => {});
    return ended;
  }

  /** Idempotent; ends what is under way on the file first. */
  async close(fd: string): Promise<void> {
    const file = this.#find(fd);
    if (file === undefined) return;
    this.#forget(fd);
    file.closing.abort(new AgentError("E_CANCELLED", "the file was closed"));
    await file.idle;
    if (file.mode === "rb") await file.reader.close();
    else if (file.isBroken) await file.writer.abort();
    else await file.writer.close();
  }

  /**
   * Gives up all files, those being written included, and forgets that they were.
   * @throws the first failure, after all have been tried
   */
  async closeAll(): Promise<void> {
    const files = [...this.#open.values()];
    this.#open.clear();
    this.#closed.clear();
    const results = await Promise.allSettled(
      files.map(async (file) => {
        file.closing.abort(new AgentError("E_CANCELLED", "the lease has ended"));
        await file.idle;
        await (file.mode === "rb" ? file.reader.close() : file.writer.abort());
      }),
    );
    const failed = results.find((result) => result.status === "rejected");
    if (failed !== undefined) throw failed.reason;
  }

  #find(fd: string): Opened | undefined {
    const file = this.#open.get(fd);
    if (file === undefined && !this.#closed.has(fd)) {
      throw new AgentError("E_FAILED", `no file was opened as ${fd}`);
    }
    return file;
  }

  #forget(fd: string): void {
    this.#open.delete(fd);
    this.#closed.add(fd);
    for (const oldest of this.#closed) {
      if (this.#closed.size <= maxRemembered) break;
      this.#closed.delete(oldest);
    }
  }
}
