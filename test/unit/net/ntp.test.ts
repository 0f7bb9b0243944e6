import assert from "node:assert/strict";
import { createSocket } from "node:dgram";
import { once } from "node:events";
import { test } from "node:test";
import { loadClockState, timexLayout } from "../../../agent/sys/adjtimex.ts";
import { answer } from "../../../net/ntp/protocol.ts";
import { NtpServer } from "../../../net/ntp/server.ts";

const good = { synchronised: true, maxErrorS: 0.25 };
const bad = { synchronised: false, maxErrorS: 16 };
const log = { debug() {}, info() {}, warn() {}, error() {} };

function request(first = 0x23): Buffer {
  const packet = Buffer.alloc(48);
  packet[0] = first;
  packet.writeBigUInt64BE(0x1122334455667788n, 40);
  return packet;
}

test("a reply carries the request's time back and the host's time twice", () => {
  const reply = answer(request(), Date.UTC(2026, 0, 1) + 500, good, false) as Buffer;
  assert.equal(reply.length, 48);
  assert.equal(reply[0], 0x24, "no leap second, version 4, server");
  assert.equal(reply.toString("latin1", 12, 16), "LOCL");
  assert.equal(reply.readBigUInt64BE(24), 0x1122334455667788n);
  for (const offset of [32, 40]) {
    assert.equal(reply.readUInt32BE(offset), Date.UTC(2026, 0, 1) / 1000 + 2_208_988_800);
    assert.equal(reply.readUInt32BE(offset + 4), 0x80000000);
  }
  assert.equal(reply.readUInt32BE(8), 0.25 * 65536, "root dispersion is the clock's largest error");
});

test("a clock that nothing keeps right says so, unless its owner wants it told anyway", () => {
  const honest = answer(request(), Date.now(), bad, false) as Buffer;
  assert.equal((honest[0] ?? 0) >> 6, 3, "leap indicator: not synchronised");
  assert.equal(honest[1], 0, "stratum 16 travels as 0");
  assert.equal(honest.toString("latin1", 12, 16), "INIT");
  const anyway = answer(request(), Date.now(), bad, true) as Buffer;
  assert.equal((anyway[0] ?? 0) >> 6, 0);
  assert.equal(anyway[1], 10);
});

test("the version of a request is that of its reply", () => {
  for (const version of [1, 2, 3, 4]) {
    const reply = answer(request((version << 3) | 3), 0, good, false) as Buffer;
    assert.equal(((reply[0] ?? 0) >> 3) & 7, version);
  }
});

test("what is no request gets no answer: short packets, replies, broadcasts", () => {
  assert.equal(answer(request().subarray(0, 47), 0, good, false), undefined);
  for (const mode of [1, 2, 4, 5, 6, 7]) assert.equal(answer(request(0x20 | mode), 0, good, false), undefined);
});

test("after 2036 the seconds begin again", () => {
  const reply = answer(request(), Date.UTC(2036, 1, 7, 6, 28, 17), good, false) as Buffer;
  assert.equal(reply.readUInt32BE(40), 1);
});

test("the server answers over UDP and frees its port", async (t) => {
  const start = (port: number) => NtpServer.start({ host: "127.0.0.1", port, clock: () => good, anyway: false, log });
  const server = await start(0);
  const { port } = server;
  const client = createSocket("udp4");
  t.after(() => client.close());
  client.send(request(), port, "127.0.0.1");
  const [reply] = (await once(client, "message")) as [Buffer];
  assert.equal(reply[0], 0x24);
  server.stop();
  (await start(port)).stop();
});

test("the kernel is asked with its own struct timex", async () => {
  // sizeof(struct timex) and offsetof, from linux/timex.h on 64-bit machines.
  assert.deepEqual(timexLayout[64], { maxerror: 24, status: 40, bytes: 208 });
  const { maxErrorMicros } = (await loadClockState())();
  assert.ok(maxErrorMicros > 0 && maxErrorMicros <= 16_000_000, `${maxErrorMicros}`);
});
