import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { open } from "node:fs/promises";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { BlockQueue } from "../../../net/tftp/blocks.ts";
import { blockDistance, blockNumber, buildAck, buildOack, parsePacket } from "../../../net/tftp/protocol.ts";
import { RoundTrip } from "../../../net/tftp/rtt.ts";
import type { Outcome } from "../../../net/tftp/outcome.ts";
import { OctetPayload } from "../../../net/tftp/payload.ts";
import { Transfer } from "../../../net/tftp/transfer.ts";
import { folderWith, inShort, until } from "../../sim/tftp.ts";

/** A transfer of `blocks` blocks of 8 bytes (the last one empty) without a network: what it sends lands in `sent`. */
async function transferOf(t: TestContext, blocks: number, windowSize: number, oack?: Uint8Array) {
  const root = await folderWith(t, { file: randomBytes((blocks - 1) * 8) });
  const sent: string[] = [];
  const outcomes: Outcome[] = [];
  let isRead: () => void = () => {};
  const read = new Promise<void>((resolve) => (isRead = resolve));
  const file = await open(join(root, "file"));
  const queue = new BlockQueue({
    payload: new OctetPayload(file, (blocks - 1) * 8),
    blockSizeBytes: 8,
    windowSize,
    rollover: 0,
    onClose: () => void file.close(),
    onReady: (failure) => {
      transfer.ready(failure);
      isRead();
    },
  });
  const transfer = new Transfer({
    blocks: queue,
    windowSize,
    rollover: 0,
    oack,
    send: (packets, strideBytes = packets.length) => {
      for (let at = 0; at < packets.length; at += strideBytes) {
        sent.push(inShort(parsePacket(packets.subarray(at, at + strideBytes))));
      }
    },
    onEnd: (outcome) => outcomes.push(outcome),
    retransmission: { floorMs: 100, ceilingMs: 1_000 },
    silenceMs: 60_000,
    totalMs: 60_000,
  });
  t.after(() => transfer.close());
  transfer.start();
  await read;
  return {
    outcomes,
    ack: (block: number) => transfer.receive(buildAck(block)),
    /** The numbers of the blocks sent since the last look. */
    look: () => sent.splice(0).map((packet) => (packet.startsWith("DATA") ? Number(packet.split(" ")[1]) : packet)),
    sent,
    transfer,
  };
}

test("window 1: a duplicate ACK is never answered (Sorcerer's Apprentice), one from the future neither", async (t) => {
  const { ack, look, outcomes } = await transferOf(t, 4, 1);
  assert.deepEqual(look(), [1]);
  for (let copy = 0; copy < 3; copy += 1) ack(1);
  const sentMs = performance.now();
  assert.deepEqual(look(), [2]);
  // Later than any answer takes, so that none is taken for an echo; a window would be begun anew after a pause of 5 ms.
  await new Promise((resolve) => setTimeout(resolve, 10));
  for (const number of [1, 0, 3, 4, 9, 65_535]) ack(number);
  await new Promise((resolve) => setTimeout(resolve, 20));
  const early = look();
  // On a slow machine the timer has repeated it meanwhile.
  if (performance.now() - sentMs < 90) assert.deepEqual(early, []);
  for (const number of [2, 1, 2, 3]) ack(number);
  assert.deepEqual(look(), [3, 4]);
  ack(4);
  ack(4);
  assert.deepEqual(look(), []);
  assert.deepEqual(outcomes, [{ kind: "complete" }]);
});

test("only the timer repeats what was lost", async (t) => {
  const { ack, look, sent } = await transferOf(t, 4, 1);
  assert.deepEqual(look(), [1]);
  await until(() => sent.length > 0);
  assert.deepEqual(look()[0], 1);
  ack(1);
  assert.deepEqual(look().at(-1), 2);
});

test("a window ends at the last block, and its ACK ends the transfer", async (t) => {
  const { ack, look, outcomes } = await transferOf(t, 6, 4);
  assert.deepEqual(look(), [1, 2, 3, 4]);
  ack(4);
  assert.deepEqual(look(), [5, 6]);
  ack(6);
  assert.deepEqual(outcomes, [{ kind: "complete" }]);
});

test("an ACK below the window's end starts the window behind it", async (t) => {
  const { ack, look, sent } = await transferOf(t, 40, 4);
  look();
  ack(4);
  assert.deepEqual(look(), [5, 6, 7, 8]);
  ack(6);
  // Not at once: the client still has to drop 8.
  assert.deepEqual(look(), []);
  await until(() => sent.length > 0);
  assert.deepEqual(look(), [7, 8, 9, 10]);
  for (const stale of [4, 5, 0, 11, 12]) ack(stale);
  assert.deepEqual(look(), []);
});

test("the ACK before a window, again, starts it anew: once", async (t) => {
  const { ack, look, sent } = await transferOf(t, 40, 4);
  look();
  ack(4);
  assert.deepEqual(look(), [5, 6, 7, 8]);
  await new Promise((resolve) => setTimeout(resolve, 10));
  // Perhaps the timer was quicker on a slow machine; then nothing more is due.
  const early = look();
  for (let copy = 0; copy < 5; copy += 1) ack(4);
  await until(() => early.length + sent.length > 0);
  assert.deepEqual([...early, ...look()].slice(0, 4), [5, 6, 7, 8]);
  for (let copy = 0; copy < 5; copy += 1) ack(4);
  assert.deepEqual(look(), []);
});

test("an ACK that comes sooner than any answer could is an echo", async (t) => {
  // On a slow machine the timer may repeat the OACK meanwhile, which is another story: begin again.
  let transfer;
  do {
    transfer = await transferOf(t, 40, 4, buildOack([["windowsize", "4"]]));
    assert.deepEqual(transfer.look(), ["OACK windowsize=4"]);
    await new Promise((resolve) => setTimeout(resolve, 50));
  } while (transfer.look().length > 0);
  const { ack, look } = transfer;
  ack(0);
  ack(0);
  ack(0);
  assert.deepEqual(look(), [1, 2, 3, 4]);
});

test("the retransmission timeout follows the round trips, between 100 ms and 1 s", () => {
  const roundTrip = new RoundTrip({ floorMs: 100, ceilingMs: 1_000 });
  assert.equal(roundTrip.timeoutMs, 100);
  for (let sample = 0; sample < 20; sample += 1) roundTrip.sample(0.05);
  assert.equal(roundTrip.timeoutMs, 100);
  assert.equal(roundTrip.shortestMs, 0.05);
  for (let sample = 0; sample < 50; sample += 1) roundTrip.sample(200);
  assert.ok(roundTrip.timeoutMs > 200 && roundTrip.timeoutMs < 300, `${roundTrip.timeoutMs}`);
  for (let loss = 0; loss < 10; loss += 1) roundTrip.lost();
  assert.equal(roundTrip.timeoutMs, 1_000);
  roundTrip.heard();
  assert.ok(roundTrip.timeoutMs < 300);
});

test("block numbers wrap to 0 or to 1, again and again, and are told from the nearest ones", () => {
  const around = (rollover: 0 | 1) => [65_534, 65_535, 65_536, 65_537, 131_070, 131_071, 131_072].map((block) => blockNumber(block, rollover)); // prettier-ignore
  assert.deepEqual(around(0), [65_534, 65_535, 0, 1, 65_534, 65_535, 0]);
  assert.deepEqual(around(1), [65_534, 65_535, 1, 2, 65_535, 1, 2]);
  for (const rollover of [0, 1] as const) {
    for (const block of [40_000, 65_530, 65_536, 131_069, 200_000]) {
      for (const distance of [-32_000, -1, 0, 1, 16, 32_000]) {
        assert.equal(blockDistance(block, blockNumber(block + distance, rollover), rollover), distance);
      }
    }
  }
});
