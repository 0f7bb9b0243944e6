import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { test, type TestContext } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { connect } from "../../../../agent/client/connect.ts";
import { isoTp } from "../../../../boards/isotp/interface.ts";
import { startExporter } from "../../../sim/exporter.ts";

interface Ends {
  readonly params?: Record<string, unknown>;
  readonly theirs?: Record<string, unknown>;
}

const base64 = (bytes: Uint8Array) => Buffer.from(bytes).toString("base64");

/** Two drivers on one virtual bus, seen by typed clients. */
async function startPair(t: TestContext, { params = {}, theirs = params }: Ends = {}) {
  const entry = (txid: number, rxid: number, own: Record<string, unknown>) => ({
    type: "jumpstarter_driver_can.IsoTpPython",
    config: { channel: "bus", interface: "virtual", address: { txid, rxid }, params: own },
  });
  const { socketPath, exporter } = await startExporter(t, { a: entry(1, 2, params), b: entry(2, 1, theirs) });
  const said: string[] = [];
  exporter.logs.subscribe(({ message }) => said.push(message));
  const client = await connect({ host: socketPath });
  t.after(() => client.close());
  const node = (name: string) => {
    const found = client.find(name);
    assert.ok(found);
    return found.as(isoTp);
  };
  return { a: node("a"), b: node("b"), exporter, said };
}

test("messages queue before the start, and arrive after it", async (t) => {
  const { a, b } = await startPair(t);
  const message = randomBytes(4095);
  await b.start();
  await a.send({ data: base64(message) });
  assert.equal(await a.transmitting(), true);
  assert.deepEqual(await b.recv(true, 0.05), { data: null });
  await a.start();
  assert.deepEqual(await b.recv(true, 10), { data: base64(message) });
  assert.equal(await a.transmitting(), false);
});

test("recv waits as long as it is told, and available tells whether it would", async (t) => {
  const { a, b } = await startPair(t);
  await a.start();
  await b.start();
  assert.deepEqual(await b.recv(), { data: null });
  assert.deepEqual(await b.recv(false, 10), { data: null });
  const began = performance.now();
  assert.deepEqual(await b.recv(true, 0.1), { data: null });
  assert.ok(performance.now() - began >= 99);
  const waiting = b.recv(true);
  await a.send({ data: "AQ==" });
  assert.deepEqual(await waiting, { data: "AQ==" });
  await a.send({ data: "Ag==\n" });
  await a.send({ data: "Aw==" });
  while (!(await b.available())) await sleep(1);
  assert.deepEqual(await b.recv(), { data: "Ag==" });
  assert.deepEqual(await b.recv(true), { data: "Aw==" });
  assert.equal(await b.available(), false);
});

test("a receiver that gives up loses no message", async (t) => {
  const { a, b, exporter } = await startPair(t);
  await a.start();
  await b.start();
  const cancelled = new AbortController();
  const waiting = exporter.calls("b", isoTp, { signal: cancelled.signal }).recv(true);
  const outcome = waiting.then(() => "received", String);
  await sleep(10);
  cancelled.abort(new Error("enough"));
  assert.match(await outcome, /enough/);
  await a.send({ data: "AQ==" });
  assert.deepEqual(await b.recv(true, 5), { data: "AQ==" });
});

test("stop forgets what came and what waits to be sent; frames before start are not received", async (t) => {
  const { a, b } = await startPair(t);
  await a.start();
  await a.send({ data: "AQ==" });
  await b.start();
  await a.send({ data: "Ag==" });
  while (!(await b.available())) await sleep(1);
  await b.stop();
  assert.equal(await b.available(), false);
  await b.stop();
  await b.start();
  await a.send({ data: "Aw==" });
  assert.deepEqual(await b.recv(true, 5), { data: "Aw==" });
  await assert.rejects(async () => b.start(), /Transport Layer is already started/);
});

test("a blocking send tells its end, a failure with its reason, and is not sent when its time was over", async (t) => {
  const params = { blocking_send: true, rx_flowcontrol_timeout: 150 };
  const { a, b } = await startPair(t, { params });
  await a.start();
  await assert.rejects(
    async () => a.send({ data: base64(randomBytes(20)) }),
    /^AgentError: Error while sending IsoTP frame: no flow control within 150 ms \(N_TIMEOUT_Bs\)/,
  );
  await assert.rejects(
    async () => a.send({ data: base64(randomBytes(20)) }, null, 0.02),
    /Failed to send IsoTP frame in time/,
  );
  await b.start();
  await a.send({ data: base64(Buffer.alloc(20, 7)) });
  assert.deepEqual(await b.recv(), { data: base64(Buffer.alloc(20, 7)) });
});

test("a failed send that nobody waits for is told in the log", async (t) => {
  const { a, said } = await startPair(t, { params: { rx_flowcontrol_timeout: 30 } });
  await a.start();
  await a.send({ data: base64(randomBytes(20)) });
  while (await a.transmitting()) await sleep(5);
  assert.ok(
    said.some((text) => /a message of 20 bytes was not sent: no flow control within 30 ms/.test(text)),
    said.join("\n"),
  );
});

test("stop_sending ends what is being sent, stop_receiving what is being received", async (t) => {
  const { a, b } = await startPair(t, {
    params: { blocking_send: true, stmin: 20, rx_consecutive_frame_timeout: 100 },
  });
  await a.start();
  await b.start();
  const sending = a.send({ data: base64(randomBytes(200)) });
  const outcome = sending.then(() => "sent", String);
  await sleep(50);
  await a.stop_sending();
  assert.match(await outcome, /Error while sending IsoTP frame: stopped/);
  const second = a.send({ data: base64(randomBytes(40)) }).then(() => "sent", String);
  await sleep(30);
  await b.stop_receiving();
  await second;
  assert.equal(await b.available(), false);
});

test("a functional message is one frame, and listen mode sends nothing", async (t) => {
  const { a, b } = await startPair(t, { params: {}, theirs: { listen_mode: true } });
  await b.start();
  await a.start();
  await assert.rejects(
    async () => a.send({ data: base64(randomBytes(8)) }, 1),
    /Cannot send multi packet frame with Functional/,
  );
  await assert.rejects(async () => a.send({ data: "AQ==" }, 2 as 1), /is not a valid TargetAddressType/);
  await a.send({ data: base64(Buffer.alloc(7, 1)) }, 1);
  assert.deepEqual(await b.recv(true, 5), { data: base64(Buffer.alloc(7, 1)) });
  await assert.rejects(async () => b.send({ data: "AQ==" }), /Cannot transmit when listen_mode=True/);
});

test("the end of a lease stops the driver and brings its configured address back", async (t) => {
  const { a, b, exporter } = await startPair(t);
  await a.set_address({ txid: 5, rxid: 6 });
  await a.start();
  await b.start();
  await a.send({ data: "AQ==" });
  assert.deepEqual(await b.recv(true, 0.05), { data: null });
  await exporter.tree.release();
  await a.start();
  await b.start();
  await a.send({ data: "Ag==" });
  assert.deepEqual(await b.recv(true, 5), { data: "Ag==" });
});

test("a message of 1 MiB arrives, and leaves the others their turn", async (t) => {
  const params = { blocking_send: true, max_frame_size: 1 << 20, tx_data_length: 64, blocksize: 0 };
  const { a, b } = await startPair(t, { params });
  await a.start();
  await b.start();
  const message = randomBytes(1 << 20);
  let turns = 0;
  const clock = setInterval(() => (turns += 1), 5);
  await a.send({ data: base64(message) });
  clearInterval(clock);
  const { data } = await b.recv(true, 5);
  assert.ok(data === base64(message));
  assert.ok(turns >= 2, `${turns} turns`);
});

test("STmin is kept on the clock, below a millisecond, too", async (t) => {
  for (const [stmin, leastMs, mostMs] of [[2, 2 * 19, 400], [0xf2, 0.2 * 19, 200]] as const) {
    const { a, b } = await startPair(t, { params: { blocking_send: true, blocksize: 0, stmin } });
    await a.start();
    await b.start();
    const began = performance.now();
    await a.send({ data: base64(randomBytes(6 + 7 * 20)) });
    const took = performance.now() - began;
    assert.ok(took >= leastMs && took < mostMs, `STmin ${stmin}: ${took} ms`);
  } // prettier-ignore
});

test("data that is no base64 is refused", async (t) => {
  const { a } = await startPair(t);
  await assert.rejects(async () => a.send({ data: "?" }), /data is no base64/);
  await assert.rejects(async () => a.send({ data: "AQ=" }), /data is no base64/);
  await assert.rejects(async () => a.send({ data: null as never }), /data must be bytes/);
});
