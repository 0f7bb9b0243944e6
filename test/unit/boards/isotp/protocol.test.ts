import assert from "node:assert/strict";
import { test } from "node:test";
import {
  buildConsecutive,
  buildFirst,
  buildFlow,
  buildSingle,
  parsePdu,
  separationMs,
  singleFrameLimit,
  type LinkLayout,
  type Pdu,
} from "../../../../boards/isotp/protocol.ts";

const bytes = (hex: string) => Uint8Array.from(Buffer.from(hex.replaceAll(" ", ""), "hex"));
const hex = (data: Uint8Array) => Buffer.from(data).toString("hex");
const counting = (length: number) => Uint8Array.from({ length }, (_, index) => index & 0xff);

const classic: LinkLayout = { frameBytes: 8, leastBytes: undefined, padding: undefined };
const padded: LinkLayout = { frameBytes: 8, leastBytes: undefined, padding: 0xaa };
const fd: LinkLayout = { frameBytes: 64, leastBytes: undefined, padding: undefined };
const layout = (more: Partial<LinkLayout>): LinkLayout => ({ ...classic, ...more });
const none = new Uint8Array();
const prefix = bytes("f1");

// Frames as ISO 15765-2:2016, 9.6 and 10.4, lays them out.
const singles: [what: string, layout: LinkLayout, prefix: Uint8Array, message: string, frame: string][] = [
  ["the shortest", classic, none, "3e", "013e"],
  ["the longest of a classic frame", classic, none, "01020304050607", "0701020304050607"],
  ["the longest with an address byte", classic, prefix, "010203040506", "f106010203040506"],
  ["filled", padded, none, "3e00", "023e00aaaaaaaaaa"],
  ["filled with an address byte", padded, prefix, "3e", "f1013eaaaaaaaaaa"],
  ["filled to a least length", layout({ leastBytes: 5 }), none, "3e", "013ecccccc"],
  ["of CAN FD, short", fd, none, "01020304050607", "0701020304050607"],
  ["of CAN FD, too long for 8 bytes", fd, none, "0102030405060708", "00080102030405060708cccc"],
  ["of CAN FD with an address byte", fd, prefix, "01020304050607", "f1000701020304050607cccc"],
  ["of CAN FD, filled", layout({ frameBytes: 12, padding: 0x55 }), none, "0102030405060708", "000801020304050607085555"],
  ["short, in a frame that must be long", layout({ frameBytes: 16, leastBytes: 12 }), none, "3e", "00013ecccccccccccccccccc"],
]; // prettier-ignore

for (const [what, link, address, message, frame] of singles) {
  test(`a single frame: ${what}`, () => {
    assert.equal(hex(buildSingle(link, address, bytes(message))), frame);
    const pdu = parsePdu(bytes(frame), address.length);
    assert.deepEqual(pdu, { kind: "single", data: bytes(message) });
  });
}

test("the longest message of a single frame", () => {
  assert.deepEqual([8, 12, 64].map((length) => [singleFrameLimit(length, 0), singleFrameLimit(length, 1)]), [
    [7, 6],
    [10, 9],
    [62, 61],
  ]); // prettier-ignore
  for (const address of [none, prefix]) {
    const most = singleFrameLimit(64, address.length);
    assert.equal(buildSingle(fd, address, counting(most)).length, 64);
  }
});

test("first frames tell up to 4095 bytes in 12 bits, more in 32", () => {
  const cases: [LinkLayout, Uint8Array, number, string, number][] = [
    [classic, none, 8, "1008", 6],
    [classic, none, 4095, "1fff", 6],
    [classic, none, 4096, "100000001000", 2],
    [classic, none, 1 << 20, "100000100000", 2],
    [classic, prefix, 7, "f11007", 5],
    [classic, prefix, 4096, "f1100000001000", 1],
    [fd, none, 63, "103f", 62],
    [fd, none, 4096, "100000001000", 58],
    [fd, prefix, 62, "f1103e", 61],
  ];
  for (const [link, address, length, header, taken] of cases) {
    const message = counting(length);
    const first = buildFirst(link, address, message);
    assert.equal(first.taken, taken);
    assert.equal(first.data.length, link.frameBytes);
    assert.ok(hex(first.data).startsWith(header), hex(first.data));
    assert.deepEqual(parsePdu(first.data, address.length), {
      kind: "first",
      messageBytes: length,
      frameBytes: link.frameBytes,
      data: message.subarray(0, taken),
    });
  }
});

test("consecutive frames count to 15 and begin at 0 again", () => {
  assert.equal(hex(buildConsecutive(classic, none, 15, counting(7))), "2f00010203040506");
  assert.equal(hex(buildConsecutive(classic, none, 16, counting(2))), "200001");
  assert.equal(hex(buildConsecutive(padded, prefix, 1, counting(2))), "f1210001aaaaaaaa");
  assert.equal(hex(buildConsecutive(fd, none, 2, counting(8))), "220001020304050607cccccc");
  assert.deepEqual(parsePdu(bytes("f1250102"), 1), { kind: "consecutive", sequence: 5, data: bytes("0102") });
});

test("flow control", () => {
  const flow = { status: "continue", blockSize: 4, stmin: 0xf3 } as const;
  assert.equal(hex(buildFlow(classic, none, flow)), "3004f3");
  assert.equal(hex(buildFlow(padded, prefix, { ...flow, status: "wait" })), "f13104f3aaaaaaaa");
  assert.equal(hex(buildFlow(fd, none, { ...flow, status: "overflow" })), "3204f3");
  assert.deepEqual(parsePdu(bytes("3004f3"), 0), {
    kind: "flow",
    status: "continue",
    blockSize: 4,
    separationMs: 0.3,
  });
  assert.equal((parsePdu(bytes("3f0000"), 0) as { status: string }).status, "reserved");
});

test("STmin: milliseconds, tenths of one, and the longest time for what is reserved", () => {
  assert.deepEqual([0, 1, 0x7f].map(separationMs), [0, 1, 127]);
  assert.deepEqual([0xf1, 0xf5, 0xf9].map(separationMs), [0.1, 0.5, 0.9]);
  assert.deepEqual([0x80, 0xf0, 0xfa, 0xff].map(separationMs), [127, 127, 127, 127]);
});

// What 9.6 says a receiver ignores.
const ignored: [what: string, frame: string, prefixBytes: number][] = [
  ["nothing", "", 0],
  ["only an address byte", "f1", 1],
  ["a type that does not exist", "40", 0],
  ["a single frame of length 0", "00", 0],
  ["a single frame of length 0 in 8 bytes", "0005010203040506", 0],
  ["a single frame that is shorter than it says", "0301", 0],
  ["a single frame that is too long for an address byte", "f107010203040506", 1],
  ["a long frame without escape sequence", "0301020304050607080910aa", 0],
  ["a long frame of length 0", "0000010203040506070809aa", 0],
  ["a long frame that is shorter than it says", "000b010203040506070809aa", 0],
  ["a first frame that is not full", "10080102030405", 0],
  ["a first frame with a length that no frame has", "100901020304050607", 0],
  ["a first frame for what fits into a single frame", "1007010203040506", 0],
  ["the same with an address byte", "f110060102030405", 1],
  ["the same with CAN FD", `103e${"00".repeat(62)}`, 0],
  ["a first frame with an escape sequence for 4095 bytes", "100000000fff0102", 0],
  ["a flow control without STmin", "3000", 0],
];

for (const [what, frame, prefixBytes] of ignored) {
  test(`ignored: ${what}`, () => {
    const pdu: Pdu = parsePdu(bytes(frame), prefixBytes);
    assert.equal(pdu.kind, "invalid", JSON.stringify(pdu));
  });
}

test("what follows a single frame is padding, whatever it is", () => {
  assert.deepEqual(parsePdu(bytes("013eff00ff"), 0), { kind: "single", data: bytes("3e") });
});
