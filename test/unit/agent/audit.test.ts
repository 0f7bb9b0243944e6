import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import {
  appendFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { test, type TestContext } from "node:test";
import { openAuditLog, type AuditLogOptions, type LeaseAudit } from "../../../agent/ops/audit.ts";
import { scratch } from "../../sim/agent.ts";
import { eventually } from "../../sim/rig.ts";
import { VirtualClock } from "../../sim/virtual-clock.ts";

type Line = Record<string, unknown>;

function start(t: TestContext, options: Partial<AuditLogOptions> = {}) {
  const file = options.file ?? join(scratch(t), "audit.jsonl");
  const clock = new VirtualClock();
  const warnings: string[] = [];
  const audit = openAuditLog({ file, clock, warn: (message) => warnings.push(message), ...options });
  t.after(() => audit.close());
  const begin = (lease = "lease-1", exporter = "bench") => audit.begin({ exporter, lease, client: "alice" });
  return { file, clock, warnings, audit, begin };
}

function linesOf(file: string): Line[] {
  const text = readFileSync(file, "utf8");
  assert.ok(text === "" || text.endsWith("\n"), "the last line is whole");
  return text
    .split("\n")
    .slice(0, -1)
    .map((line) => JSON.parse(line) as Line);
}

/** Bounded, as whether a line is on the disk is seen from outside only; a write that is seen half is not the end. */
async function written(file: string, count: number): Promise<Line[]> {
  await eventually(`${count} lines are written`, () => {
    const text = existsSync(file) ? readFileSync(file, "utf8") : "";
    return text.split("\n").length > count && text.endsWith("\n");
  });
  return linesOf(file);
}

const call = { caller: "client", driver: "power", type: "test.Power", method: "on", code: undefined } as const;
const stream = {
  ...call,
  driver: "serial",
  method: "connect",
  durationMs: 100.4,
  bytesIn: 10,
  bytesOut: 1000,
} as const;

function calls(lease: LeaseAudit, count: number): void {
  for (let number = 0; number < count; number += 1) lease.call({ ...call, durationMs: 2.4 });
}

test("a lease is written as its beginning, what was done each ten seconds, and its end", async (t) => {
  const { file, clock, audit } = start(t);
  const lease = audit.begin({ exporter: "bench", lease: "lease-1", client: "alice", context: { build: "17" } });
  assert.equal((await written(file, 1)).length, 1);
  calls(lease, 3);
  lease.call({ ...call, method: "off", code: "E_IO", durationMs: 5 });
  lease.call({ ...call, method: "off", code: "E_TIMEOUT", durationMs: 5 });
  lease.call({ ...call, caller: "hook", durationMs: 1 });
  lease.stream(stream);
  lease.resource({ caller: "client", code: "E_CANCELLED", durationMs: 3, bytesIn: 7, bytesOut: 0 });
  await clock.advance(9_999);
  assert.equal(linesOf(file).length, 1);
  await clock.advance(1);
  await written(file, 2);
  // Nothing happens, so nothing is written.
  await clock.advance(60_000);
  assert.equal(clock.sleeping, 0);
  lease.call({ ...call, durationMs: 1 });
  await clock.advance(5_000);
  lease.end({ outcome: "released", reason: "the client is done" });
  const name = { exporter: "bench", lease: "lease-1", client: "alice" };
  const power = { driver: "power", type: "test.Power" };
  assert.deepEqual(await written(file, 4), [
    { time: "2026-01-01T00:00:00.000Z", event: "lease-begin", ...name, context: { build: "17" } },
    {
      time: "2026-01-01T00:00:10.000Z",
      event: "lease-calls",
      ...name,
      ms: 10_000,
      calls: [
        { ...power, method: "on", count: 3, failed: {}, ms: 7 },
        { ...power, method: "off", count: 2, failed: { E_IO: 1, E_TIMEOUT: 1 }, ms: 10 },
        { ...power, method: "on", by: "hook", count: 1, failed: {}, ms: 1 },
      ],
      streams: [
        {
          driver: "serial",
          type: "test.Power",
          method: "connect",
          count: 1,
          failed: {},
          ms: 100,
          bytesIn: 10,
          bytesOut: 1000,
        },
      ],
      resources: { count: 1, failed: { E_CANCELLED: 1 }, ms: 3, bytesIn: 7, bytesOut: 0 },
    },
    {
      time: "2026-01-01T00:01:15.000Z",
      event: "lease-calls",
      ...name,
      ms: 5_000,
      calls: [{ ...power, method: "on", count: 1, failed: {}, ms: 1 }],
    },
    {
      time: "2026-01-01T00:01:15.000Z",
      event: "lease-end",
      ...name,
      outcome: "released",
      reason: "the client is done",
      ms: 75_000,
      calls: { count: 7, failed: { E_IO: 1, E_TIMEOUT: 1 }, ms: 19 },
      streams: { count: 1, failed: {}, ms: 100, bytesIn: 10, bytesOut: 1000 },
      resources: { count: 1, failed: { E_CANCELLED: 1 }, ms: 3, bytesIn: 7, bytesOut: 0 },
    },
  ]);
});

test("durations do not follow the wall clock", async (t) => {
  const { file, clock, begin } = start(t);
  const lease = begin();
  await clock.advance(1_000);
  clock.wallOffsetMs = -3_600_000;
  lease.end({ outcome: "released" });
  const [, end] = await written(file, 2);
  assert.equal(end?.["ms"], 1_000);
  assert.equal(end?.["time"], "2025-12-31T23:00:01.000Z");
});

test("a transfer parts what the one and the other client have done", async (t) => {
  const { file, begin } = start(t);
  const lease = begin();
  calls(lease, 1);
  lease.client("bob");
  calls(lease, 2);
  lease.event("hook", { hook: "afterLease", outcome: "ok", exitCode: 0 });
  lease.end({ outcome: "released" });
  const told = (await written(file, 6)).map(({ event, client, from, calls, fields }) => ({
    event,
    client,
    from,
    calls,
    fields,
  }));
  const done = (count: number) => [
    { driver: "power", type: "test.Power", method: "on", count, failed: {}, ms: Math.round(count * 2.4) },
  ];
  const none = { from: undefined, calls: undefined, fields: undefined };
  assert.deepEqual(told, [
    { ...none, event: "lease-begin", client: "alice" },
    { ...none, event: "lease-calls", client: "alice", calls: done(1) },
    { ...none, event: "lease-transfer", client: "bob", from: "alice" },
    { ...none, event: "lease-calls", client: "bob", calls: done(2) },
    { ...none, event: "hook", client: "bob", fields: { hook: "afterLease", outcome: "ok", exitCode: 0 } },
    { ...none, event: "lease-end", client: "bob", calls: { count: 3, failed: {}, ms: 7 } },
  ]);
});

test("what a lease says stays within bounds", async (t) => {
  const { file, clock, audit } = start(t);
  const long = "x".repeat(100_000);
  const many = Object.fromEntries(Array.from({ length: 1_000 }, (_, index) => [`key${index}`, long]));
  const lease = audit.begin({ exporter: "bench", lease: long, client: long, context: many });
  for (let index = 0; index < 10_000; index += 1) lease.call({ ...call, method: `m${index}`, durationMs: 1 });
  await clock.advance(10_000);
  lease.event(long, many);
  lease.end({ outcome: long, reason: long });
  // An event after the end is nobody's.
  lease.event("late");
  calls(lease, 1);
  lease.end({ outcome: "again" });
  await audit.close();
  const [, rows, , end, ...more] = linesOf(file);
  assert.deepEqual(more, []);
  const counted = rows?.["calls"] as { method: string; count: number }[];
  assert.equal(counted.length, 257);
  assert.deepEqual(counted.at(-1), { driver: "", type: "", method: "others", count: 9_744, failed: {}, ms: 9_744 });
  assert.equal((end?.["calls"] as { count: number }).count, 10_000);
  assert.ok(statSync(file).size < 300_000);
});

test("32 exporters share one file and one timer", async (t) => {
  const { file, clock, begin } = start(t);
  const leases = Array.from({ length: 32 }, (_, index) => begin("lease", `rack-${index}`));
  for (let round = 0; round < 5; round += 1) {
    for (const lease of leases) calls(lease, 10);
    assert.equal(clock.sleeping, 1);
    await clock.advance(10_000);
  }
  for (const lease of leases) lease.end({ outcome: "released" });
  const lines = await written(file, 32 * 7);
  assert.equal(lines.length, 32 * 7);
  for (let index = 0; index < 32; index += 1) {
    const own = lines.filter(({ exporter }) => exporter === `rack-${index}`).map(({ event }) => event);
    assert.deepEqual(own, ["lease-begin", ...Array.from({ length: 5 }, () => "lease-calls"), "lease-end"]);
  }
});

test("closing writes what is known of leases that go on", async (t) => {
  const { file, audit, begin } = start(t);
  const lease = begin();
  calls(lease, 1);
  await audit.close();
  await audit.close();
  assert.deepEqual(
    linesOf(file).map(({ event }) => event),
    ["lease-begin", "lease-calls"],
  );
  calls(lease, 1);
  lease.end({ outcome: "late" });
});

test("the file is its owner's only, also after a rotation", async (t) => {
  const { file, begin, audit } = start(t, { maxBytes: 200 });
  begin("a".repeat(100));
  begin("b".repeat(100));
  await audit.close();
  assert.equal(statSync(file).mode & 0o777, 0o600);
  assert.equal(statSync(`${file}.1`).mode & 0o777, 0o600);
});

test("files are rotated by number, none grows beyond its bound, the oldest go, every line is whole", async (t) => {
  const { file, begin, audit } = start(t, { maxBytes: 1_000, keep: 3 });
  for (let index = 0; index < 60; index += 1) begin(`lease-${index}`);
  await audit.close();
  const names = readdirSync(dirname(file)).sort();
  assert.deepEqual(names, ["audit.jsonl", "audit.jsonl.1", "audit.jsonl.2", "audit.jsonl.3"]);
  const leases = [...names].reverse().flatMap((name) => {
    const path = join(dirname(file), name);
    assert.ok(statSync(path).size <= 1_000);
    return linesOf(path).map(({ lease }) => lease);
  });
  const first = 60 - leases.length;
  assert.ok(first > 0 && first < 60);
  assert.deepEqual(
    leases,
    Array.from({ length: leases.length }, (_, index) => `lease-${first + index}`),
  );
});

test("a line that is longer than a file may be has a file of its own", async (t) => {
  const { file, begin, audit } = start(t, { maxBytes: 100, keep: 5 });
  for (const name of ["a", "b", "c"]) begin(name.repeat(200));
  await audit.close();
  for (const path of [file, `${file}.1`, `${file}.2`]) assert.equal(linesOf(path).length, 1);
});

test("a line that a crash cut off is completed, and the next ones stand on their own", async (t) => {
  const file = join(scratch(t), "audit.jsonl");
  writeFileSync(file, '{"event":"lease-begin"}\n{"event":"lease-ca');
  const { begin, audit } = start(t, { file });
  begin();
  await audit.close();
  const [, cut, next] = readFileSync(file, "utf8").split("\n");
  assert.equal(cut, '{"event":"lease-ca');
  assert.equal((JSON.parse(next ?? "") as Line)["event"], "lease-begin");
});

test("a file that somebody else moves away is begun anew", async (t) => {
  const { file, begin, audit } = start(t);
  begin("one");
  await written(file, 1);
  renameSync(file, `${file}.moved`);
  begin("two");
  await written(file, 1);
  appendFileSync(file, "");
  begin("three");
  await audit.close();
  assert.deepEqual(
    linesOf(file).map(({ lease }) => lease),
    ["two", "three"],
  );
});

test("a disk that cannot be written costs the records and one warning, and is told when it works again", async (t) => {
  const file = join(scratch(t), "later", "audit.jsonl");
  const { begin, warnings } = start(t, { file });
  const lease = begin();
  await eventually("it is told", () => warnings.length > 0);
  lease.event("one");
  lease.event("two");
  await new Promise((resolve) => setImmediate(resolve));
  mkdirSync(dirname(file));
  // The records that were under way may still be lost or not.
  let tries = 0;
  await eventually("it works again", () => {
    if (tries++ % 20 === 0) lease.event("try");
    return existsSync(file) && linesOf(file).length >= 2;
  });
  const [lost] = linesOf(file);
  assert.equal(lost?.["event"], "records-lost");
  assert.ok((lost?.["count"] as number) >= 1);
  assert.equal(warnings.length, 1);
  assert.match(warnings[0] ?? "", /loses records: cannot write to .*audit.jsonl: /);
});

test("what is not a file is never written to", async (t) => {
  const directory = scratch(t);
  const pipe = join(directory, "pipe");
  execFileSync("mkfifo", [pipe]);
  for (const file of ["/dev/full", pipe, directory]) {
    const { begin, warnings, audit } = start(t, { file });
    begin();
    await audit.close();
    assert.equal(warnings.length, 1);
  }
});

test("a disk that fills up within a line keeps whole lines only", async (t) => {
  const { file, begin, warnings } = start(t);
  begin("first");
  await written(file, 1);
  const size = statSync(file).size;
  // The system takes the first bytes of what goes beyond this, as a full disk does.
  const limit = (bytes: string) => execFileSync("prlimit", ["--pid", String(process.pid), `--fsize=${bytes}:`]);
  t.after(() => limit("unlimited"));
  limit(String(size + 50));
  begin("second");
  await eventually("it is told", () => warnings.length > 0);
  await eventually("the torn line is gone", () => statSync(file).size === size);
  limit("unlimited");
  begin("third");
  assert.deepEqual(
    (await written(file, 3)).map(({ event, lease, count }) => [event, lease ?? count]),
    [
      ["lease-begin", "first"],
      ["records-lost", 1],
      ["lease-begin", "third"],
    ],
  );
});
