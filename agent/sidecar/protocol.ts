/** What is said on the connections to a side-car's process; host.py has the other half. */
import * as z from "zod";
import { AgentError, type GrpcAnswer } from "../driver/errors.ts";
import { codeOfStatus } from "../driver/status-codes.ts";
import { maxMessageBytes, prefixBytes } from "../stream/rpc-messages.ts";

/** The first byte of each message; host.py says what they mean. */
export const kinds = {
  message: 0x00,
  unary: 0x10,
  streaming: 0x11,
  stream: 0x12,
  done: 0x13,
  metadata: 0x20,
  ended: 0x80,
} as const;

export function message(kind: number, payload: Uint8Array): Buffer {
  const whole = Buffer.allocUnsafe(prefixBytes + payload.length);
  whole[0] = kind;
  whole.writeUInt32BE(payload.length, 1);
  whole.set(payload, prefixBytes);
  return whole;
}

export interface Message {
  readonly kind: number;
  readonly payload: Buffer;
}

/** Beyond what gRPC clients take there is nothing worth to wait for. */
const longest = 64 * maxMessageBytes;

/** Cuts what comes into messages. Chunks may be used again when they are cut. */
export class MessageCutter {
  /** What is there of a message that is kept whole. */
  #kept: Buffer[] = [];
  #have = 0;
  /** What is still to come of a message that is passed on in pieces. */
  #passing = 0;

  /** Whole messages. @throws AgentError E_CONNECTION for one that cannot be meant */
  *cut(chunk: Buffer): Generator<Message, void, undefined> {
    let rest = this.#with(chunk);
    while (rest.length > 0) {
      const end = endOf(rest);
      if (end === undefined || rest.length < end) {
        this.#keep(rest);
        return;
      }
      yield messageOf(rest, end);
      rest = rest.subarray(end);
    }
  }

  /** Messages of the call as they lie in the chunk, with their prefixes; others whole. @throws like `cut` */
  *pass(chunk: Buffer): Generator<Message | { readonly bytes: Buffer }, void, undefined> {
    const all = this.#with(chunk);
    let from = 0;
    let at = 0;
    while (at < all.length) {
      if (this.#passing > 0) {
        const length = Math.min(this.#passing, all.length - at);
        this.#passing -= length;
        at += length;
        continue;
      }
      const rest = all.subarray(at);
      const end = endOf(rest);
      if (end !== undefined && rest[0] === kinds.message) {
        this.#passing = end;
        continue;
      }
      if (at > from) yield { bytes: all.subarray(from, at) };
      if (end === undefined || rest.length < end) {
        this.#keep(rest);
        return;
      }
      yield messageOf(rest, end);
      at += end;
      from = at;
    }
    if (at > from) yield { bytes: all.subarray(from, at) };
  }

  #with(chunk: Buffer): Buffer {
    if (this.#have === 0) return chunk;
    this.#kept.push(Buffer.from(chunk));
    this.#have += chunk.length;
    const first = this.#kept[0] as Buffer;
    const need = endOf(first);
    // Long messages are joined once.
    if (need !== undefined && this.#have < need) return noBytes;
    const joined = Buffer.concat(this.#kept, this.#have);
    this.#kept = [];
    this.#have = 0;
    return joined;
  }

  #keep(rest: Buffer): void {
    this.#kept = [Buffer.from(rest)];
    this.#have = rest.length;
  }
}

/** The message that begins here, in memory of its own. */
function messageOf(bytes: Buffer, end: number): Message {
  return { kind: bytes[0] as number, payload: Buffer.from(bytes.subarray(prefixBytes, end)) };
}

const noBytes = Buffer.alloc(0);

/** Where the message that begins here ends; undefined while that is not known. */
function endOf(bytes: Buffer): number | undefined {
  if (bytes.length < prefixBytes) return undefined;
  const length = bytes.readUInt32BE(1);
  if (length > longest) throw new AgentError("E_CONNECTION", "its Python process says what is not of the protocol");
  return prefixBytes + length;
}

const answer = z.object({ status: z.int().min(1).max(16), details: z.string() });

/** How a call ended: undefined if well. */
export function parseAnswer(payload: Buffer): AgentError | undefined {
  if (payload.length === 0) return undefined;
  const parsed = answer.safeParse(parseJson(payload));
  if (!parsed.success) return new AgentError("E_CONNECTION", "its Python process says what is not of the protocol");
  const told: GrpcAnswer = parsed.data;
  return new AgentError(codeOfStatus.get(told.status) ?? "E_FAILED", told.details, { answer: told });
}

/** Initial metadata: texts, and what JSON they hold where they are none. */
export function parseMetadata(payload: Buffer): ReadonlyMap<string, string> {
  const parsed = z.record(z.string(), z.unknown()).safeParse(parseJson(payload));
  const entries = Object.entries(parsed.data ?? {});
  return new Map(entries.map(([key, value]) => [key.toLowerCase(), typeof value === "string" ? value : asText(value)]));
}

/** As gRPC for Python sends them: nothing is an empty text. */
function asText(value: unknown): string {
  return value === null ? "" : JSON.stringify(value);
}

function parseJson(payload: Buffer): unknown {
  try {
    return JSON.parse(payload.toString());
  } catch {
    return undefined;
  }
}
