/** Records of consoles, whatever is in them and however they are cut. */
import assert from "node:assert/strict";
import { test } from "node:test";
import * as fc from "fast-check";
import { BootWatch } from "../../boards/serial/record/boots.ts";
import { Gatherer } from "../../boards/serial/record/gather.ts";
import { LineMaker } from "../../boards/serial/record/lines.ts";
import { toLogItem } from "../../boards/serial/record/log-item.ts";
import { encodeEntry, EntryDecoder, type Entry } from "../../boards/serial/record/protocol.ts";

const entry = fc.record({
  seq: fc.nat(),
  wallUs: fc.integer({ min: 0, max: 4e15 }),
  monotonicUs: fc.integer({ min: 0, max: 1e13 }),
  kind: fc.constantFrom("o" as const, "m" as const),
  // Also what looks like the beginning of an entry.
  payload: fc.oneof(
    fc.uint8Array({ maxLength: 60 }),
    fc
      .constantFrom("\x1e1 2 3 o 1\nx\n", "\x1e", "\n\n", '{"mark":"boot","seconds":1}')
      .map((text) => Buffer.from(text)),
  ),
});
const plain = (entries: readonly Entry[]) =>
  entries.map((each) => ({ ...each, payload: Buffer.from(each.payload).toString("hex") }));

/** Feeds bytes in pieces of these sizes. */
function decode(bytes: Buffer, sizes: readonly number[]) {
  const decoder = new EntryDecoder();
  const entries: Entry[] = [];
  for (let at = 0, turn = 0; at < bytes.length; turn += 1) {
    const size = sizes.length === 0 ? bytes.length : (sizes[turn % sizes.length] as number);
    entries.push(...decoder.push(bytes.subarray(at, at + size)));
    at += size;
  }
  return { decoder, entries };
}
const sizes = fc.array(fc.integer({ min: 1, max: 90 }), { maxLength: 4 });

test("entries come back as they were, in whatever pieces", () => {
  fc.assert(
    fc.property(fc.array(entry, { maxLength: 6 }), sizes, (entries, cuts) => {
      const bytes = Buffer.concat(entries.map(encodeEntry));
      const { decoder, entries: back } = decode(bytes, cuts);
      assert.deepEqual(plain(back), plain(entries));
      assert.equal(decoder.goodBytes, bytes.length);
      assert.equal(decoder.damagedBytes, 0);
    }),
    { numRuns: 10_000 },
  );
});

test("a record that is cut off anywhere has all entries before, and nothing else", () => {
  fc.assert(
    fc.property(fc.array(entry, { minLength: 1, maxLength: 4 }), fc.nat(), sizes, (entries, where, cuts) => {
      const encoded = entries.map(encodeEntry);
      const bytes = Buffer.concat(encoded);
      const end = where % (bytes.length + 1);
      const { decoder, entries: back } = decode(bytes.subarray(0, end), cuts);
      let whole = 0;
      let count = 0;
      while (count < encoded.length && whole + (encoded[count] as Buffer).length <= end)
        whole += (encoded[count++] as Buffer).length;
      assert.deepEqual(plain(back), plain(entries.slice(0, count)));
      assert.equal(decoder.goodBytes, whole);
    }),
    { numRuns: 10_000 },
  );
});

test("noise is passed over, whatever it is; what follows it is found", () => {
  const noise = fc.oneof(
    fc.uint8Array({ maxLength: 200 }),
    fc
      .string({ unit: fc.constantFrom("\x1e", "1", " ", "o", "m", "\n", "9999999"), maxLength: 60 })
      .map((text) => Buffer.from(text)),
  );
  fc.assert(
    fc.property(noise, entry, sizes, (bytes, last, cuts) => {
      // A length in the noise may reach over what follows; so much of it that it cannot.
      const tail = encodeEntry({ ...last, seq: 7, payload: Buffer.alloc(300, "z") });
      const { entries } = decode(Buffer.concat([bytes, tail]), cuts);
      for (const each of entries) assert.ok(each.payload.length <= bytes.length + tail.length);
      if (!bytes.includes(0x1e)) assert.equal(entries.at(-1)?.payload[0], 0x7a);
    }),
    { numRuns: 10_000 },
  );
});

const chunk = fc.oneof(
  fc.uint8Array({ maxLength: 40 }),
  fc.string({ unit: fc.constantFrom("a", "\n", "\r", "login:"), maxLength: 12 }).map((text) => Buffer.from(text)),
);

test("lines keep every byte in its order, however it came; boots are looked for without harm", () => {
  fc.assert(
    fc.property(fc.array(chunk, { maxLength: 8 }), (chunks) => {
      const pieces: Uint8Array[] = [];
      const watch = new BootWatch(/login:/u);
      watch.powered(true, { wallUs: 0, monotonicUs: 0 });
      const maker = new LineMaker();
      let lines = 0;
      const gatherer = new Gatherer((payload, at) => {
        pieces.push(payload);
        watch.output(payload, at);
        const item = toLogItem({ seq: pieces.length, ...at, kind: "o", payload });
        assert.ok(item);
        if (item.base64 !== undefined) assert.ok(Buffer.from(item.base64, "base64").equals(payload));
        lines += maker.push(item).length;
      });
      for (const [index, bytes] of chunks.entries()) gatherer.push(bytes, { wallUs: index, monotonicUs: index });
      gatherer.close();
      const all = Buffer.concat(chunks);
      assert.ok(Buffer.concat(pieces).equals(all));
      assert.equal(lines, all.filter((byte) => byte === 0x0a).length);
      // What is written down is whole lines, or a part of one.
      for (const piece of pieces) assert.ok(piece.length > 0);
    }),
    { numRuns: 10_000 },
  );
});
