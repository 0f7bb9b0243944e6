// The real ustreamer, which has no camera here, and a double of it for pictures. With a camera: test/kernel/guest/camera.ts.
import assert from "node:assert/strict";
import { once } from "node:events";
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { test, type TestContext } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { createExporter } from "../../../../agent/session/exporter.ts";
import { findProgram } from "../../../../agent/sys/program.ts";
import driver from "../../../../boards/ustreamer/driver.ts";
import { commandLine, readState } from "../../../../boards/ustreamer/protocol.ts";
import { ustreamer } from "../../../../boards/video/interface.ts";
import { isAlive } from "../../../sim/processes.ts";
import { leftBright } from "../../../sim/pictures.ts";

const double = resolve("test/sim/ustreamer.mjs");

async function exporterOf(t: TestContext, config: Record<string, unknown>) {
  const entry = { type: "jumpstarter_driver_ustreamer.driver.UStreamer", config };
  const exporter = await createExporter({ name: "test", export: { camera: entry } });
  t.after(() => exporter.close());
  const log: string[] = [];
  exporter.logs.subscribe(({ message }) => log.push(message));
  const camera = (signal?: AbortSignal) => exporter.calls("camera", ustreamer, signal === undefined ? {} : { signal });
  return { exporter, camera, log };
}

/** The double with its story. */
async function played(
  t: TestContext,
  first: Record<string, unknown> = {},
  args: Record<string, unknown> = {},
  warm_up = 5,
) {
  const folder = mkdtempSync(join(tmpdir(), "jmp-ustreamer-"));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  const [storyPath, livesPath] = [join(folder, "story"), join(folder, "lives")];
  const tell = (story: Record<string, unknown>) =>
    writeFileSync(storyPath, JSON.stringify({ picture: leftBright.toString("base64"), ...story }));
  tell(first);
  writeFileSync(livesPath, "");
  /** `PID WORDS` of each start so far. */
  const lives = () => readFileSync(livesPath, "utf8").trim().split("\n").filter(Boolean);
  const config = { executable: double, warm_up, args: { ...args, story: storyPath, lives: livesPath } };
  return { tell, lives, ...(await exporterOf(t, config)) };
}

const pidOf = (life: string | undefined) => Number(life?.split(" ")[0]);
const folders = () => readdirSync(tmpdir()).filter((name) => name.startsWith("ustreamer-"));

test("it runs from the first use or the lease's start to the lease's end, and not before", async (t) => {
  const { exporter, camera, lives } = await played(t, {}, { device: "/dev/video7", persistent: null });
  await sleep(50);
  assert.deepEqual(lives(), []);
  assert.equal(await camera().snapshot(), leftBright.toString("base64"));
  assert.deepEqual(await camera().state(), {
    ...{ online: true, width: 48, height: 32, fps: 30, ok: true },
    result: {
      encoder: { type: "CPU", quality: 80 },
      source: { online: true, desired_fps: 30, captured_fps: 30, resolution: { width: 48, height: 32 } },
    },
  });
  const [first, ...more] = lives();
  assert.deepEqual(more, []);
  assert.match(first ?? "", /^\d+ --device \/dev\/video7 --persistent --story \S+ --lives \S+ --unix \/\S+\/socket$/);
  const socket = first?.split(" ").at(-1) ?? "";
  assert.ok(folders().includes(socket.split("/").at(-2) ?? ""));

  await exporter.tree.release();
  await exporter.tree.release();
  assert.equal(isAlive(pidOf(first)), false);
  assert.ok(!folders().includes(socket.split("/").at(-2) ?? ""));
  await exporter.tree.reset();
  while (lives().length < 2) await sleep(10);
  await camera().state();
  await exporter.close();
  assert.equal(lives().length, 2);
  assert.equal(isAlive(pidOf(lives()[1])), false);
});

test("its stream goes through as it is", async (t) => {
  const { camera } = await played(t);
  assert.equal(await camera().stream_path(), "/stream");
  const stream = await camera().connect();
  stream.write("GET /stream HTTP/1.1\r\nHost: localhost\r\n\r\n");
  const chunks: Buffer[] = [];
  for await (const chunk of stream as AsyncIterable<Buffer>) {
    chunks.push(chunk);
    if (Buffer.concat(chunks).includes(leftBright)) break;
  }
  assert.match(Buffer.concat(chunks).toString("latin1"), /^HTTP\/1\.1 200 OK\r\n/);
});

test("one that dies is started again; meanwhile calls fail at once with its last words", async (t) => {
  const { camera, lives, tell, log } = await played(t);
  await camera().state();
  tell({ dies: "Can't open device" });
  process.kill(pidOf(lives()[0]), "SIGKILL");
  while (lives().length < 2) await sleep(10);
  await assert.rejects(
    async () => {
      for (;;) await camera().state();
    },
    { code: "E_DEVICE_OFFLINE", message: "ustreamer has ended (exit 1): -- ERROR [1.000 main] -- Can't open device" },
  );
  const began = performance.now();
  await assert.rejects(camera().snapshot(), { code: "E_DEVICE_OFFLINE" });
  assert.ok(performance.now() - began < 200);
  tell({});
  while (lives().length < 3) await sleep(10);
  await camera().snapshot();
  assert.match(log.join("\n"), /ustreamer has ended \(SIGKILL\): it printed nothing; next start in 0.5 s/);
});

test("no picture is never a picture", async (t) => {
  const { camera, tell } = await played(t, { online: false });
  setTimeout(() => tell({}), 200);
  // A camera that needs a moment for its first frame is waited for.
  assert.equal(await camera().snapshot(), leftBright.toString("base64"));
  tell({ picture: Buffer.from("<html>no</html>").toString("base64") });
  await assert.rejects(camera().snapshot(), {
    code: "E_FAILED",
    message: /sent no picture but 15 bytes of image\/jpeg/,
  });
  tell({ picture: "" });
  await assert.rejects(camera().snapshot(), { code: "E_FAILED", message: "no frame received from ustreamer" });
  tell({ status: 500 });
  await assert.rejects(camera().snapshot(), { code: "E_IO", message: "ustreamer answered 500" });
  tell({ picture: Buffer.alloc(3_200_000, 0xff).toString("base64") });
  await assert.rejects(camera().snapshot(), { code: "E_LIMIT" });
  tell({ state: "{}" });
  await assert.rejects(camera().state(), { code: "E_INVALID", message: /unknown words/ });
  tell({ state: '{"ok": true' });
  await assert.rejects(camera().state(), { code: "E_INVALID" });
});

test("a camera without a signal is UNAVAILABLE, by status as by header", async (t) => {
  const { camera, tell } = await played(t, { status: 503 }, {}, 0.2);
  const off = { code: "E_DEVICE_OFFLINE", message: "the camera has no signal" };
  await assert.rejects(camera().snapshot(), off);
  tell({ online: false });
  await assert.rejects(camera().snapshot(), off);
  assert.equal((await camera().state()).online, false);
});

test("a call that is cancelled, and one at the lease's end, end at once", async (t) => {
  const { camera, exporter, tell, lives } = await played(t);
  await camera().state();
  tell({ silent: true });
  const cancel = new AbortController();
  const call = camera(cancel.signal).snapshot();
  setTimeout(() => cancel.abort(new Error("enough")), 50);
  await assert.rejects(call, /enough/);
  const other = camera().snapshot();
  const failed = assert.rejects(other, { code: "E_CONNECTION" });
  setTimeout(() => void exporter.tree.release(), 50);
  await failed;

  // One that waits for a picture does not start it again.
  tell({ online: false });
  const waiting = camera().snapshot();
  while (lives().length < 2) await sleep(10);
  const ended = assert.rejects(waiting, { code: /E_DEVICE_OFFLINE|E_CONNECTION/ });
  setTimeout(() => void exporter.tree.release(), 300);
  await ended;
  await sleep(200);
  assert.equal(lives().length, 2);
});

test("the real program", { skip: findProgram("ustreamer") === undefined && "ustreamer is missing" }, async (t) => {
  const { camera, exporter } = await exporterOf(t, {
    args: { device: "/dev/video-nowhere", "device-timeout": 1 },
    warm_up: 0.5,
  });
  const { online, ok, result } = await camera().state();
  assert.deepEqual([online, ok, result.encoder.type], [false, true, "CPU"]);
  // It shows a picture that says NO SIGNAL, with status 200.
  await assert.rejects(camera().snapshot(), { code: "E_DEVICE_OFFLINE", message: "the camera has no signal" });
  const stream = await camera().connect();
  stream.write("GET /stream HTTP/1.0\r\n\r\n");
  const [chunk] = (await once(stream, "data")) as [Buffer];
  assert.match(chunk.toString("latin1"), /^HTTP\/1\.0 200 OK/);
  stream.resume();
  const ended = once(stream, "end");
  await exporter.tree.release();
  await ended;
  stream.destroy();
});

test("options that the real program does not know", { skip: findProgram("ustreamer") === undefined }, async (t) => {
  const { camera } = await exporterOf(t, { args: { "no-such-option": "x" } });
  await assert.rejects(camera().state(), { code: "E_DEVICE_OFFLINE", message: /\(exit 1\): .*unrecognized option/ });
});

test("a missing program takes down its driver alone", async (t) => {
  const { camera } = await exporterOf(t, { executable: "/nowhere/ustreamer" });
  await assert.rejects(camera().state(), {
    code: "E_DEVICE_OFFLINE",
    message: "ustreamer executable not found: /nowhere/ustreamer",
  });
});

test("options and answers", async () => {
  assert.deepEqual(commandLine({ device: "/dev/video0", fps: 30, persistent: true, slowdown: null, no: false }, "/s"), [
    ...["--device", "/dev/video0", "--fps", "30", "--persistent", "--slowdown", "--unix", "/s"],
  ]);
  assert.throws(() => readState("[]"));
  await assert.rejects(
    createExporter({
      name: "test",
      export: { camera: { type: "jumpstarter_driver_ustreamer.driver.UStreamer", config: { args: { "--x": 1 } } } },
    }),
    /config.args: are names of options, without --/,
  );
  assert.deepEqual(driver.needs?.({ args: {}, warm_up: 5 }), { programs: ["ustreamer"], rights: ["video"] });
  const inspect = async (device: string) => (await driver.inspect?.({ args: { device }, warm_up: 5 }))?.[0]?.ok;
  assert.equal(await inspect("/dev/video-nowhere"), false);
  assert.equal(await inspect("/dev/null"), true);
});
