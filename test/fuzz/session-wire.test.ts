import assert from "node:assert/strict";
import { test } from "node:test";
import * as fc from "fast-check";
import { AgentError } from "../../agent/driver/errors.ts";
import { FrameReader } from "../../agent/stream/frame-reader.ts";
import { decodeFrame, encodeFrame, frameHeadLength, type Frame } from "../../agent/stream/frames.ts";
import { MessageReader, prefixed } from "../../agent/stream/rpc-messages.ts";
import { fromWire, toWire } from "../../agent/stream/value.ts";
import { Value } from "../../proto/gen/google/protobuf/struct.ts";
import { StreamRequest } from "../../proto/gen/jumpstarter/v1/router.ts";

const bytes = fc.uint8Array({ maxLength: 300 }).map((array) => Buffer.from(array));
const frameType = fc.constantFrom(0, 3, 6, 7);

test("frames are the same to the generated codec and to ours, both ways", () => {
  fc.assert(
    fc.property(bytes, frameType, (payload, frameType) => {
      const ours = encodeFrame({ payload, frameType });
      assert.equal(ours.length, frameHeadLength(payload.length, frameType) + payload.length);
      const theirs = StreamRequest.decode(ours);
      assert.deepEqual([theirs.payload, theirs.frameType], [payload, frameType]);
      const encoded = Buffer.from(StreamRequest.encode({ payload, frameType }).finish());
      assert.deepEqual(decodeFrame(encoded), { payload, frameType });
    }),
  );
});

test("a frame with fields from the future is read, and garbage is refused with E_INVALID only", () => {
  const unknown = fc.oneof(
    fc.nat().map((n) => Buffer.from([0x18, n & 0x7f])),
    fc.uint8Array({ minLength: 8, maxLength: 8 }).map((data) => Buffer.from([0x21, ...data])),
    fc.uint8Array({ maxLength: 100 }).map((data) => Buffer.from([0x2a, data.length, ...data])),
    fc.uint8Array({ minLength: 4, maxLength: 4 }).map((data) => Buffer.from([0x35, ...data])),
  );
  fc.assert(
    fc.property(fc.array(unknown), bytes, frameType, (extra, payload, frameType) => {
      const known = encodeFrame({ payload, frameType });
      assert.deepEqual(decodeFrame(Buffer.concat([...extra, known, ...extra])), { payload, frameType });
    }),
  );
  fc.assert(
    fc.property(bytes, (garbage) => {
      try {
        const { payload } = decodeFrame(garbage);
        assert.ok(payload.length <= garbage.length);
      } catch (error) {
        assert.ok(error instanceof AgentError && error.code === "E_INVALID");
      }
    }),
    { numRuns: 2000 },
  );
});

test("messages come out whole however the bytes were cut", () => {
  fc.assert(
    fc.property(fc.array(bytes), fc.array(fc.integer({ min: 1, max: 40 }), { minLength: 1 }), (messages, cuts) => {
      const all = Buffer.concat(messages.map((message) => prefixed(message)));
      const reader = new MessageReader("SERVER");
      const got: Buffer[] = [];
      for (let at = 0, n = 0; at < all.length; n += 1) {
        const size = cuts[n % cuts.length] as number;
        reader.read(all.subarray(at, at + size), (message) => got.push(Buffer.from(message)));
        at += size;
      }
      assert.deepEqual(got, messages);
      assert.ok(reader.atBoundary);
    }),
  );
});

test("frames come out whole however the bytes were cut; where only bytes count, nothing waits for the end of a frame", () => {
  const frame = fc.record({ payload: fc.uint8Array({ maxLength: 300 }), frameType });
  const cuts = fc.array(fc.integer({ min: 1, max: 400 }), { minLength: 1 });
  fc.assert(
    fc.property(fc.array(frame), cuts, (sent, cuts) => {
      const all = Buffer.concat(sent.map((each) => prefixed(encodeFrame(each))));
      const frames: Frame[] = [];
      const pieces: Frame[] = [];
      const readers = [
        { reader: new FrameReader({ side: "SERVER", bytes: false }), got: frames },
        { reader: new FrameReader({ side: "SERVER", bytes: true }), got: pieces },
      ];
      for (const { reader, got } of readers) {
        for (let at = 0, n = 0; at < all.length; n += 1) {
          const size = cuts[n % cuts.length] as number;
          reader.read(all.subarray(at, at + size), (frame) => got.push(frame));
          at += size;
        }
        assert.ok(reader.atBoundary);
      }
      assert.deepEqual(
        frames,
        sent.map(({ payload, frameType }) => ({ payload: Buffer.from(payload), frameType })),
      );
      assert.deepEqual(withoutBoundaries(pieces), withoutBoundaries(frames));
    }),
  );
  const reader = new FrameReader({ side: "SERVER", bytes: true });
  const begun = prefixed(encodeFrame({ payload: Buffer.alloc(1000, 1), frameType: 0 })).subarray(0, 100);
  const got: number[] = [];
  reader.read(begun, ({ payload }) => got.push(payload.length));
  assert.deepEqual(got, [92]);
  assert.ok(!reader.atBoundary);
});

/** DATA payloads joined, with the other frames in their places between them. */
function withoutBoundaries(frames: readonly Frame[]): (string | Frame)[] {
  const joined: (string | Frame)[] = [];
  for (const frame of frames) {
    if (frame.frameType !== 0) joined.push(frame);
    else if (frame.payload.length > 0) {
      const last = joined.at(-1);
      if (typeof last === "string") joined.pop();
      joined.push((typeof last === "string" ? last : "") + frame.payload.toString("hex"));
    }
  }
  return joined;
}

test("any JSON survives a Value on the wire, and any other object fails only as invalid", () => {
  const json = fc.jsonValue({ maxDepth: 6, noUnicodeString: false }).filter((value) => !hasOddKey(value));
  fc.assert(
    fc.property(json, (value) => {
      const back = fromWire(Value.unwrap(Value.decode(Value.encode(Value.wrap(toWire(value))).finish())));
      assert.deepEqual(JSON.parse(JSON.stringify(back)), JSON.parse(JSON.stringify(value)));
    }),
  );
  fc.assert(
    fc.property(
      fc.anything({ withBigInt: true, withDate: true, withMap: true, withSet: true, withTypedArray: true }),
      (value) => {
        try {
          Value.encode(Value.wrap(toWire(value))).finish();
        } catch (error) {
          assert.ok(error instanceof AgentError && error.code === "E_INVALID", String(error));
        }
      },
    ),
    { numRuns: 2000 },
  );
});

/** `__proto__` as a key is lost on the way, which is as well. */
function hasOddKey(value: unknown): boolean {
  return JSON.stringify(value).includes("__proto__");
}
