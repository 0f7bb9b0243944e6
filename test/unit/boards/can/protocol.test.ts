import assert from "node:assert/strict";
import { test } from "node:test";
import type { CanFrame } from "../../../../boards/can/bus.ts";
import {
  busOffBy,
  classicBytes,
  decodeFrame,
  describeError,
  encodeFilters,
  encodeFrame,
  fdBytes,
  fdLengthFor,
  passes,
} from "../../../../boards/can/protocol.ts";
import { cValues, layoutExpressions, noCompiler } from "../../../sim/c-values.ts";
import { frameOf } from "../../../sim/can-frames.ts";

const arrival = { timestampS: 12.5, channel: "can0", sentHere: false };

test("frames are laid out as C lays them out", { skip: noCompiler }, (t) => {
  const values = cValues(
    t,
    ["linux/can.h", "linux/can/raw.h"],
    [
      ...layoutExpressions("struct can_frame", { id: "can_id", length: "can_dlc", data: "data" }),
      ...layoutExpressions("struct canfd_frame", { id: "can_id", length: "len", flags: "flags", data: "data" }),
      ...layoutExpressions("struct can_filter", { id: "can_id", mask: "can_mask" }),
    ],
  );
  assert.deepEqual(values, [classicBytes, 0, 4, 8, fdBytes, 0, 4, 5, 8, 8, 0, 4]);
});

const hex = (bytes: Uint8Array) => Buffer.from(bytes).toString("hex");

for (const [name, frame, bytes] of [
  ["a standard frame", { id: 0x123, data: [0xde, 0xad] }, "23010000" + "02000000" + "dead000000000000"],
  ["an extended frame", { id: 0x1f334455, extended: true, data: [] }, "5544339f" + "00000000" + "0000000000000000"],
  ["a remote frame", { id: 0x7ff, remote: true, dlc: 8 }, "ff070040" + "08000000" + "0000000000000000"],
  [
    "an error frame",
    { id: 4, error: true, data: [0, 4, 0, 0, 0, 0, 0, 0] },
    "04000020" + "08000000" + "0004000000000000",
  ],
  [
    "an FD frame that switches the bit rate",
    { id: 1, fd: true, bitrateSwitch: true, data: [1, 2, 3, 4, 5, 6, 7, 8, 9] },
    "01000000" + "0c050000" + "010203040506070809" + "00".repeat(55),
  ],
] as const) {
  test(`${name}, to bytes and back`, () => {
    const made = frameOf(frame);
    const encoded = encodeFrame(made);
    assert.equal(hex(encoded), bytes);
    const padded = made.fd
      ? [...made.data, ...Array<number>(fdLengthFor(made.data.length) - made.data.length).fill(0)]
      : made.data;
    assert.deepEqual(decodeFrame(encoded, arrival), {
      ...made,
      data: Uint8Array.from(padded),
      dlc: made.remote ? made.dlc : padded.length,
      ...arrival,
    });
  });
}

test("what does not fit into a frame is refused", () => {
  assert.throws(() => encodeFrame(frameOf({ data: Array(9).fill(0) })), /a classic CAN frame holds 8 bytes, not 9/);
  assert.throws(() => encodeFrame(frameOf({ fd: true, data: Array(65).fill(0) })), /holds 64 bytes, not 65/);
  assert.throws(() => encodeFrame(frameOf({ id: 0x800 })), /0x800 is no id of 11 bits/);
  assert.throws(() => encodeFrame(frameOf({ id: 0x2000_0000, extended: true })), /is no id of 29 bits/);
});

test("a frame keeps its data when the bytes it was read from change", () => {
  const bytes = Buffer.from(encodeFrame(frameOf({ data: [1, 2] })));
  const frame = decodeFrame(bytes, arrival);
  bytes.fill(0);
  assert.deepEqual([...(frame?.data ?? [])], [1, 2]);
});

test("bytes that are no frame are none", () => {
  assert.equal(decodeFrame(new Uint8Array(15), arrival), undefined);
  assert.equal(decodeFrame(Uint8Array.of(0, 0, 0, 0, 9, ...Array<number>(11).fill(0)), arrival), undefined);
});

test("FD frames have sixteen lengths", () => {
  assert.deepEqual([0, 8, 9, 12, 13, 17, 25, 33, 49, 64].map(fdLengthFor), [0, 8, 12, 12, 16, 20, 32, 48, 64, 64]);
});

test("filters mean for us what they mean for the kernel", () => {
  assert.equal(hex(encodeFilters(null)), "00".repeat(8));
  const filters = [
    { id: 0x123, mask: 0x7ff },
    { id: 0x1, mask: 0x1, extended: true },
    { id: 0x10, mask: 0x7ff, extended: false },
  ];
  assert.equal(hex(encodeFilters(filters)), "23010000ff070000" + "0100008001000080" + "10000000ff070080");
  const passing = (frame: Partial<CanFrame>) => passes(filters, frameOf(frame));
  assert.ok(passing({ id: 0x123 }));
  assert.ok(passing({ id: 0x123, extended: true }));
  assert.ok(passing({ id: 0x1fff_0001, extended: true }));
  assert.ok(!passing({ id: 0x101 }));
  assert.ok(passing({ id: 0x10 }));
  assert.ok(!passing({ id: 0x10, extended: true }));
  assert.ok(passing({ id: 0x40, error: true }));
  assert.ok(!passes([], frameOf({})));
  assert.ok(passes(null, frameOf({})));
});

test("error frames in words", () => {
  const text = (id: number, ...data: number[]) => describeError(frameOf({ error: true, id, data }));
  assert.equal(text(0x40), "bus-off");
  assert.equal(text(0x4, 0, 0x30), "error-passive by receive errors, error-passive by transmit errors");
  assert.equal(text(0x88, 0, 0, 0x84, 0x19), "bit stuffing error while sending in acknowledge slot, bus error");
  assert.equal(
    text(0x222, 5, 0, 0, 0, 0, 0, 128, 3),
    "arbitration lost at bit 5, no acknowledge: is another node on the bus?, errors counted: 128 sending, 3 receiving",
  );
  assert.equal(text(0x10, 0, 0, 0, 0, 0x70), "CANL short to ground");
  assert.equal(text(0), "unknown error");
  assert.equal(busOffBy(frameOf({ error: true, id: 0x40 })), true);
  assert.equal(busOffBy(frameOf({ error: true, id: 0x100 })), false);
  assert.equal(busOffBy(frameOf({ error: true, id: 0x4 })), undefined);
  assert.equal(busOffBy(frameOf({ id: 0x40 })), undefined);
});
