import type { FileHandle } from "node:fs/promises";
import { AgentError } from "../../agent/driver/errors.ts";
import { toNetascii } from "./netascii.ts";

/** The bytes of one transfer, in order. */
export interface Payload {
  /** What is still to come; undefined while nobody knows. */
  readonly remainingBytes: number | undefined;
  /** Fills the targets one after the other. @returns how many bytes that were; fewer than there is room for: the end. */
  fill(targets: readonly Buffer[]): Promise<number>;
}

/** A file as it is, read into place without a copy in between. */
export class OctetPayload implements Payload {
  readonly #file: FileHandle;
  readonly #sizeBytes: number;
  #position = 0;

  /** @param sizeBytes how much of the file is sent; what is appended later is not */
  constructor(file: FileHandle, sizeBytes: number) {
    this.#file = file;
    this.#sizeBytes = sizeBytes;
  }

  get remainingBytes(): number {
    return this.#sizeBytes - this.#position;
  }

  async fill(targets: readonly Buffer[]): Promise<number> {
    let wanted = 0;
    const left: Buffer[] = [];
    for (const target of targets) {
      const bytes = Math.min(target.length, this.remainingBytes - wanted);
      if (bytes === 0) break;
      left.push(bytes === target.length ? target : target.subarray(0, bytes));
      wanted += bytes;
    }
    for (let filled = 0; filled < wanted;) {
      const { bytesRead } = await this.#file.readv(left, this.#position);
      if (bytesRead === 0) throw new AgentError("E_IO", "the file became shorter while it was sent");
      filled += bytesRead;
      this.#position += bytesRead;
      if (filled < wanted) dropFront(left, bytesRead);
    }
    return wanted;
  }
}

/** Takes as many bytes off the front of a list of buffers. */
function dropFront(buffers: Buffer[], count: number): void {
  let [whole, dropped] = [0, 0];
  for (const { length } of buffers) {
    if (dropped + length > count) break;
    dropped += length;
    whole += 1;
  }
  buffers.splice(0, whole);
  const [first] = buffers;
  if (first !== undefined) buffers[0] = first.subarray(count - dropped);
}

/** A text file, its line ends translated on the way. */
export class NetasciiPayload implements Payload {
  readonly #octets: OctetPayload;
  readonly #buffer = Buffer.allocUnsafeSlow(32 * 1024);
  #translated: Buffer = Buffer.alloc(0);

  constructor(octets: OctetPayload) {
    this.#octets = octets;
  }

  get remainingBytes(): undefined {
    return undefined;
  }

  async fill(targets: readonly Buffer[]): Promise<number> {
    let filled = 0;
    for (const target of targets) {
      for (let at = 0; at < target.length;) {
        if (this.#translated.length === 0) {
          const bytes = await this.#octets.fill([this.#buffer]);
          if (bytes === 0) return filled;
          this.#translated = toNetascii(this.#buffer.subarray(0, bytes));
        }
        const copied = this.#translated.copy(target, at);
        this.#translated = this.#translated.subarray(copied);
        at += copied;
        filled += copied;
      }
    }
    return filled;
  }
}
