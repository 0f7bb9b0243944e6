/** The record of a console, through the driver: what is in it, who may read it, and what becomes of it. */
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { appendFileSync, chmodSync, mkdirSync, readdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import type { AgentError } from "../../../../agent/driver/errors.ts";
import { LogBus } from "../../../../agent/driver/log.ts";
import { createExporter } from "../../../../agent/session/exporter.ts";
import { power } from "../../../../boards/power/interface.ts";
import { serialPort } from "../../../../boards/serial/interface.ts";
import type { LogItem, LogRequest } from "../../../../boards/serial/record/log-item.ts";
import { describeMark } from "../../../../boards/serial/record/marks.ts";
import type { Entry } from "../../../../boards/serial/record/protocol.ts";
import { RecordReader } from "../../../../boards/serial/record/reader.ts";
import { scratch } from "../../../sim/agent.ts";
import { noPtys, plugCable, type Cable } from "../../../sim/pty.ts";
import { eventually } from "../../../sim/rig.ts";

/** An exporter with a power switch and a console that is recorded. */
async function board(t: TestContext, cable: Pick<Cable, "path">, record: Record<string, unknown>) {
  const logs = new LogBus();
  const log: string[] = [];
  logs.subscribe((told) => log.push(`${told.severity} ${told.message}`));
  const exporter = await createExporter({
    name: "bench/1",
    logs,
    export: {
      power: { type: "jumpstarter_driver_power.driver.MockPower" },
      serial: { type: "jumpstarter_driver_pyserial.driver.PySerial", config: { url: cable.path, record } },
    },
  });
  t.after(() => exporter.close());
  const serial = exporter.calls("serial", serialPort);
  const recorded = async () => (await serial.status()).record?.state;
  await eventually("it records", async () => (await recorded()) === "recording");
  const items = async (request: LogRequest = {}) => {
    const all: LogItem[] = [];
    for await (const item of serial.log(request)) all.push(item);
    return all;
  };
  return {
    exporter,
    serial,
    power: exporter.calls("power", power),
    log,
    items,
    text: async (request?: LogRequest) => (await items(request)).map(({ text = "" }) => text).join(""),
    /** Text and marks, in their order. */
    story: async () =>
      (await items()).map(({ text, mark }) => (mark === undefined ? (text ?? "") : `[${describeMark(mark)}]`)),
  };
}

const folderOf = (directory: string) => join(directory, "bench%2F1", "serial");

async function inFiles(directory: string): Promise<Entry[]> {
  const reader = new RecordReader(folderOf(directory));
  const all: Entry[] = [];
  for (let some = await reader.read(); some.length > 0; some = await reader.read()) all.push(...some);
  await reader.close();
  return all;
}

const output = (entries: readonly Entry[]) =>
  Buffer.concat(entries.filter(({ kind }) => kind === "o").map(({ payload }) => payload));

async function send(cable: Cable, bytes: Buffer | string): Promise<void> {
  if (!cable.board.write(bytes)) await once(cable.board, "drain");
}

test("every byte is in the record, with or without clients, and comes back exactly", { skip: noPtys }, async (t) => {
  const cable = await plugCable(t);
  const directory = scratch(t);
  const { exporter, serial, items } = await board(t, cable, { directory, memory_bytes: 64 * 1024 });
  const bytes = randomBytes(500_000);
  await send(cable, bytes.subarray(0, 100_000));
  const client = await serial.connect();
  client.resume();
  await send(cable, bytes.subarray(100_000, 300_000));
  client.destroy();
  await exporter.tree.release();
  await send(cable, bytes.subarray(300_000));
  await eventually("all has come", async () => (await serial.status()).received_bytes === bytes.length);
  await sleep(150); // what has no end of line is written down a little later
  await exporter.tree.reset();
  await assert.rejects(
    (async () => {
      for await (const item of serial.log({ lines: -1 })) assert.ok(item);
    })(),
    { code: "E_INVALID" },
  );
  assert.deepEqual(
    (await items()).filter(({ text }) => text !== undefined),
    [],
  );
  await exporter.close();
  const entries = await inFiles(directory);
  assert.ok(output(entries).equals(bytes));
  assert.deepEqual(
    entries.map(({ seq }) => seq),
    entries.map((_, index) => index),
  );
  assert.ok(
    entries.every(
      (entry, index) => index === 0 || entry.monotonicUs >= (entries[index - 1] as Entry).monotonicUs - 150_000,
    ),
  );
});

test(
  "a lease reads its own time only, from memory and from files, unless the record is shared",
  { skip: noPtys },
  async (t) => {
    for (const share of [false, true]) {
      const cable = await plugCable(t);
      const settings = { directory: scratch(t), memory_bytes: 64 * 1024, share };
      const { exporter, serial, text } = await board(t, cable, settings);
      await exporter.tree.reset();
      await send(cable, "first secret\n");
      await eventually("it is there", async () => (await text()).includes("first"));
      await exporter.tree.release();
      await send(cable, "between\n");
      await eventually("it has come", async () => (await serial.status()).received_bytes === 21);
      await exporter.tree.reset();
      // More than the memory holds: the beginning is in files only.
      const second = "second lease, and a line that is long enough to fill memory\n".repeat(4_000);
      await send(cable, second);
      await eventually("it is there", async () => (await text()).endsWith(second));
      assert.equal(await text(), (share ? "first secret\nbetween\n" : "") + second);
      assert.equal((await text({ from: 0 })).startsWith("first"), share);
      assert.equal((await text({ since: "1d" })).startsWith("first"), share);
      assert.equal((await text({ lines: 3 })).split("\n").length >= 4, true);
      // Lines that came together stay together: 64 KiB of them at most, twice.
      assert.ok((await text({ lines: 3 })).length < 140_000);
    }
  },
);

test(
  "power and leases stand where they happened; what has no end of line is written down as it came",
  { skip: noPtys },
  async (t) => {
    const cable = await plugCable(t);
    const { exporter, serial, power, story, items, log } = await board(t, cable, {
      directory: scratch(t),
      boot_pattern: "login:",
    });
    await exporter.tree.reset();
    await power.off();
    await power.on();
    await send(cable, "U-Boot 2025.10\r\nboard ");
    await sleep(150);
    await send(cable, "login: ");
    await eventually("the prompt is there", async () => (await story()).some((told) => told.startsWith("[booted")));
    await exporter.tree.release();
    const told = (await items()).at(-1);
    assert.deepEqual(told?.mark, { mark: "lease", edge: "ends" });
    await exporter.tree.reset();
    assert.match(log.join("\n"), /INFO .*: the board has booted in 0\.\d{3} s/);
    const { record } = await serial.status();
    assert.equal(record?.boots.length, 1);
    assert.ok((record.boots[0]?.seconds ?? 9) < 5);
  },
);

test("the story of a lease", { skip: noPtys }, async (t) => {
  const cable = await plugCable(t);
  const { exporter, power, story } = await board(t, cable, { directory: scratch(t) });
  await exporter.tree.reset();
  await power.on();
  await send(cable, "hello\nwor");
  await sleep(150);
  await power.off();
  await send(cable, "ld\n");
  await eventually("all is there", async () => (await story()).at(-1) === "ld\n");
  assert.deepEqual(await story(), [
    "[lease begins]",
    "[power on (power)]",
    "hello\n",
    "wor",
    "[power off (power)]",
    "ld\n",
  ]);
});

test(
  "an unplugged adapter is told to readers and in the record, which goes on within a second of its return",
  { skip: noPtys },
  async (t) => {
    const cable = await plugCable(t);
    const { serial, story, log } = await board(t, cable, { directory: scratch(t) });
    const client = (await serial.connect()).resume();
    const over = once(client, "error");
    await send(cable, "before\n");
    await eventually("it is there", async () => (await story()).includes("before\n"));
    await cable.unplug();
    const [error] = (await over) as [AgentError];
    assert.match(error.message, /^serial port .*ttyUSB0 is gone: /);
    await eventually("the record says so", async () =>
      (await story()).some((told) => /^\[port missing: .*ttyUSB0/.test(told)),
    );
    const again = await plugCable(t, cable);
    const backMs = performance.now();
    await eventually("it records again", async () => (await serial.status()).record?.state === "recording");
    assert.ok(performance.now() - backMs < 1_000);
    await send(again, "after\n");
    await eventually("it is there", async () => (await story()).at(-1) === "after\n");
    const marks = (await story()).filter((told) => told.startsWith("[port")).map((told) => told.slice(0, 13));
    assert.deepEqual(marks, ["[port open]", "[port lost: s", "[port missing", "[port open]"]);
    assert.equal(log.filter((line) => line.includes("the console is not recorded")).length, 1);
  },
);

test("files are bounded, and private; a reader is told what was overwritten", { skip: noPtys }, async (t) => {
  const cable = await plugCable(t);
  const directory = scratch(t);
  const { exporter, serial, items } = await board(t, cable, {
    directory,
    memory_bytes: 64 * 1024,
    max_file_bytes: 64 * 1024,
    max_files: 3,
  });
  const line = `${"x".repeat(99)}\n`;
  for (let sent = 0; sent < 20; sent += 1) {
    await send(cable, line.repeat(500));
    await eventually("it has come", async () => (await serial.status()).received_bytes === (sent + 1) * 50_000);
  }
  const told = await items();
  assert.equal(told[0]?.mark?.mark, "missed");
  assert.ok(told.slice(1).every(({ mark }) => mark?.mark !== "missed"));
  await exporter.close();
  const names = readdirSync(folderOf(directory));
  assert.equal(names.length, 3);
  for (const name of names) {
    const { size, mode } = statSync(join(folderOf(directory), name));
    assert.ok(size <= 64 * 1024);
    assert.equal(mode & 0o777, 0o600);
  }
  assert.equal(statSync(folderOf(directory)).mode & 0o777, 0o700);
});

test("a new process goes on where the last one was cut off", { skip: noPtys }, async (t) => {
  const cable = await plugCable(t);
  const directory = scratch(t);
  const first = await board(t, cable, { directory });
  await send(cable, "one\n");
  await eventually("it is there", async () => (await first.text()).endsWith("one\n"));
  await first.exporter.close();
  const [name = ""] = readdirSync(folderOf(directory));
  const file = join(folderOf(directory), name);
  const whole = readFileSync(file);
  appendFileSync(file, "\x1e77 1764083446123456 123");
  const second = await board(t, cable, { directory });
  await send(cable, "two\n");
  await eventually("it is there", async () => (await second.text()).endsWith("two\n"));
  assert.ok(!(await second.text({ from: 0 })).includes("one"));
  await second.exporter.close();
  assert.ok(readFileSync(file).subarray(0, whole.length).equals(whole));
  const entries = await inFiles(directory);
  assert.equal(output(entries).toString(), "one\ntwo\n");
  assert.deepEqual(
    entries.map(({ seq }) => seq),
    entries.map((_, index) => index),
  );
});

test(
  "a folder that others can enter is not written to: the record is in memory only, and says why",
  { skip: noPtys },
  async (t) => {
    const cable = await plugCable(t);
    const directory = scratch(t);
    mkdirSync(folderOf(directory), { recursive: true });
    chmodSync(folderOf(directory), 0o755);
    const { serial, text, log } = await board(t, cable, { directory });
    await send(cable, "kept\n");
    await eventually("it is there", async () => (await text()).endsWith("kept\n"));
    const { record } = await serial.status();
    assert.match(record?.problem ?? "", /open to other users: chmod 700 it/);
    assert.equal(log.filter((line) => line.includes("in memory only")).length, 1);
    assert.deepEqual(readdirSync(folderOf(directory)), []);
  },
);

test("a follower that does not read misses nothing that files keep, and stops nobody", { skip: noPtys }, async (t) => {
  const cable = await plugCable(t);
  const { serial } = await board(t, cable, { directory: scratch(t), memory_bytes: 64 * 1024 });
  const slow = serial.log({ follow: true })[Symbol.asyncIterator]();
  assert.equal((await slow.next()).done, false);
  const bytes = randomBytes(600_000);
  await send(cable, bytes);
  await eventually("all has come", async () => (await serial.status()).received_bytes === bytes.length);
  const seen: Buffer[] = [];
  while (seen.reduce((sum, { length }) => sum + length, 0) < bytes.length) {
    const { text, base64, mark } = ((await slow.next()) as IteratorYieldResult<LogItem>).value;
    assert.notEqual(mark?.mark, "missed");
    seen.push(base64 === undefined ? Buffer.from(text ?? "") : Buffer.from(base64, "base64"));
  }
  assert.ok(Buffer.concat(seen).equals(bytes));
  await slow.return?.();
});

test("without a record there is none, and the port is left alone", { skip: noPtys }, async (t) => {
  const cable = await plugCable(t);
  const exporter = await createExporter({
    name: "test",
    export: { serial: { type: "jumpstarter_driver_pyserial.driver.PySerial", config: { url: cable.path } } },
  });
  t.after(() => exporter.close());
  const serial = exporter.calls("serial", serialPort);
  assert.deepEqual(await serial.status(), {
    port: cable.path,
    device: cable.path,
    usb: null,
    baudrate: 115_200,
    open: false,
    clients: 0,
    received_bytes: 0,
    sent_bytes: 0,
    dropped_bytes: 0,
    line_errors: null,
    record: null,
  });
  await assert.rejects(
    (async () => {
      for await (const item of serial.log()) assert.ok(item);
    })(),
    { code: "E_UNSUPPORTED" },
  );
});
