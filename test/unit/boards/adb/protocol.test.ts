import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { isConnected, readAnswer, request } from "../../../../boards/adb/protocol.ts";

const bytes = (text: string) => new TextEncoder().encode(text);

test("requests carry their length in hex", () => {
  assert.equal(new TextDecoder().decode(request("host:version")), "000chost:version");
  assert.throws(() => request("x".repeat(0x10000)), RangeError);
});

test("answers: status alone, with a text, and failures", () => {
  assert.deepEqual(readAnswer(bytes("OKAY0004002a"), true), { ok: true, text: "002a" });
  assert.deepEqual(readAnswer(bytes("OKAY0000"), true), { ok: true, text: "" });
  assert.deepEqual(readAnswer(bytes("OKAY"), false), { ok: true, text: "" });
  assert.deepEqual(readAnswer(bytes("FAIL0002no"), false), { ok: false, text: "no" });
  for (const part of ["", "OK", "OKAY", "OKAY00", "OKAY0004abc"])
    assert.equal(readAnswer(bytes(part), true), undefined);
  for (const garbage of ["220 ", "OKAX", "OKAY-1", "FAIL00g0", "\0"]) {
    assert.equal(readAnswer(bytes(garbage), true), "garbage", garbage);
  }
});

test("what the server says of a device", () => {
  assert.equal(isConnected("connected to 10.0.0.2:5555"), true);
  assert.equal(isConnected("already connected to 10.0.0.2:5555"), true);
  for (const text of ["failed to connect to '1.2.3.4:5': Connection refused", "unable to connect", ""]) {
    assert.equal(isConnected(text), false, text);
  }
});

test("any bytes are an answer, the beginning of one, or garbage; and what was garbage stays it", () => {
  const alike = fc.string({
    unit: fc.constantFrom("O", "K", "A", "Y", "F", "I", "L", "0", "4", "f", "x"),
    maxLength: 20,
  });
  fc.assert(
    fc.property(fc.oneof(fc.uint8Array({ maxLength: 40 }), alike.map(bytes)), fc.boolean(), (given, hasText) => {
      for (let length = 0; length <= given.length; length += 1) {
        const answer = readAnswer(given.subarray(0, length), hasText);
        if (answer === undefined) continue;
        // More bytes change nothing.
        assert.deepEqual(readAnswer(given, hasText), answer);
        return;
      }
    }),
  );
});
