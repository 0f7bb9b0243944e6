import assert from "node:assert/strict";
import { test } from "node:test";
import type { LinkFrame } from "../../../../boards/isotp/machine.ts";
import {
  addressOf,
  createLink,
  plainAddress,
  turned,
  type Fate,
  type Node,
  type Params,
  type Sending,
} from "../../../sim/isotp-link.ts";

const counting = (length: number) => Uint8Array.from({ length }, (_, index) => (index * 7 + (index >> 8)) & 0xff);
const bytes = (hex: string) => Uint8Array.from(Buffer.from(hex.replaceAll(" ", ""), "hex"));
const hex = (data: Uint8Array | undefined) => Buffer.from(data ?? []).toString("hex");
const frames = (node: Node) => node.sent.map(({ frame }) => hex(frame.data));
const results = (node: Node) => node.problems.map(({ result }) => result);
const kindOf = (frame: LinkFrame) => (frame.data[0] ?? 0) >> 4;
const isPending = (sending: Sending) => sending.result === undefined;
const ours = plainAddress();

/** Two nodes that speak with each other. */
function pair(params: Params = {}, theirs: Params = params, link = createLink()) {
  return { link, a: link.node(ours, params), b: link.node(turned(ours), theirs) };
}

/** One node, and a peer whose every frame the test writes. */
function alone(params: Params = {}, fate?: (frame: LinkFrame, atMs: number) => Fate) {
  const link = createLink(fate === undefined ? {} : { fate });
  const node = link.node(ours, params);
  const heard = (frame: string) => {
    link.inject({ id: 0x7e8, data: bytes(frame) });
    link.run(1);
  };
  return { link, node, heard };
}

test("the exchange of a message of 18 bytes, frame by frame", () => {
  const { link, a, b } = pair({ blocksize: 4, tx_padding: 0 });
  const message = bytes("22f190 0102030405060708090a0b0c0d0e0f");
  const sending = a.send(message);
  link.run();
  assert.deepEqual(frames(a), ["101222f190010203", "210405060708090a", "220b0c0d0e0f0000"]);
  assert.deepEqual(frames(b), ["3004000000000000"]);
  assert.equal(sending.result, null);
  assert.deepEqual(b.received, [message]);
  assert.equal(a.machine.transmitting, false);
});

const modes = [
  { addressing_mode: 0, txid: 1, rxid: 2 },
  { addressing_mode: 1, txid: 1, rxid: 2 },
  { addressing_mode: 2, target_address: 1, source_address: 2 },
  { addressing_mode: 3, txid: 1, rxid: 2, target_address: 3, source_address: 4 },
  { addressing_mode: 4, txid: 1, rxid: 2, target_address: 3, source_address: 4 },
  { addressing_mode: 5, txid: 1, rxid: 2, address_extension: 3 },
  { addressing_mode: 6, target_address: 1, source_address: 2, address_extension: 3 },
];

for (const mode of modes) {
  test(`addressing mode ${mode.addressing_mode}: messages of all lengths at the borders, both ways at once`, () => {
    for (const [tx_data_length, blocksize] of [
      [8, 8],
      [12, 1],
      [64, 0],
    ] as const) {
      const link = createLink();
      const params = { tx_data_length, blocksize, max_frame_size: 6000, can_fd: tx_data_length > 8 };
      const a = link.node(addressOf(mode), params);
      const b = link.node(turned(addressOf(mode)), params);
      const lengths = [1, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 20, 61, 62, 63, 64, 124, 125, 126, 4094, 4095, 4096, 4097];
      const messages = lengths.map(counting);
      const sent = messages.flatMap((message) => [a.send(message), b.send(message)]);
      link.run();
      assert.deepEqual(b.received, messages);
      assert.deepEqual(a.received, messages);
      assert.ok(sent.every(({ result }) => result === null));
      assert.deepEqual([...a.problems, ...b.problems], []);
      assert.ok(a.sent.every(({ frame }) => frame.data.length <= tx_data_length && frame.fd === tx_data_length > 8));
    }
  });
}

test("a message of 1 MiB, with the escape sequence", () => {
  const { link, a, b } = pair({ max_frame_size: 1 << 20, blocksize: 0 });
  const message = counting(1 << 20);
  const sending = a.send(message);
  link.run();
  assert.equal(hex(a.sent[0]?.frame.data).slice(0, 12), "100000100000");
  assert.equal(sending.result, null);
  assert.deepEqual(b.received, [message]);
});

test("blocks are as long as the receiver says, and may change within a message", () => {
  const { link, node, heard } = alone();
  node.send(counting(6 + 7 * 10));
  heard("300200");
  assert.equal(node.sent.length, 3);
  heard("300300");
  assert.equal(node.sent.length, 6);
  heard("300000");
  link.run();
  assert.equal(node.sent.length, 11);
  assert.deepEqual(node.problems, []);
});

for (const [stmin, separationMs] of [["05", 5], ["f5", 0.5], ["85", 127]] as const) {
  test(`consecutive frames are ${separationMs} ms apart at STmin 0x${stmin}`, () => {
    const { link, node } = alone();
    node.send(counting(40));
    link.run(1);
    link.inject({ id: 0x7e8, data: bytes(`3000${stmin}`) });
    link.run();
    const [, ...consecutive] = node.sent.map(({ atMs }) => atMs);
    assert.equal(consecutive.length, 5);
    for (const [index, atMs] of consecutive.slice(1).entries()) {
      const gapMs = atMs - (consecutive[index] ?? 0);
      assert.ok(gapMs >= separationMs && gapMs < separationMs + 0.2, `${gapMs} ms`);
    }
  });
} // prettier-ignore

test("override_receiver_stmin, in seconds, stands in for the receiver's pause", () => {
  const { link, node } = alone({ override_receiver_stmin: 0.003 });
  node.send(counting(20));
  link.run(1);
  link.inject({ id: 0x7e8, data: bytes("30007f") });
  link.run();
  const [, second = 0, third = 0] = node.sent.map(({ atMs }) => atMs);
  assert.ok(Math.abs(third - second - 3.1) < 1e-6, `${third - second}`);
});

test("no flow control: the message fails after N_Bs, counted from the end of the frame, and the next one is sent", () => {
  const { link, node } = alone({ rx_flowcontrol_timeout: 200 });
  const first = node.send(counting(100));
  const second = node.send(counting(5));
  link.run(200);
  assert.ok(isPending(first));
  link.run(0.2);
  assert.equal(first.result?.result, "N_TIMEOUT_Bs");
  assert.match(first.result?.text ?? "", /no flow control within 200 ms/);
  link.run();
  assert.equal(second.result, null);
});

test("a flow control that is late does not bring the message back", () => {
  const { link, node, heard } = alone();
  const sending = node.send(counting(100));
  link.run(1001);
  heard("300000");
  link.run();
  assert.equal(sending.result?.result, "N_TIMEOUT_Bs");
  assert.equal(node.sent.length, 1);
});

test("a flow control that nobody waits for is ignored, within a message, too", () => {
  const { link, node, heard } = alone();
  heard("300000");
  const sending = node.send(counting(100));
  heard("300a0a");
  for (const flow of ["300100", "320000", "3f0000", "310000"]) heard(flow);
  link.run(150);
  heard("300000");
  link.run();
  assert.equal(sending.result, null);
});

test("a receiver that is full, or talks nonsense, ends the message", () => {
  for (const [flow, result] of [["320000", "N_BUFFER_OVFLW"], ["330000", "N_INVALID_FS"]] as const) {
    const { link, node, heard } = alone();
    const sending = node.send(counting(100));
    heard(flow);
    assert.equal(sending.result?.result, result);
    link.run();
    assert.equal(node.sent.length, 1);
  } // prettier-ignore
});

test("a receiver may ask to wait as often as wftmax says; each time N_Bs begins anew", () => {
  const { link, node, heard } = alone({ wftmax: 2 });
  const sending = node.send(counting(20));
  link.run(900);
  heard("310000");
  link.run(900);
  heard("310000");
  link.run(900);
  heard("300000");
  link.run();
  assert.equal(sending.result, null);
  const again = node.send(counting(20));
  for (let times = 0; times < 3; times += 1) heard("310000");
  assert.equal(again.result?.result, "N_WFT_OVRN");
});

test("with wftmax 0 a wait is not heeded", () => {
  const { link, node, heard } = alone();
  const sending = node.send(counting(20));
  link.run(900);
  heard("310000");
  assert.deepEqual(results(node), ["N_WFT_OVRN"]);
  link.run(150);
  assert.equal(sending.result?.result, "N_TIMEOUT_Bs");
});

test("no consecutive frame: the reception ends after N_Cr, counted from our flow control or the last frame", () => {
  const { link, node, heard } = alone({ rx_consecutive_frame_timeout: 300 });
  heard("101400010203 0405");
  link.run(298);
  assert.deepEqual(results(node), []);
  heard("2106070809 0a0b0c");
  link.run(298.9);
  assert.deepEqual(results(node), []);
  link.run(1);
  assert.deepEqual(results(node), ["N_TIMEOUT_Cr"]);
  heard("220d0e0f10111213");
  assert.deepEqual(node.received, []);
});

test("a wrong sequence number ends the reception", () => {
  for (const wrong of ["22", "20", "2f"]) {
    const { node, heard } = alone();
    heard("1014000102030405");
    heard(`${wrong}060708090a0b0c`);
    assert.deepEqual(results(node), ["N_WRONG_SN"]);
    heard("21060708090a0b0c");
    heard("220d0e0f10111213");
    assert.deepEqual(node.received, []);
  }
});

test("a lost, a doubled and a swapped frame are noticed", () => {
  const message = counting(200);
  for (const [what, order] of [
    ["lost", [1, 2, 4, 5, 6]],
    ["doubled", [1, 2, 2, 3, 4]],
    ["swapped", [1, 3, 2, 4, 5]],
  ] as const) {
    const { node, heard } = alone({ blocksize: 0 });
    heard(`10c8${hex(message.subarray(0, 6))}`);
    for (const sequence of order) heard(`2${sequence}${hex(message.subarray(sequence * 7 - 1, sequence * 7 + 6))}`);
    assert.deepEqual(results(node), ["N_WRONG_SN"], what);
    assert.deepEqual(node.received, []);
  }
});

test("a new message while another one is received takes its place", () => {
  const { node, heard } = alone();
  heard("1014000102030405");
  heard("02aabb");
  assert.deepEqual(results(node), ["N_UNEXP_PDU"]);
  assert.deepEqual(node.received.map(hex), ["aabb"]);
  heard("1014000102030405");
  heard("1009000102030405");
  heard("21060708");
  assert.deepEqual(node.received.map(hex), ["aabb", "000102030405060708"]);
  assert.deepEqual(results(node), ["N_UNEXP_PDU", "N_UNEXP_PDU"]);
});

test("frames that cannot belong to the message are ignored: too short in the middle, too long, none of ISO-TP", () => {
  const { node, heard } = alone({ blocksize: 0 });
  heard("1014000102030405");
  heard("210607");
  heard("2106070809 0a0b0c0d0e0f1011");
  heard("ff");
  heard("");
  heard("1005000102030405");
  heard("21060708090a0b0c");
  heard("220d");
  heard("220d0e0f101112");
  assert.deepEqual(node.received, []);
  heard("220d0e0f10111213aa".slice(0, 16));
  assert.deepEqual(node.received.map(hex), ["000102030405060708090a0b0c0d0e0f10111213"]);
});

test("what is longer than max_frame_size, or has no room, is refused with an overflow", () => {
  const { node, heard } = alone({ max_frame_size: 19 });
  heard("1014000102030405");
  assert.deepEqual(frames(node), ["320800"]);
  heard("21060708090a0b0c");
  heard("1013000102030405");
  assert.equal(frames(node)[1], "300800");
  node.room = false;
  heard("1013000102030405");
  assert.equal(frames(node)[2], "320800");
  heard("0101");
  assert.deepEqual(node.received, []);
  assert.deepEqual(results(node), ["N_BUFFER_OVFLW", "N_UNEXP_PDU", "N_BUFFER_OVFLW", "N_BUFFER_OVFLW"]);
});

test("4 GiB that are only promised take no memory", () => {
  const { node, heard } = alone({ max_frame_size: 0xffff_ffff });
  heard("1000ffffffff0001");
  assert.deepEqual(frames(node), ["300800"]);
  heard("2106070809 0a0b0c");
  assert.deepEqual(results(node), []);
});

test("listen mode receives what others send each other, and says nothing", () => {
  const link = createLink();
  const a = link.node(ours, { blocksize: 3 });
  const b = link.node(turned(ours), { blocksize: 3 });
  const listener = link.node(turned(ours), { listen_mode: true, blocksize: 3, max_frame_size: 1000 });
  const sending = a.send(counting(500));
  link.run();
  assert.equal(sending.result, null);
  assert.deepEqual(listener.received, b.received);
  assert.deepEqual(listener.sent, []);
  a.send(counting(1001));
  link.run();
  assert.deepEqual(listener.sent, []);
  assert.equal(listener.received.length, 1);
  assert.equal(b.received.length, 2);
});

test("functional messages go to the id for all; one that would need an answer is ignored", () => {
  const link = createLink();
  const address = addressOf({ addressing_mode: 2, target_address: 0x33, source_address: 0xf1 });
  const a = link.node(address);
  const b = link.node(turned(address));
  a.send(bytes("3e80"), "functional");
  link.run();
  assert.equal(a.sent[0]?.frame.id, 0x18db33f1);
  assert.deepEqual(b.received.map(hex), ["3e80"]);
  link.inject({ id: 0x18db33f1, extended: true, data: bytes("1014000102030405") });
  link.run();
  assert.deepEqual(b.sent, []);
});

test("a frame that cannot be sent ends its message, and only that", () => {
  let refused = 2;
  const fate = (frame: LinkFrame): Fate => {
    if (kindOf(frame) === 2 && refused > 0) return (refused -= 1) === 0 ? "refused" : { afterMs: [0] };
    return { afterMs: [0] };
  };
  const { link, a, b } = pair({}, {}, createLink({ fate }));
  const first = a.send(counting(100));
  const second = a.send(counting(100));
  link.run();
  assert.equal(first.result?.result, "N_ERROR");
  assert.match(first.result?.text ?? "", /the bus is off/);
  assert.equal(second.result, null);
  assert.deepEqual(b.received, [counting(100)]);
  assert.deepEqual(results(b), ["N_UNEXP_PDU"]);
});

test("a frame that never leaves ends after N_As; a flow control that never leaves ends the reception", () => {
  const { link, node } = alone({}, () => "stuck");
  const sending = node.send(bytes("3e"));
  link.run(999);
  assert.ok(isPending(sending));
  link.run(1);
  assert.equal(sending.result?.result, "N_TIMEOUT_A");
  link.inject({ id: 0x7e8, data: bytes("1014000102030405") });
  link.run(1001);
  assert.deepEqual(results(node), ["N_TIMEOUT_A"]);
});

test("a message that is taken back stops where it is", () => {
  const { link, a, b } = pair({ stmin: 10 });
  const first = a.send(counting(100));
  const second = a.send(bytes("0102"));
  const third = a.send(bytes("03"));
  link.run(30);
  a.machine.withdraw(second.request, { result: "N_ERROR", text: "enough" }, link.nowMs);
  a.machine.withdraw(first.request, { result: "N_ERROR", text: "enough" }, link.nowMs);
  link.run();
  assert.equal(first.result?.text, "enough");
  assert.equal(second.result?.text, "enough");
  assert.equal(third.result, null);
  assert.deepEqual(b.received.map(hex), ["03"]);
});

test("another address ends what has begun with the last one", () => {
  const { link, a, b } = pair({ stmin: 10 });
  const first = a.send(counting(100));
  const second = a.send(bytes("01"));
  link.run(30);
  const other = plainAddress(0x700, 0x708);
  a.machine.setAddress(other, link.nowMs);
  b.machine.setAddress(turned(other), link.nowMs);
  link.run();
  assert.match(first.result?.text ?? "", /the address was changed/);
  assert.equal(second.result, null);
  assert.equal(a.sent.at(-1)?.frame.id, 0x700);
  assert.deepEqual(b.received.map(hex), ["01"]);
});

test("an empty message is taken as sent, as can-isotp does", () => {
  const { link, node } = alone();
  const empty = node.send(new Uint8Array());
  const next = node.send(bytes("01"));
  link.run();
  assert.deepEqual([empty.result, next.result], [null, null]);
  assert.deepEqual(frames(node), ["0101"]);
});

test("the rate limit holds in every window", () => {
  const params = { rate_limit_enable: true, rate_limit_max_bitrate: 8_000, rate_limit_window_size: 0.1, blocksize: 0 };
  const { link, a, b } = pair(params, { blocksize: 0 });
  const sending = a.send(counting(1000));
  link.run();
  assert.equal(sending.result, null);
  assert.deepEqual(b.received, [counting(1000)]);
  for (const { atMs } of a.sent) {
    const within = a.sent.filter((one) => one.atMs >= atMs && one.atMs < atMs + 100);
    const bits = within.reduce((sum, { frame }) => sum + frame.data.length * 8, 0);
    assert.ok(bits <= 800, `${bits} bits in 100 ms`);
  }
  // 143 frames of 8 bytes at 1000 bytes a second.
  assert.ok(link.nowMs > 1_000 && link.nowMs < 1_300, `${link.nowMs} ms`);
});
