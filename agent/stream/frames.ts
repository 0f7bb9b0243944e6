/**
 * The messages of RouterService.Stream, `StreamRequest` and `StreamResponse` (which are alike), written and read by
 * hand: a generated codec takes 25–37 µs for 64 KiB, this one shares the payload's memory.
 */
import { AgentError } from "../driver/errors.ts";

export const frameTypes = { DATA: 0, RST_STREAM: 3, PING: 6, GOAWAY: 7 } as const;

export interface Frame {
  readonly payload: Buffer;
  /** One of {@link frameTypes}, or a number that this version does not know. */
  readonly frameType: number;
}

export const payloadTag = (1 << 3) | 2;
const frameTypeTag = 2 << 3;
const noBytes: Buffer = Buffer.alloc(0);

/** Bytes that {@link writeFrameHead} will write. */
export function frameHeadLength(payloadLength: number, frameType: number): number {
  return (
    (payloadLength > 0 ? 1 + varintLength(payloadLength) : 0) + (frameType === 0 ? 0 : 1 + varintLength(frameType))
  );
}

/** Writes all of a frame but its payload, which has to follow. @returns the offset after it. */
export function writeFrameHead(target: Buffer, offset: number, payloadLength: number, frameType: number): number {
  let at = offset;
  if (frameType !== 0) {
    target[at++] = frameTypeTag;
    at = writeVarint(target, at, frameType);
  }
  if (payloadLength > 0) {
    target[at++] = payloadTag;
    at = writeVarint(target, at, payloadLength);
  }
  return at;
}

export function encodeFrame(frame: { payload: Uint8Array; frameType: number }): Buffer {
  const { payload, frameType } = frame;
  const encoded = Buffer.allocUnsafe(frameHeadLength(payload.length, frameType) + payload.length);
  encoded.set(payload, writeFrameHead(encoded, 0, payload.length, frameType));
  return encoded;
}

/**
 * Reads one frame; the payload shares memory with `encoded`. Unknown fields are skipped.
 * @throws AgentError E_INVALID if the bytes are no protobuf message, or the payload is longer than what is there.
 */
export function decodeFrame(encoded: Buffer): Frame {
  let payload: Buffer = noBytes;
  let frameType = 0;
  let at = 0;
  const varint = () => {
    let value = 0;
    for (let shift = 0; shift < 70; shift += 7) {
      const byte = encoded[at++];
      if (byte === undefined) throw malformed("cut off");
      // Above 2^53 the value is inexact, but then it fits neither a length nor a frame type.
      value += (byte & 0x7f) * 2 ** shift;
      if (byte < 0x80) return value;
    }
    throw malformed("number longer than 10 bytes");
  };
  const skip = (length: number) => {
    if (length > encoded.length - at) throw malformed("cut off");
    at += length;
  };
  while (at < encoded.length) {
    const tag = varint();
    if (tag === payloadTag) {
      const length = varint();
      const start = at;
      skip(length);
      payload = encoded.subarray(start, at);
    } else if (tag === frameTypeTag) {
      frameType = varint();
    } else {
      if (tag < 8) throw malformed("field number 0");
      switch (tag & 7) {
        case 0:
          varint();
          break;
        case 1:
          skip(8);
          break;
        case 2:
          skip(varint());
          break;
        case 5:
          skip(4);
          break;
        default:
          throw malformed(`wire type ${tag & 7}`);
      }
    }
  }
  return { payload, frameType };
}

function malformed(why: string): AgentError {
  return new AgentError("E_INVALID", `malformed stream frame: ${why}`);
}

function varintLength(value: number): number {
  return value < 0x80 ? 1 : value < 0x4000 ? 2 : value < 0x20_0000 ? 3 : value < 0x1000_0000 ? 4 : 5;
}

function writeVarint(target: Buffer, offset: number, value: number): number {
  let at = offset;
  let rest = value;
  while (rest >= 0x80) {
    target[at++] = (rest % 0x80) | 0x80;
    rest = Math.floor(rest / 0x80);
  }
  target[at++] = rest;
  return at;
}
