import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { connect } from "node:net";
import { test } from "node:test";
import { startHttp } from "../sim/http.ts";
import type { OptionList } from "../../net/tftp/protocol.ts";
import { lossyProxy } from "../sim/lossy-proxy.ts";
import { ownTime } from "../sim/run-delay.ts";
import { download, folderWith, startTftp, TftpPeer, until } from "../sim/tftp.ts";

const window = (size: number): OptionList => [
  ["blksize", "1468"],
  ["windowsize", String(size)],
  ["timeout", "5"],
];

test("TFTP under loss, reordering and duplication: the bytes arrive as they are", async (t) => {
  const whole = randomBytes(400_000);
  const server = await startTftp(t, await folderWith(t, { file: whole }));
  for (const [loss, windowSize, bytes] of [
    [0.01, 1, 400_000],
    [0.01, 16, 400_000],
    [0.05, 1, 400_000],
    [0.05, 16, 400_000],
    [0.2, 16, 100_000],
  ] as const) {
    const part = whole.subarray(0, bytes);
    const { port } = await startTftp(t, await folderWith(t, { file: part }));
    const proxy = await lossyProxy(t, { targetPort: port, loss, reorder: 0.05, duplicate: 0.02, seed: windowSize });
    const got = await download(t, { port: proxy.port, filename: "file", options: window(windowSize), repeatMs: 5_000 });
    assert.ok(got.equals(part), `${loss * 100} % loss, window ${windowSize}`);
  }
  // No loss, but every third packet late: nothing may be lost or doubled either.
  const proxy = await lossyProxy(t, { targetPort: server.port, reorder: 0.3, duplicate: 0.1 });
  for (const size of [1, 4, 16]) {
    const got = await download(t, { port: proxy.port, filename: "file", options: window(size) });
    assert.ok(got.equals(whole), `reordered, window ${size}`);
  }
});

test("a client that repeats its ACKs only every 5 s, as U-Boot does, is carried over many losses", async (t) => {
  const whole = randomBytes(1468 * 200);
  const { port } = await startTftp(t, await folderWith(t, { file: whole }));
  const proxy = await lossyProxy(t, { targetPort: port, loss: 0.03, seed: 7 });
  let silences = 0;
  const peer = await TftpPeer.open(t, proxy.port);
  const parts: Uint8Array[] = [];
  const options = window(1);
  peer.request("file", options);
  let heard = await peer.next(5_000);
  for (;;) {
    if (heard === undefined) {
      // U-Boot gives up after ten of these.
      silences += 1;
      if (parts.length === 0 && peer.transferPort === undefined) peer.request("file", options);
      else peer.ack(parts.length);
    } else if (heard.packet.op === "oack") peer.ack(0);
    else if (heard.packet.op === "data") {
      if (heard.packet.block === parts.length + 1) parts.push(heard.packet.data);
      peer.ack(parts.length);
      if (parts.length === 201) break;
    }
    heard = await peer.next(5_000);
  }
  assert.ok(Buffer.concat(parts).equals(whole));
  assert.ok(silences <= 3, `${silences} timeouts of the client`);
});

test("64 clients at once are all served", async (t) => {
  const whole = randomBytes(200_000);
  const server = await startTftp(t, await folderWith(t, { file: whole }));
  const fetched = await Promise.all(
    Array.from({ length: 64 }, () => download(t, { port: server.port, filename: "file", options: window(8) })),
  );
  assert.ok(fetched.every((one) => one.equals(whole)));
  await until(() => server.transfers === 0);
});

test("transfers that end in any way leave no socket, file or timer behind", async (t) => {
  const whole = randomBytes(100_000);
  const server = await startTftp(t, await folderWith(t, { file: whole }), { limits: { silenceMs: 200 } });
  const settle = () => until(() => server.transfers === 0);
  const resources = () => process.getActiveResourcesInfo().sort().join(" ");
  const round = async () => {
    await download(t, { port: server.port, filename: "file" });
    await assert.rejects(download(t, { port: server.port, filename: "missing" }));
    for (const end of ["error", "silence"] as const) {
      const peer = await TftpPeer.open(t, server.port);
      peer.request("file", window(4));
      await peer.next();
      if (end === "error") peer.error(0, "no more");
      peer.close();
    }
    await settle();
    await new Promise((resolve) => setTimeout(resolve, 50));
  };
  await round();
  const before = resources();
  for (let again = 0; again < 5; again += 1) await round();
  assert.equal(resources(), before);
});

test("slow HTTP clients are cut after the headers' time", async (t) => {
  const server = await startHttp(t, await folderWith(t, { file: "content" }), { headersMs: 1_500 });
  const slow = Array.from({ length: 16 }, () =>
    connect(server.port, "127.0.0.1")
      .on("error", () => {})
      .resume(),
  );
  t.after(() => slow.forEach((socket) => socket.destroy()));
  for (const socket of slow) socket.write("GET /file HTTP/1.1\r\n");
  const drip = setInterval(() => slow.forEach((socket) => socket.write("X")), 200);
  t.after(() => clearInterval(drip));
  await until(() => server.connections === 16);
  await until(() => server.connections === 0, 5_000);
});

for (const how of ["send", "read"] as const) {
  test(`500 connections that ${how} a byte in 5 s do not delay a healthy one by a second`, async (t) => {
    const root = await folderWith(t, { file: "content", big: Buffer.alloc(32 << 20) });
    const server = await startHttp(t, root);
    const slow = spawn(process.execPath, ["test/sim/slow-http-clients.mjs", String(server.port), "500", how]);
    t.after(() => slow.kill());
    let cuts = "";
    slow.stdout.on("data", (data) => (cuts = String(data).trim()));
    await until(() => server.connections === 256, 20_000);
    const tookMs: number[] = [];
    const end = performance.now() + 7_000;
    for (let round = 0; performance.now() < end; round += 1) {
      // From an address of its own, and from one that slow ones have too. A download that has just begun is not slow.
      const localAddress = how === "read" || round % 2 === 0 ? "127.0.0.9" : "127.0.3.7";
      // A processor that other suites have is not what the connections do.
      const elapsedMs = ownTime();
      const got = await fetchOnce(server.port, localAddress);
      tookMs.push(elapsedMs());
      assert.match(got, /^HTTP\/1\.1 200 [^]*content$/, `${localAddress} in round ${round}`);
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    tookMs.sort((a, b) => a - b);
    // What the connections do, they do to all.
    const almostWorstMs = tookMs[Math.floor(tookMs.length * 0.9)] ?? Infinity;
    assert.ok(almostWorstMs < 1_000, `${almostWorstMs.toFixed(0)} ms`);
    assert.ok(server.connections <= 256);
    t.diagnostic(
      `nine of ten answers took ${almostWorstMs.toFixed(0)} ms or less; slow connections were cut ${cuts} times`,
    );
  });
}

/** One GET of `/file` on a new connection. @returns all that was heard */
async function fetchOnce(port: number, localAddress: string): Promise<string> {
  const socket = connect({ port, host: "127.0.0.1", localAddress });
  let heard = "";
  socket.on("data", (data) => (heard += data.toString())).on("error", (error) => (heard += String(error)));
  socket.write("GET /file HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
  await once(socket, "close");
  return heard;
}
