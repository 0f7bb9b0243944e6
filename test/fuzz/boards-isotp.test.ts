// ISO-TP: whatever comes in, nothing breaks; whatever a bus does to frames, no wrong message comes out.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import type { LinkFrame } from "../../boards/isotp/machine.ts";
import { buildConsecutive, buildFirst, buildFlow, buildSingle, parsePdu } from "../../boards/isotp/protocol.ts";
import { addressOf, createLink, plainAddress, turned, type Fate, type Params } from "../sim/isotp-link.ts";

const frameData = fc.oneof(
  fc.uint8Array({ maxLength: 8 }),
  fc.uint8Array({ maxLength: 64 }),
  // Most random bytes are no frame of the protocol.
  fc
    .tuple(fc.nat(0x3f), fc.uint8Array({ minLength: 7, maxLength: 7 }))
    .map(([first, rest]) => Uint8Array.of(first, ...rest)),
  fc.tuple(fc.nat(0x3f), fc.constantFrom(8, 12, 16, 20, 24, 32, 48, 64), fc.nat(255), fc.nat(255)).map(
    ([first, length, second, third]) => {
      const data = new Uint8Array(length).fill(third);
      data.set([first, second]);
      return data;
    },
  ),
); // prettier-ignore

test("PCI: a frame is decoded within its bounds, and what it is encodes to it again", () => {
  fc.assert(
    fc.property(frameData, fc.constantFrom(0, 1), (data, prefixBytes) => {
      const pdu = parsePdu(data, prefixBytes);
      const prefix = data.slice(0, prefixBytes);
      const layout = { frameBytes: data.length, leastBytes: data.length, padding: 0 };
      const header = (built: Uint8Array, length: number) =>
        assert.deepEqual(built.subarray(0, length), data.subarray(0, length));
      switch (pdu.kind) {
        case "single": {
          assert.ok(pdu.data.length > 0 && pdu.data.length < data.length);
          const wide = { ...layout, frameBytes: Math.max(8, data.length) };
          const start = data.length > 8 ? prefixBytes + 2 : prefixBytes + 1;
          header(buildSingle(wide, prefix, pdu.data), start + pdu.data.length);
          break;
        }
        case "first": {
          assert.ok(pdu.messageBytes > pdu.data.length && pdu.frameBytes === data.length);
          if (pdu.messageBytes > 100_000) break;
          const message = new Uint8Array(pdu.messageBytes);
          message.set(pdu.data);
          assert.deepEqual(buildFirst(layout, prefix, message).data, data);
          break;
        }
        case "consecutive":
          assert.equal(pdu.data.length, data.length - prefixBytes - 1);
          header(buildConsecutive(layout, prefix, pdu.sequence, pdu.data), data.length);
          break;
        case "flow":
          assert.ok(pdu.separationMs >= 0 && pdu.separationMs <= 127);
          if (pdu.status === "reserved") break;
          header(buildFlow(layout, prefix, { ...pdu, status: pdu.status, stmin: data[prefixBytes + 2] ?? 0 }), prefixBytes + 3);
          break;
        case "invalid":
          assert.ok(pdu.reason.length > 0);
      } // prettier-ignore
    }),
    { numRuns: 20_000 },
  );
});

const mode = fc.constantFrom(
  { txid: 1, rxid: 2 },
  { addressing_mode: 2, target_address: 1, source_address: 2 },
  { addressing_mode: 5, txid: 1, rxid: 2, address_extension: 3 },
);
const params: fc.Arbitrary<Params> = fc.record({
  blocksize: fc.constantFrom(0, 1, 2, 8, 255),
  stmin: fc.constantFrom(0, 1, 0xf1, 0x90),
  tx_data_length: fc.constantFrom(8, 12, 64),
  wftmax: fc.constantFrom(0, 1, 3),
  max_frame_size: fc.constantFrom(20, 500, 70_000),
  listen_mode: fc.boolean(),
  rate_limit_enable: fc.boolean(),
  rate_limit_max_bitrate: fc.constantFrom(10_000, 10_000_000),
  tx_padding: fc.constantFrom(null, 0xaa),
});

test("whatever frames come, a node stays sane: messages are what frames said, and everything ends", () => {
  fc.assert(
    fc.property(
      mode,
      params,
      fc.array(fc.tuple(frameData, fc.boolean(), fc.constantFrom(0, 0, 0, 1, 50, 1100)), { maxLength: 12 }),
      fc.array(fc.tuple(fc.nat(11), fc.integer({ min: 1, max: 90 })), { maxLength: 3 }),
      (given, nodeParams, incoming, outgoing) => {
        const address = addressOf(given);
        const link = createLink();
        const node = link.node(address, nodeParams);
        const sent = incoming.flatMap(([data, isForUs, pauseMs], index) => {
          const begun = outgoing.filter(([at]) => at === index);
          const sendings = begun.map(([, length]) => node.send(new Uint8Array(length)));
          const { extended, prefix, id } = address.rx;
          if (isForUs) data.set(prefix.subarray(0, data.length));
          link.inject({ id: isForUs ? id.physical : id.functional, extended, data });
          link.run(pauseMs);
          return sendings;
        });
        link.run(60_000);
        assert.ok(sent.every(({ result }) => result !== undefined));
        assert.equal(node.machine.transmitting, false);
        assert.equal(node.machine.deadlineMs, undefined);
        for (const message of node.received) assert.ok(message.length > 0 && message.length <= 70_000);
        for (const { frame } of node.sent) assert.ok(frame.data.length <= Number(nodeParams.tx_data_length));
      },
    ),
    { numRuns: 10_000 },
  );
});

/** Messages that differ everywhere: byte `i` of message `n` tells both. */
const message = (number: number, length: number) =>
  Uint8Array.from({ length }, (_, index) => (number * 37 + index * 11 + (index >> 8) * 3 + (index >> 4)) & 0xff);

interface Disturbance {
  /** Chances of a frame, of 100. */
  readonly lost: number;
  readonly doubled: number;
  readonly late: number;
  readonly lateMs?: number;
  readonly refused: number;
}

/** What happens to the frames of a bus that keeps their order. */
function disturbed(random: () => number, chances: Disturbance): (frame: LinkFrame, atMs: number) => Fate {
  const free = new Map<number, number>();
  return (frame, atMs) => {
    const dice = random() * 100;
    if (dice < chances.refused) return "refused";
    if (dice < chances.refused + chances.lost) return { afterMs: [] };
    // A late frame holds up those of its sender behind it; nothing overtakes.
    const lateMs = random() * 100 < chances.late ? random() * (chances.lateMs ?? 0) : 0;
    const arrivesMs = Math.max(atMs + lateMs, (free.get(frame.id) ?? 0) + 0.001);
    free.set(frame.id, arrivesMs);
    const times = random() * 100 < chances.doubled ? 2 : 1;
    return { afterMs: Array<number>(times).fill(arrivesMs - atMs) };
  };
}

function mulberry32(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
  };
}

const chance = fc.constantFrom(0, 0, 1, 5, 20);
const lengths = fc.array(fc.oneof(fc.integer({ min: 1, max: 40 }), fc.integer({ min: 41, max: 700 })), {
  minLength: 1,
  maxLength: 6,
});

/** Sends the messages both ways, one after the other as fast as it goes, or with silence between them. */
function exchange(seed: number, chances: Disturbance, lengths: readonly number[], some: Params, pauseMs: number) {
  const link = createLink({ fate: disturbed(mulberry32(seed), chances) });
  const a = link.node(plainAddress(), { ...some, max_frame_size: 4095, listen_mode: false });
  const b = link.node(turned(plainAddress()), { ...some, max_frame_size: 4095, listen_mode: false });
  const sent = lengths.flatMap((length, number) => {
    const pair = [a.send(message(number * 2, length)), b.send(message(number * 2 + 1, length))];
    if (pauseMs > 0) link.run(pauseMs);
    return pair;
  });
  link.run(200_000);
  const check = (received: readonly Uint8Array[], from: number) => {
    const texts = lengths.map((length, number) => Buffer.from(message(number * 2 + from, length)).toString("hex"));
    let at = -1;
    for (const one of received) {
      const found = texts.indexOf(Buffer.from(one).toString("hex"), at < 0 ? 0 : at);
      assert.ok(found !== -1, `a wrong message: ${Buffer.from(one).toString("hex")}`);
      at = found;
    }
    return received.length;
  };
  const arrived = check(b.received, 0) + check(a.received, 1);
  assert.ok(
    sent.every(({ result }) => result !== undefined),
    "a message without an end",
  );
  assert.equal(a.machine.deadlineMs, undefined);
  assert.equal(b.machine.deadlineMs, undefined);
  const isUndisturbed = chances.lost + chances.doubled + chances.late + chances.refused === 0;
  if (isUndisturbed) assert.equal(arrived, sent.length);
}

// With N_Bs and N_Cr of a second. Of losses together with answers that are later than N_Bs nothing can be promised: a late flow
// control lets the next message go on whose first frame was lost, and nothing tells its frames from those of the last one.
test("frames are lost, late or cannot be sent: never a wrong message, and everything ends", () => {
  const some = fc.record({
    lost: chance,
    doubled: fc.constant(0),
    late: chance,
    lateMs: fc.constant(450),
    refused: chance,
  });
  fc.assert(
    fc.property(fc.nat(), some, lengths, params, (seed, chances, messages, others) => {
      exchange(seed, chances, messages, others, 0);
    }),
    { numRuns: 1_000 },
  );
});

test("frames are later than every timeout: never a wrong message, and everything ends", () => {
  const some = fc.record({
    lost: fc.constant(0),
    doubled: fc.constant(0),
    late: chance,
    lateMs: fc.constant(3000),
    refused: chance,
  });
  fc.assert(
    fc.property(fc.nat(), some, lengths, params, (seed, chances, messages, others) => {
      exchange(seed, chances, messages, others, 0);
    }),
    { numRuns: 1_000 },
  );
});

// A doubled flow control that comes when its message has ended is taken for that of the next message: the protocol has
// nothing that tells them apart. CAN doubles a frame only when its last bit is disturbed, and then there is time.
test("frames are doubled, too, with silence between messages: never a wrong message, and everything ends", () => {
  const chances = fc.record({ lost: chance, doubled: chance, late: fc.constant(0), refused: chance });
  fc.assert(
    fc.property(fc.nat(), chances, lengths, params, (seed, some, messages, others) => {
      exchange(seed, some, messages, others, 30_000);
    }),
    { numRuns: 1_000 },
  );
});
