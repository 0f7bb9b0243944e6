/**
 * A record of a console: entries, one after the other, in files that `grep -a` can read as well.
 *
 * An entry is a header line, its payload and a newline: `RS SEQ WALL MONOTONIC KIND LENGTH LF payload LF`, all numbers decimal.
 * RS (0x1e) begins records in JSON text sequences (RFC 7464), too; consoles do not print it.
 */

/** When something happened: µs since 1970, and µs of CLOCK_MONOTONIC, which no clock setting moves. */
export interface Moment {
  readonly wallUs: number;
  readonly monotonicUs: number;
}

/** What the board printed (`o`), or what happened around it (`m`, JSON). */
export type EntryKind = "o" | "m";

export interface Entry extends Moment {
  /** Counts all entries of a record, over files and restarts. */
  readonly seq: number;
  readonly kind: EntryKind;
  readonly payload: Uint8Array;
}

const RS = 0x1e;
const LF = 0x0a;
/** Four numbers of up to 16 digits and what lies between them. */
const longestHeaderBytes = 80;
/** Nobody writes longer ones: a longer length is damage. */
export const longestPayloadBytes = 1024 * 1024;

const headerPattern = /^(\d{1,15}) (\d{1,16}) (\d{1,16}) ([om]) (\d{1,7})$/;

export function encodeEntry({ seq, wallUs, monotonicUs, kind, payload }: Entry): Buffer {
  const header = `\x1e${seq} ${wallUs} ${monotonicUs} ${kind} ${payload.length}\n`;
  const bytes = Buffer.allocUnsafe(header.length + payload.length + 1);
  bytes.write(header, 0, "latin1");
  bytes.set(payload, header.length);
  bytes[bytes.length - 1] = LF;
  return bytes;
}

/** Takes a record in pieces of any size. What is damaged is left out, up to the next entry. */
export class EntryDecoder {
  #rest: Buffer = Buffer.alloc(0);
  #taken = 0;
  /** Bytes up to and with the last good entry. */
  goodBytes = 0;
  damagedBytes = 0;

  push(chunk: Uint8Array): Entry[] {
    this.#rest = this.#rest.length === 0 ? Buffer.from(chunk) : Buffer.concat([this.#rest, chunk]);
    const entries: Entry[] = [];
    for (;;) {
      const found = this.#next();
      if (found === undefined) return entries;
      if (found !== "damaged") entries.push(found);
    }
  }

  #next(): Entry | "damaged" | undefined {
    const rest = this.#rest;
    if (rest.length === 0) return undefined;
    if (rest[0] !== RS) return this.#skip();
    const end = rest.subarray(0, longestHeaderBytes).indexOf(LF);
    if (end === -1) return rest.length < longestHeaderBytes ? undefined : this.#skip();
    const header = headerPattern.exec(rest.toString("latin1", 1, end));
    const length = Number(header?.[5]);
    if (header === null || length > longestPayloadBytes) return this.#skip();
    const whole = end + 1 + length + 1;
    if (rest.length < whole) return undefined;
    if (rest[whole - 1] !== LF) return this.#skip();
    this.#take(whole);
    this.goodBytes = this.#taken;
    return {
      seq: Number(header[1]),
      wallUs: Number(header[2]),
      monotonicUs: Number(header[3]),
      kind: header[4] as EntryKind,
      payload: rest.subarray(end + 1, whole - 1),
    };
  }

  /** To where the next entry may begin. */
  #skip(): "damaged" {
    const next = this.#rest.indexOf(RS, 1);
    const count = next === -1 ? this.#rest.length : next;
    this.damagedBytes += count;
    this.#take(count);
    return "damaged";
  }

  #take(count: number): void {
    this.#taken += count;
    this.#rest = this.#rest.subarray(count);
  }
}
