import assert from "node:assert/strict";
import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { chmodSync, mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { promisify } from "node:util";
import { startService, type ServiceState } from "../../../../agent/cli/service.ts";
import { tokenCredential } from "../../../../agent/config/credentials.ts";
import { Heart } from "../../../../agent/controller/heart.ts";
import type { LogRecord } from "../../../../agent/driver/log.ts";
import { journalEntry } from "../../../../agent/cli/journal-log.ts";
import { encodeEntry, fieldName, leadsToJournal, openJournal } from "../../../../agent/sys/journal.ts";
import { findServiceManager } from "../../../../agent/sys/notify.ts";
import { scratch } from "../../../sim/agent.ts";

/** A service manager's or the journal's end of a socket of datagrams, by Python, as Node has none. */
const listener = `
import socket, sys
place = sys.argv[1]
end = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
end.bind("\\0" + place[1:] if place.startswith("@") else place)
print("ready", flush=True)
while True:
    print(end.recv(1 << 20).hex(), flush=True)
`;

/** @returns what has arrived so far */
async function listen(t: TestContext, place: string): Promise<() => Buffer[]> {
  const child = spawn("python3", ["-c", listener, place], { stdio: ["ignore", "pipe", "inherit"] });
  t.after(() => child.kill("SIGKILL"));
  let said = "";
  child.stdout.setEncoding("utf8").on("data", (text: string) => (said += text));
  await once(child.stdout, "data");
  return () =>
    said
      .split("\n")
      .slice(1, -1)
      .map((line) => Buffer.from(line, "hex"));
}

async function until(condition: () => boolean, limitMs = 10_000): Promise<void> {
  const deadline = performance.now() + limitMs;
  while (!condition()) {
    if (performance.now() > deadline) assert.fail("it does not come");
    await sleep(10);
  }
}

const silent = { debug() {}, info() {}, warn() {}, error() {} };

for (const kind of ["a path", "an abstract name"]) {
  test(`a service manager at ${kind} is told, and what it gave us is nobody else's`, async (t) => {
    const place = kind === "a path" ? join(scratch(t), "notify") : `@jmp-agent-test-${process.pid}`;
    const heard = await listen(t, place);
    const env = { NOTIFY_SOCKET: place, WATCHDOG_USEC: "30000000", WATCHDOG_PID: `${process.pid}`, OTHER: "stays" };
    const manager = await findServiceManager(env);
    assert.ok(manager);
    t.after(() => manager.close());
    assert.deepEqual(env, { OTHER: "stays" });
    assert.equal(manager.watchdogMs, 30_000);
    assert.ok(manager.notify({ READY: 1, STATUS: "two\nlines\nREADY=0" }));
    await until(() => heard().length === 1);
    assert.equal(heard()[0]?.toString(), "READY=1\nSTATUS=two lines READY=0");
  });
}

test("no service manager, one that cannot be reached, and a watchdog for another process are none", async (t) => {
  assert.equal(await findServiceManager({}), undefined);
  assert.equal(await findServiceManager({ NOTIFY_SOCKET: "vsock:2:1234" }), undefined);
  await assert.rejects(findServiceManager({ NOTIFY_SOCKET: `/${"x".repeat(120)}` }), /ENAMETOOLONG/);
  const gone = await findServiceManager({
    NOTIFY_SOCKET: join(scratch(t), "nobody"),
    WATCHDOG_USEC: "1",
    WATCHDOG_PID: "1",
  });
  assert.equal(gone?.watchdogMs, undefined);
  assert.equal(gone?.notify({ READY: 1 }), false);
  gone?.close();
});

test("ready comes once it serves, status when it changes, and the watchdog is fed unless something hangs", async (t) => {
  const place = join(scratch(t), "notify");
  const heard = await listen(t, place);
  const errors: string[] = [];
  const log = { ...silent, error: (line: string) => void errors.push(line) };
  const service = await startService(log, { NOTIFY_SOCKET: place, WATCHDOG_USEC: "800000" });
  t.after(() => service.close());
  const lines = () => heard().map(String);
  let state: ServiceState = { text: "1 exporter, 0 registered", ready: false };
  service.follow(() => state);
  await until(() => lines().includes("STATUS=1 exporter, 0 registered"));
  assert.ok(!lines().includes("READY=1"));
  state = { text: "1 exporter, 1 registered", ready: true };
  await until(() => lines().includes("READY=1"));
  assert.equal(lines().filter((line) => line.startsWith("STATUS=1 exporter, 1")).length, 1);

  const answer = await service.reloading(async () => {
    await until(() => lines().some((line) => /^RELOADING=1\nMONOTONIC_USEC=\d+$/.test(line)));
    return "reloaded";
  });
  assert.equal(answer, "reloaded");
  await until(() => lines().filter((line) => line === "READY=1").length === 2);
  await assert.rejects(
    service.reloading(() => Promise.reject(new Error("no"))),
    /no/,
  );
  await until(() => lines().filter((line) => line === "READY=1").length === 3);

  const fed = () => lines().filter((line) => line === "WATCHDOG=1").length;
  const before = fed();
  await until(() => fed() > before + 2);
  state = { ...state, overdue: "bench: the lease does not end, for 200 s" };
  await until(() => lines().some((line) => line.endsWith("hangs: bench: the lease does not end, for 200 s")));
  const hungry = fed();
  await sleep(1_000);
  assert.equal(fed(), hungry);
  assert.match(errors.join(), /Hangs.*bench: the lease does not end/);
  state = { ...state, overdue: undefined };
  await until(() => fed() > hungry);

  service.stopping();
  await until(() => lines().includes("STOPPING=1") && lines().some((line) => line.startsWith("EXTEND_TIMEOUT_USEC=")));
});

test("a loop that is blocked is told from another thread, with the place; a turning one is not", async (t) => {
  const file = join(scratch(t), "blocks.mts");
  const guard = new URL("../../../../agent/sys/loop-guard.ts", import.meta.url).href;
  writeFileSync(
    file,
    `import { startLoopGuard } from ${JSON.stringify(guard)};
const guard = startLoopGuard({ limitMs: 400, prefix: "<2>" });
setInterval(() => guard.turned(), 50);
function standStill() { for (const end = performance.now() + 3000; performance.now() < end;); }
setTimeout(standStill, 1000);
setTimeout(() => process.exit(), 5000);`,
  );
  const { stderr } = await promisify(execFile)(process.execPath, ["--import", "tsx", file]);
  const [blocked, turns, ...more] = stderr.trim().split("\n");
  assert.match(
    blocked ?? "",
    /^<2>The event loop has been blocked for [0-3]\.\d s, in .*standStill \(.*blocks\.mts:\d+:\d+\)/,
  );
  assert.match(turns ?? "", /^<2>The event loop turns again, after [2-3]\.\d s$/);
  assert.deepEqual(more, []);
});

test("work that is overdue is told until it ends, whether it fails or not", async () => {
  let now = 0;
  const heart = new Heart({ now: () => now });
  let fail: (error: Error) => void = () => {};
  const hung = heart.during("the lease does not end", 1_000, () => new Promise<void>((_, reject) => (fail = reject)));
  now = 1_000;
  assert.equal(heart.overdue, undefined);
  now = 61_000;
  assert.equal(heart.overdue, "the lease does not end, for 61 s");
  fail(new Error("at last"));
  await assert.rejects(hung, /at last/);
  assert.equal(heart.overdue, undefined);
});

test("an entry of the journal: its words, its priority, its fields, and nobody's in their place", async (t) => {
  const record: LogRecord = {
    time: new Date(),
    severity: "ERROR",
    message: "broken\nin two",
    source: "driver",
    logger: "driver.MockPower",
    driverType: "power",
    operation: "on",
    fields: { "error-type": "E_IO", message: "of a field", _PID: 1 },
  };
  const entry = journalEntry(record, "bench", { lease_id: "l1", client: "ann", priority: "0", "x y": "z" });
  assert.deepEqual(entry, {
    ...{ LEASE: "l1", CLIENT: "ann", X_Y: "z", ERROR_TYPE: "E_IO", PID: 1 },
    ...{ MESSAGE: "bench driver.MockPower: broken\nin two (on)", PRIORITY: 3, SYSLOG_IDENTIFIER: "jmp-agent" },
    ...{ LOGGER: "driver.MockPower", EXPORTER: "bench", OPERATION: "on", DRIVER: "power" },
  });
  const place = join(scratch(t), "journal");
  const heard = await listen(t, place);
  const journal = await openJournal(place);
  // More at once than a socket takes.
  for (let line = 0; line < 600; line += 1) journal.write({ MESSAGE: `line ${line}` });
  journal.write(entry);
  await until(() => heard().length === 601);
  journal.close();
  assert.equal(String(heard()[599]), "MESSAGE=line 599\n");
  const last = heard()[600] ?? Buffer.alloc(0);
  const text = "bench driver.MockPower: broken\nin two (on)";
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(text.length));
  assert.ok(last.includes(Buffer.concat([Buffer.from("MESSAGE\n"), length, Buffer.from(`${text}\n`)])));
  assert.ok(last.includes("PRIORITY=3\n"));
});

test("an entry is never longer than the journal takes, and cut between characters", () => {
  const bytes = encodeEntry({ MESSAGE: "ä".repeat(100_000) });
  assert.ok(bytes.length < 50_000);
  assert.doesNotMatch(bytes.toString(), /�/);
  assert.deepEqual(["exporter", "", "__", "1a", "ä", "a.b-c", "x".repeat(65)].map(fieldName), [
    "EXPORTER",
    undefined,
    undefined,
    "A",
    undefined,
    "A_B_C",
    undefined,
  ]);
});

test("output that leads elsewhere is not the journal's", () => {
  assert.equal(leadsToJournal(1, {}), false);
  assert.equal(leadsToJournal(1, { JOURNAL_STREAM: "1:2" }), false);
  assert.equal(leadsToJournal(999, { JOURNAL_STREAM: "1:2" }), false);
});

test("a token that the service manager holds is that of the configuration's name", async (t) => {
  const directory = scratch(t);
  const env = { CREDENTIALS_DIRECTORY: directory };
  writeFileSync(join(directory, "token_bench"), " secret\n");
  writeFileSync(join(directory, "token_empty"), "\n");
  mkdirSync(join(directory, "token_folder"));
  assert.equal(await tokenCredential("/etc/jumpstarter/exporters/bench.yaml", env), "secret");
  assert.equal(await tokenCredential("empty.yaml", env), undefined);
  assert.equal(await tokenCredential("other.yaml", env), undefined);
  assert.equal(await tokenCredential("bench.yaml", {}), undefined);
  await assert.rejects(tokenCredential("folder.yaml", env), { code: "E_IO" });
  chmodSync(directory, 0o700);
});
