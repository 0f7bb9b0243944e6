/** What breaks around a session: clear errors, nothing left open, and the exporter lives on. */
import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { readdirSync } from "node:fs";
import { mkdir, mkdtemp, rm } from "node:fs/promises";
import http2 from "node:http2";
import { createConnection } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { startExporter } from "../sim/exporter.ts";
import { createRig, eventually, pattern } from "../sim/rig.ts";
import { ended, failure, frame, WireClient } from "../sim/wire.ts";

async function start(t: TestContext) {
  const rig = createRig();
  const { exporter, socketPath } = await startExporter(t, { rig: rig.entry }, { catalog: rig.catalog });
  const client = new WireClient(t, socketPath);
  const uuid = await client.uuid("rig");
  const openFiles = () => readdirSync("/proc/self/fd").length;
  return { ...rig, exporter, socketPath, client, uuid, openFiles, filesBefore: openFiles() };
}

async function alive(client: WireClient, uuid: string): Promise<void> {
  assert.equal(await client.call(uuid, "add", [1, 1]), 2);
}

test("an argument over 4 MiB is refused, and the connection serves on", async (t) => {
  const { client, uuid } = await start(t);
  assert.match(
    await failure(client.call(uuid, "echo", ["x".repeat(5 * 1024 * 1024)])),
    /^8 SERVER: Received message larger than max \(5\d+ vs\. 4194304\)$/,
  );
  await alive(client, uuid);
});

test("garbage instead of messages, frames or HTTP/2 ends its own call or connection only", async (t) => {
  const { client, uuid, socketPath, state, openFiles, filesBefore } = await start(t);
  const session = http2.connect("http://localhost", { createConnection: () => createConnection(socketPath) });
  const request = (path: string, headers: Record<string, string> = {}) =>
    session.request({ ":method": "POST", ":path": path, "content-type": "application/grpc", ...headers });
  const status = async (stream: http2.ClientHttp2Stream, body: Buffer) => {
    const trailers: http2.IncomingHttpHeaders = {};
    const note = (headers: http2.IncomingHttpHeaders) => void Object.assign(trailers, headers);
    stream.on("response", note);
    stream.on("trailers", note);
    stream.on("error", () => {});
    stream.resume();
    stream.end(body);
    await once(stream, "close");
    return `${String(trailers["grpc-status"])} ${decodeURIComponent(String(trailers["grpc-message"]))}`;
  };
  const call = "/jumpstarter.v1.ExporterService/DriverCall";
  assert.match(await status(request(call), Buffer.from([0, 0, 0, 0, 3, 255, 255, 255])), /^3 malformed request of /);
  assert.match(await status(request(call), Buffer.from([0, 0, 0, 0, 9, 1])), /^3 the request ended before/);
  assert.match(await status(request(call), Buffer.alloc(0)), /^3 the request ended before/);
  assert.match(await status(request(call), Buffer.from([1, 0, 0, 0, 1, 1])), /^12 compressed messages/);
  assert.match(await status(request(call), Buffer.from([0, 255, 255, 255, 255])), /^8 SERVER: Received message larger/);
  assert.match(await status(request("/no.Such/Method"), Buffer.alloc(0)), /^12 /);
  const stream = request("/jumpstarter.v1.RouterService/Stream", {
    request: JSON.stringify({ kind: "driver", uuid, method: "connect" }),
  });
  assert.match(await status(stream, Buffer.from([0, 0, 0, 0, 2, 0x0a, 0x50])), /^3 malformed stream frame: cut off/);
  session.destroy();
  const raw = createConnection(socketPath);
  raw.on("error", () => {});
  raw.resume();
  raw.write("GET / HTTP/1.1\r\n\r\n");
  await once(raw, "close");
  await eventually("devices and connections are closed", () => state.openStreams === 0 && openFiles() <= filesBefore);
  await alive(client, uuid);
});

test("a client killed in the middle of an upload leaves no file, process or call behind", async (t) => {
  const { client, uuid, state, exporter, socketPath, openFiles, filesBefore } = await start(t);
  const folder = await mkdtemp(join(tmpdir(), "jmp-agent-"));
  t.after(() => rm(folder, { recursive: true, force: true }));
  for (const encoding of [null, "xz"]) {
    const script = `
      import { WireClient } from ${JSON.stringify(join(import.meta.dirname, "../sim/wire.ts"))};
      const client = new WireClient({ after() {} }, ${JSON.stringify(socketPath)});
      const { call, handle } = await client.resource(${JSON.stringify(uuid)}, ${JSON.stringify(encoding)});
      client.call(${JSON.stringify(uuid)}, "store", [handle, ${JSON.stringify(join(folder, "image"))}]).catch(() => {});
      const payload = Buffer.from([0xfd, 0x37, 0x7a, 0x58, 0x5a, 0, 0, 4, 0xe6, 0xd6, 0xb4, 0x46]);
      call.write({ payload, frameType: 0 }, () => setTimeout(() => console.log("sending"), 100));
      setInterval(() => {}, 1000);`;
    const uploader = spawn(process.execPath, ["--import", "tsx", "--input-type=module", "-e", script], {
      stdio: ["ignore", "pipe", "inherit"],
    });
    await once(uploader.stdout, "data");
    uploader.kill("SIGKILL");
    await once(uploader, "close");
    await eventually("everything is closed", () => openFiles() <= filesBefore && exporter.resources.size === 0);
  }
  assert.equal(state.openStreams, 0);
  await alive(client, uuid);
});

test("a full disk is an error with the system's text, and the client's stream ends", async (t) => {
  const folder = await mkdtemp(join(tmpdir(), "jmp-agent-full-"));
  const disk = join(folder, "disk");
  await mkdir(disk);
  t.after(async () => {
    spawnSync("umount", [disk]);
    await rm(folder, { recursive: true, force: true });
  });
  if (spawnSync("mount", ["-t", "tmpfs", "-o", "size=1m", "tmpfs", disk]).status !== 0) {
    t.skip("mounting a tmpfs needs root");
    return;
  }
  const { client, uuid, openFiles, filesBefore } = await start(t);
  const { call, handle } = await client.resource(uuid);
  const outcome = ended(call);
  const stored = failure(client.call(uuid, "store", [handle, join(disk, "image")]));
  for (const payload of pattern(8 * 1024 * 1024)) call.write({ payload, frameType: frame.data });
  assert.match(await stored, /^13 \[Errno 28\] No space left on device/);
  call.end();
  assert.equal((await outcome).code, 0);
  await eventually("files are closed", () => openFiles() <= filesBefore);
  await alive(client, uuid);
});

test("a truncated or false archive fails the call, in every encoding, many times without leaving anything", async (t) => {
  const { client, uuid, openFiles, filesBefore } = await start(t);
  const plain = Buffer.concat([...pattern(200_000)]);
  for (const [encoding, program] of [
    ["gzip", "gzip"],
    ["xz", "xz"],
    ["bz2", "bzip2"],
    ["zstd", "zstd"],
  ] as const) {
    const archive = spawnSync(program, ["-c"], { input: plain }).stdout;
    for (const bad of [archive.subarray(0, archive.length - 20), Buffer.from("this is no archive at all"), archive]) {
      const { call, handle, acceptEncoding } = await client.resource(uuid, encoding);
      assert.equal(acceptEncoding, encoding);
      const outcome = ended(call);
      const read = client.call(uuid, "read", [handle]);
      call.write({ payload: bad, frameType: frame.data });
      call.end();
      if (bad === archive) assert.equal(((await read) as { bytes: number }).bytes, plain.length);
      else assert.match(await failure(read), /^2 \w/);
      const { code, messages } = await outcome;
      assert.deepEqual([code, messages.map(({ frameType }) => frameType)], [0, [frame.goaway]]);
    }
  }
  await eventually("files are closed", () => openFiles() <= filesBefore);
  await alive(client, uuid);
});

test("memory and files are back after many broken calls, streams and uploads", async (t) => {
  const { client, uuid, state, exporter, openFiles, filesBefore } = await start(t);
  const round = async () => {
    for (let n = 0; n < 50; n += 1) {
      await failure(client.call(uuid, "fail", ["plain"]));
      const stream = client.stream({ kind: "driver", uuid, method: "connect" });
      await once(stream, "metadata");
      stream.write({ payload: Buffer.alloc(100_000), frameType: 0 });
      stream.cancel();
      const { call, handle } = await client.resource(uuid, "gzip");
      call.write({ payload: Buffer.alloc(10_000, 1), frameType: 0 });
      await failure(client.call(uuid, "read", [handle]));
      call.end();
      await ended(call);
    }
  };
  await round();
  globalThis.gc?.();
  const heapBefore = process.memoryUsage().heapUsed;
  for (let n = 0; n < 5; n += 1) await round();
  globalThis.gc?.();
  const grown = process.memoryUsage().heapUsed - heapBefore;
  assert.ok(grown < 50 * 1024 * 1024, `the heap grew by ${grown} bytes`);
  await eventually("everything is closed", () => {
    return state.openStreams === 0 && exporter.resources.size === 0 && openFiles() <= filesBefore + 1;
  });
  await alive(client, uuid);
});
