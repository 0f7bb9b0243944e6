import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { once } from "node:events";
import { open, readdir, readlink, realpath } from "node:fs/promises";
import { createServer, type AddressInfo, type Socket } from "node:net";
import type { Duplex } from "node:stream";
import { test, type TestContext } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import * as fc from "fast-check";
import type { AgentError } from "../../../../agent/driver/errors.ts";
import { createExporter } from "../../../../agent/session/exporter.ts";
import { loadKoffi } from "../../../../agent/sys/native.ts";
import { icounterBytes, loadTermios, makeRaw, readLineErrors, termios2Bytes } from "../../../../agent/sys/termios.ts";
import { serialPort } from "../../../../boards/serial/interface.ts";
import { Pacer } from "../../../../boards/serial/pacing.ts";
import { noPtys, plugCable } from "../../../sim/pty.ts";

const pySerial = (config: Record<string, unknown>) => ({ type: "jumpstarter_driver_pyserial.driver.PySerial", config });

/** The calls of one serial driver, and what its exporter logged. */
async function serial(t: TestContext, config: Record<string, unknown>) {
  const exporter = await createExporter({ name: "test", export: { serial: pySerial(config) } });
  const log: string[] = [];
  exporter.logs.subscribe((record) => log.push(`${record.severity} ${record.message}`));
  t.after(() => exporter.close());
  return { port: exporter.calls("serial", serialPort), exporter, log };
}

/** Everything that a stream gave so far; `until` waits for a text, `over` for the end and its reason. */
function listen(stream: Duplex) {
  const heard = { text: "", frames: [] as string[], over: undefined as string | undefined };
  stream.on("data", (chunk: Buffer) => {
    heard.text += chunk.toString("latin1");
    heard.frames.push(chunk.toString("latin1"));
  });
  stream.on("end", () => (heard.over = "end"));
  stream.on("error", (error) => (heard.over = error.message));
  const wait = async (met: () => boolean) => {
    while (!met()) await sleep(5);
  };
  return Object.assign(heard, {
    until: (text: string) => wait(() => heard.text.includes(text)),
    end: () => wait(() => heard.over !== undefined),
  });
}

const stty = (path: string) => execFileSync("stty", ["-F", path, "-a"], { encoding: "utf8" });

test("loop: a chunk comes back as one frame; paced, every character as its own", async (t) => {
  const fast = await serial(t, { url: "loop://", cps: 0 });
  const stream = await fast.port.connect();
  const heard = listen(stream);
  stream.write("hello");
  stream.write("you");
  await heard.until("you");
  assert.deepEqual(heard.frames, ["hello", "you"]);
  stream.destroy();

  const paced = await serial(t, { url: "loop://", cps: "1000" });
  const slow = await paced.port.connect();
  const echoed = listen(slow);
  slow.write("hello");
  await echoed.until("hello");
  assert.deepEqual(echoed.frames, [..."hello"]);
  assert.deepEqual(paced.log, ["INFO Connecting to loop://, baudrate: 115200, cps: 1000"]);
  slow.destroy();
});

test("two drivers have a loop each", async (t) => {
  const exporter = await createExporter({
    name: "test",
    export: { a: pySerial({ url: "loop://" }), b: pySerial({ url: "loop://" }) },
  });
  t.after(() => exporter.close());
  const [a, b] = [await exporter.calls("a", serialPort).connect(), await exporter.calls("b", serialPort).connect()];
  const [heardA, heardB] = [listen(a), listen(b)];
  b.write("b");
  await heardB.until("b");
  assert.equal(heardA.text, "");
});

test("the pace holds across many small writes and two streams", async (t) => {
  const { port } = await serial(t, { url: "loop://", cps: 100 });
  const [one, two] = [await port.connect(), await port.connect()];
  const heard = listen(one);
  const before = performance.now();
  for (let i = 0; i < 10; i += 1) (i % 2 === 0 ? one : two).write("x");
  await heard.until("x".repeat(10));
  // 10 characters at 100 per second: 9 pauses of 10 ms.
  assert.ok(performance.now() - before >= 89, `${performance.now() - before} ms`);
});

test("a pacer never exceeds its rate, whatever it is asked and when", () => {
  const asks = fc.array(fc.record({ afterMs: fc.double({ min: 0, max: 200, noNaN: true }), wanted: fc.nat(50) }));
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 20_000 }), asks, (cps, script) => {
      const pacer = new Pacer(cps, 0);
      let now = 0;
      let sent = 0;
      for (const { afterMs, wanted } of script) {
        now += afterMs;
        sent += pacer.take(wanted, now);
        assert.ok(sent <= 1 + Math.max(1, cps / 100) + (now * cps) / 1000);
        assert.ok(pacer.waitMs <= 1000 / cps + 1e-6);
      }
    }),
  );
});

test("termios: raw 8N1 at any rate, hang-up only as asked", () => {
  const given = Buffer.alloc(termios2Bytes, 0xff);
  const cflag = () => given.readUInt32LE(8);
  makeRaw(given, { baudRate: 1_843_200, hangUpOnClose: false });
  assert.deepEqual([given.readUInt32LE(36), given.readUInt32LE(40)], [1_843_200, 1_843_200]);
  assert.equal(cflag() & 0o10017, 0o10000); // CBAUD: BOTHER
  assert.equal(cflag() & 0o4060, 0o4060); // CLOCAL, CS8
  assert.equal(cflag() & 0o2500, 0); // HUPCL, PARENB, CSTOPB
  assert.equal(given[17 + 6], 1); // VMIN
  makeRaw(given, { baudRate: 9600 });
  assert.equal(cflag() & 0o2000, 0);
  makeRaw(given, { baudRate: 9600, hangUpOnClose: true });
  assert.equal(cflag() & 0o2000, 0o2000);
});

test("pty: the kernel takes the settings, odd rates too", { skip: noPtys }, async (t) => {
  const { path } = await plugCable(t);
  const file = await open(path, "r+");
  t.after(() => file.close());
  const termios = await loadTermios();
  assert.equal(termios.setRaw(file.fd, { baudRate: 1_843_200, hangUpOnClose: false }), 1_843_200);
  assert.equal(termios.outputQueueBytes(file.fd), 0);
  for (const flag of ["-hupcl", "cs8", "clocal", "-icanon", "-echo", "-opost", "-ixon", "-icrnl", "-parenb"]) {
    assert.ok(stty(path).includes(` ${flag} `) || stty(path).includes(`\n${flag} `), flag);
  }
});

test("pty: bytes of every value both ways at once, one by one", { skip: noPtys }, async (t) => {
  const { path, board } = await plugCable(t);
  const { port } = await serial(t, { url: path, disable_hupcl: true });
  const stream = await port.connect();
  assert.match(stty(path), /-hupcl/);
  const [host, dut] = [listen(stream), listen(board)];
  const every = Buffer.from(Array.from({ length: 256 }, (_, i) => i));
  for (const byte of every) stream.write(Buffer.of(byte));
  board.write(every);
  await dut.until(every.toString("latin1"));
  await host.until(every.toString("latin1"));
  stream.destroy();
});

test("hang-up on close is left as it was unless the configuration clears it", { skip: noPtys }, async (t) => {
  const { path } = await plugCable(t);
  execFileSync("stty", ["-F", path, "hupcl"]);
  const { port } = await serial(t, { url: path });
  const stream = await port.connect();
  assert.match(stty(path), / hupcl/);
  stream.destroy();
});

test(
  "every stream hears everything, also across overlapping opens; writes keep together",
  { skip: noPtys },
  async (t) => {
    const { path, board } = await plugCable(t);
    const { port } = await serial(t, { url: path });
    const old = await port.connect();
    const [heardOld, dut] = [listen(old), listen(board)];
    const next = await port.connect(); // the old one is torn down later
    const heardNext = listen(next);
    board.write("both hear this;");
    await heardOld.until("this;");
    await heardNext.until("this;");
    old.destroy();
    board.write("still there");
    await heardNext.until("still there");
    assert.equal(heardOld.text, "both hear this;");

    const third = await port.connect();
    const [a, b] = ["a".repeat(20_000), "b".repeat(20_000)];
    next.write(a);
    third.write(b);
    await dut.until(a + b);
  },
);

test("what was accepted before the end of a stream is still sent after it", { skip: noPtys }, async (t) => {
  const { path, board } = await plugCable(t);
  const { port } = await serial(t, { url: path, cps: 2_000 });
  const heard = listen(board);
  const stream = await port.connect();
  const text = "0123456789".repeat(20);
  for (const character of text) stream.write(character);
  stream.end();
  stream.destroy();
  await heard.until(text);
});

test("a stream that is torn down without an end takes back what it had not sent", { skip: noPtys }, async (t) => {
  const { path, board } = await plugCable(t);
  const { port } = await serial(t, { url: path, cps: 100 });
  const [gone, stays] = [await port.connect(), await port.connect()];
  const heard = listen(board);
  gone.write("x".repeat(500_000)); // more than an hour
  await heard.until("x");
  gone.destroy();
  stays.write("mine");
  await heard.until("mine");
});

test("a client that stops reading loses what it cannot hold, and nobody else does", { skip: noPtys }, async (t) => {
  const { path, board } = await plugCable(t);
  const { port, log } = await serial(t, { url: path });
  const [awake, asleep] = [await port.connect(), await port.connect()];
  const total = 6 * 1024 * 1024;
  let received = 0;
  awake.on("data", (chunk: Buffer) => (received += chunk.length));
  const block = Buffer.alloc(64 * 1024, "z");
  for (let sent = 0; sent < total; sent += block.length) {
    if (!board.write(block)) await once(board, "drain");
  }
  while (received < total) await sleep(5);
  asleep.destroy();
  await once(asleep, "close");
  assert.match(log.at(-1) ?? "", /^WARNING .*ttyUSB0: \d+ bytes were not read in time and dropped$/);
});

test("after the client's end the console goes on", { skip: noPtys }, async (t) => {
  const { path, board } = await plugCable(t);
  const { port } = await serial(t, { url: path });
  const stream = await port.connect();
  const heard = listen(stream);
  stream.end("last words");
  await once(stream, "finish");
  board.write("but I still talk");
  await heard.until("still talk");
});

test(
  "an unplugged adapter ends the streams with the reason, and works again when it is back",
  { skip: noPtys },
  async (t) => {
    const first = await plugCable(t);
    const { port } = await serial(t, { url: first.path });
    const stream = await port.connect();
    const heard = listen(stream);
    first.board.write("bye");
    await heard.until("bye");
    await first.unplug();
    await heard.end();
    assert.match(heard.over ?? "", /^serial port .*ttyUSB0 is gone: /);
    await assert.rejects(port.connect(), (error: AgentError) => {
      assert.equal(error.code, "E_DEVICE_OFFLINE");
      assert.match(error.message, /ttyUSB0 is missing: \[Errno 2\] No such file or directory/);
      return true;
    });
  },
);

test("a missing device makes its driver offline, not the exporter; check_present false waits for the first use", async (t) => {
  const exporter = await createExporter({
    name: "test",
    export: {
      gone: pySerial({ url: "/dev/serial/by-id/no-such" }),
      later: pySerial({ url: "/dev/serial/by-id/no-such-either", check_present: false }),
      fine: pySerial({ url: "loop://" }),
      file: pySerial({ url: "/dev/null" }),
    },
  });
  t.after(() => exporter.close());
  const offline = (path: string) => exporter.tree.root.children.get(path)?.offlineReason;
  assert.match(offline("gone") ?? "", /^serial port \/dev\/serial\/by-id\/no-such is not usable: \[Errno 2\]/);
  assert.equal(offline("later"), undefined);
  await assert.rejects(exporter.calls("gone", serialPort).connect(), { code: "E_DEVICE_OFFLINE" });
  await assert.rejects(exporter.calls("later", serialPort).connect(), { code: "E_DEVICE_OFFLINE" });
  await assert.rejects(exporter.calls("file", serialPort).connect(), { message: "/dev/null is not a terminal" });
  (await exporter.calls("fine", serialPort).connect()).destroy();
});

test("a port that nobody uses is not held open", { skip: noPtys }, async (t) => {
  const { path, board } = await plugCable(t);
  // Our own end of the cable too: socat goes when nobody has it open.
  const keep = await open(path, "r+");
  t.after(() => keep.close());
  const { port } = await serial(t, { url: path });
  const handles = async () => {
    const links = await Promise.all(
      (await readdir("/proc/self/fd")).map((fd) => readlink(`/proc/self/fd/${fd}`).catch(() => "")),
    );
    const device = await realpath(path);
    return links.filter((link) => link === device).length;
  };
  for (let i = 0; i < 20; i += 1) {
    const streams = await Promise.all([port.connect(), port.connect()]);
    const heard = listen(streams[0]);
    board.write("x");
    await heard.until("x");
    assert.equal(await handles(), 2);
    for (const stream of streams) stream.destroy();
  }
  while ((await handles()) > 1) await sleep(5);
});

test("close ends the streams and frees the port; without streams it does nothing", { skip: noPtys }, async (t) => {
  const { path, board } = await plugCable(t);
  const { port } = await serial(t, { url: path });
  await port.close();
  const stream = await port.connect();
  const heard = listen(stream);
  await port.close();
  await heard.end();
  assert.equal(heard.over, "end");
  const again = await port.connect();
  const heardAgain = listen(again);
  board.write("hello");
  await heardAgain.until("hello");
});

test("a port that is in use at another rate says so", { skip: noPtys }, async (t) => {
  const { path } = await plugCable(t);
  const exporter = await createExporter({
    name: "test",
    export: { slow: pySerial({ url: path, baudrate: 9600 }), fast: pySerial({ url: path, baudrate: "921600" }) },
  });
  t.after(() => exporter.close());
  const slow = await exporter.calls("slow", serialPort).connect();
  await assert.rejects(exporter.calls("fast", serialPort).connect(), /in use at 9600 baud/);
  slow.destroy();
  (await exporter.calls("fast", serialPort).connect()).destroy();
});

test("modem lines: a port that has none says so, loops and sockets take them silently", { skip: noPtys }, async (t) => {
  const { path } = await plugCable(t);
  const { port } = await serial(t, { url: path });
  await assert.rejects(port.set_dtr(true), { code: "ENOTTY" });
  const loop = (await serial(t, { url: "loop://" })).port;
  await loop.set_dtr(false);
  await loop.set_rts(true);
  await assert.rejects(loop.set_rts("yes" as unknown as boolean), { code: "E_INVALID" });
});

test("a break waits for what was written before it; what has no line cannot send one", { skip: noPtys }, async (t) => {
  const { path, board } = await plugCable(t);
  const { port } = await serial(t, { url: path, cps: 100 });
  const stream = await port.connect();
  const heard = listen(board);
  const before = performance.now();
  stream.write("0123456789");
  await port.send_break(50); // ptys take it, and do not pass it on
  assert.ok(performance.now() - before >= 89 + 50);
  await heard.until("0123456789");
  stream.destroy();
  const loop = (await serial(t, { url: "loop://" })).port;
  await assert.rejects(loop.send_break(), { code: "E_UNSUPPORTED", message: "loop:// cannot send a break" });
  await assert.rejects(loop.send_break(60_000), { code: "E_INVALID" });
});

test("the kernel's counters of line errors lie where they are looked for", async () => {
  const koffi = await loadKoffi();
  const names = ["cts", "dsr", "rng", "dcd", "rx", "tx", "frame", "overrun", "parity", "brk", "buf_overrun"];
  const icounter = koffi.struct({
    ...Object.fromEntries(names.map((name) => [name, "int"])),
    reserved: koffi.array("int", 9),
  });
  assert.equal(koffi.sizeof(icounter), icounterBytes);
  const bytes = Buffer.alloc(icounterBytes);
  for (const [index, name] of names.entries()) bytes.writeInt32LE(index + 1, koffi.offsetof(icounter, name));
  assert.deepEqual(readLineErrors(bytes), { frame: 7, overrun: 8, parity: 9, break: 10, buffer_overrun: 11 });
});

test("socket: bytes both ways; the server's end is the loss of the port", async (t) => {
  const peers: Socket[] = [];
  const server = createServer((peer) => peers.push(peer.on("error", () => {})));
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  t.after(() => server.close());
  const { port: number } = server.address() as AddressInfo;
  const { port } = await serial(t, { url: `socket://127.0.0.1:${number}` });
  const [one, two] = [await port.connect(), await port.connect()];
  const [heard, other] = [listen(one), listen(two)];
  assert.equal(peers.length, 1);
  const atServer = listen(peers[0] as Socket);
  one.write("to the board");
  await atServer.until("to the board");
  (peers[0] as Socket).end("last");
  await Promise.all([heard.end(), other.end()]);
  assert.equal(heard.text, "last");
  assert.match(heard.over ?? "", /^serial port socket:\/\/127\.0\.0\.1:\d+ is gone/);
  await port.connect();
  assert.equal(peers.length, 2);
});

test("URLs that cannot be served are refused with what can", async () => {
  const problem = async (url: string) =>
    createExporter({ name: "test", export: { serial: pySerial({ url }) } }).then(
      () => "none",
      (error: AgentError) => error.message,
    );
  assert.equal(
    await problem("rfc2217://host:4000"),
    "export.serial.config.url: rfc2217:// is not supported; use a device path, usb://VID:PID, hwgrep://REGEXP, loop:// or socket://HOST:PORT",
  );
  assert.equal(await problem("socket://host"), "export.serial.config.url: must be socket://HOST:PORT");
});
