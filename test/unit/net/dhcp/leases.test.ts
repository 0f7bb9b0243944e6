import assert from "node:assert/strict";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { LogBus } from "../../../../agent/driver/log.ts";
import { LeaseTable, type Clock, type LeaseTableOptions } from "../../../../net/dhcp/leases.ts";
import { scratch } from "../../../sim/agent.ts";
import { recordDisk } from "../../../sim/power-cut.ts";

const macs = Array.from({ length: 8 }, (_, n) => `02:00:00:00:00:0${n}`);
const [a = "", b = "", c = ""] = macs;
const pool = { first: "10.0.0.10", last: "10.0.0.17" };
const day = 86_400_000;
const now = Date.UTC(2026, 10, 25);

/** Two clocks that a test moves. */
function clockAt(wallMs: number): Clock & { wall: number; monotonic: number; pass: (ms: number) => void } {
  const clock = {
    wall: wallMs,
    monotonic: 5_000,
    wallMs: () => clock.wall,
    monotonicMs: () => clock.monotonic,
    pass: (ms: number) => {
      clock.wall += ms;
      clock.monotonic += ms;
    },
  };
  return clock;
}

async function tableWith(options: Partial<LeaseTableOptions> = {}): Promise<{ table: LeaseTable; told: string[] }> {
  const bus = new LogBus();
  const told: string[] = [];
  bus.subscribe(({ severity, message }) => told.push(`${severity} ${message}`));
  const log = bus.logger({ source: "driver", logger: "dhcp" });
  const table = await LeaseTable.open({ pool, excluded: [], reservations: {}, file: undefined, log, ...options });
  return { table, told };
}

function fileIn(t: TestContext): string {
  return join(scratch(t), "leases.json");
}

test("an offer is held for a minute, a lease for its time, and a client keeps its address beyond that", async () => {
  const clock = clockAt(now);
  const { table } = await tableWith({ clock, pool: { first: "10.0.0.10", last: "10.0.0.10" } });
  assert.equal(table.offer(a, undefined), "10.0.0.10");
  assert.equal(table.offer(b, undefined), undefined);
  clock.pass(61_000);
  assert.equal(table.offer(b, undefined), "10.0.0.10", "a did not want it");
  await table.bind(b, "10.0.0.10", 3600, "board");
  clock.pass(3_599_000);
  assert.equal(table.at("10.0.0.10")?.state, "bound");
  assert.equal(table.offer(a, undefined), undefined);
  clock.pass(2_000);
  assert.equal(table.at("10.0.0.10")?.state, "expired");
  assert.equal(table.offer(b, undefined), "10.0.0.10");
  assert.deepEqual(table.list().map(({ mac, hostName }) => ({ mac, hostName })), [{ mac: b, hostName: "board" }]); // prettier-ignore
});

test("among expired leases the one that nobody used for longest goes first, reserved addresses never", async () => {
  const clock = clockAt(now);
  const reservations = { [c]: { address: "10.0.0.10" } };
  const { table } = await tableWith({ clock, reservations, pool: { first: "10.0.0.10", last: "10.0.0.12" } });
  assert.equal(table.offer(a, undefined), "10.0.0.11");
  await table.bind(a, "10.0.0.11", 60, undefined);
  assert.equal(table.offer(b, undefined), "10.0.0.12");
  await table.bind(b, "10.0.0.12", 30, undefined);
  clock.pass(100_000);
  assert.equal(table.offer("02:00:00:00:00:ff", undefined), "10.0.0.12");
  assert.equal(table.offer(c, "10.0.0.11"), "10.0.0.10");
});

test("an address has one owner at most, whatever clients do", async () => {
  const clock = clockAt(now);
  const { table } = await tableWith({ clock, pool: { first: "10.0.0.10", last: "10.0.0.13" } });
  let state = 1;
  const random = (below: number) => (state = (state * 1664525 + 1013904223) % 2 ** 32) % below;
  const bound = new Map<string, { mac: string; untilMs: number }>();
  for (let step = 0; step < 5000; step++) {
    const mac = macs[random(macs.length)] ?? "";
    const address = `10.0.0.${10 + random(4)}`;
    const action = random(6);
    if (action <= 2) {
      const wanted = action === 0 ? address : table.offer(mac, undefined);
      if (wanted !== undefined && table.mayHave(mac, wanted)) {
        const owner = bound.get(wanted);
        assert.ok(
          owner === undefined || owner.mac === mac || owner.untilMs <= clock.monotonic,
          `${wanted} has an owner`,
        );
        for (const [other, { mac: holder }] of bound) if (holder === mac) bound.delete(other);
        await table.bind(mac, wanted, 600, undefined);
        bound.set(wanted, { mac, untilMs: clock.monotonic + 600_000 });
      }
    } else if (action === 3 && (await table.release(mac, address))) bound.delete(address);
    else if (action === 4 && random(20) === 0 && (await table.decline(mac, address))) bound.delete(address);
    else clock.pass(random(60_000));
    assert.ok(table.list().length <= 4);
  }
});

test("leases come back from the file with what was left of their time", async (t) => {
  const file = fileIn(t);
  const clock = clockAt(now);
  const { table } = await tableWith({ file, clock });
  await table.bind(a, "10.0.0.10", 3600, "board");
  await table.bind(b, "10.0.0.11", 3600, undefined);
  await table.bind(c, "10.0.0.12", 3600, undefined);
  await table.release(b, "10.0.0.11");
  await table.decline(c, "10.0.0.12");
  const later = clockAt(now + 1_800_000);
  const { table: again, told } = await tableWith({ file, clock: later });
  assert.deepEqual(again.list(), [
    { address: "10.0.0.10", mac: a, state: "bound", hostName: "board", expires: new Date(now + 3_600_000) },
    { address: "10.0.0.11", mac: b, state: "released", hostName: undefined, expires: new Date(now) },
  ]);
  assert.equal(again.mayHave(c, "10.0.0.12"), false, "it rests still");
  assert.deepEqual(told, []);
  assert.ok(readFileSync(file, "utf8").includes("board"));
});

test("a host whose clock is not set, was not set, or went back keeps its leases", async (t) => {
  const left = async (writtenMs: number, readMs: number) => {
    const file = fileIn(t);
    const { table } = await tableWith({ file, clock: clockAt(writtenMs) });
    await table.bind(a, "10.0.0.10", 3600, undefined);
    const clock = clockAt(readMs);
    const { table: again } = await tableWith({ file, clock });
    const lease = again.at("10.0.0.10");
    return [lease?.state, ((lease?.expires.getTime() ?? 0) - readMs) / 1000];
  };
  assert.deepEqual(await left(60_000, 5_000), ["bound", 3600], "1970, and 1970 again");
  assert.deepEqual(await left(60_000, now), ["bound", 3600], "set since then");
  assert.deepEqual(await left(now, 60_000), ["bound", 3600], "lost since then");
  assert.deepEqual(await left(now, now - 7 * day), ["bound", 3600], "set back");
  assert.deepEqual(await left(now, now + 600_000), ["bound", 3000]);
  assert.deepEqual(await left(now, now + day), ["expired", 3600 - 86_400]);

  // Set while it runs: leases go on by the clock that only goes forward.
  const clock = clockAt(60_000);
  const { table } = await tableWith({ clock });
  await table.bind(a, "10.0.0.10", 3600, undefined);
  clock.wall = now;
  assert.equal(table.at("10.0.0.10")?.state, "bound");
  assert.equal(table.at("10.0.0.10")?.expires.getTime(), now + 3_600_000);
});

test("a torn or foreign file is told and put aside", async (t) => {
  for (const content of ["", "{", '{"format":"something else","leases":[]}', '{"format":1}\0', "[]", "\xff\xfe"]) {
    const file = fileIn(t);
    writeFileSync(file, content);
    const { table, told } = await tableWith({ file });
    assert.equal(told.length, 1);
    assert.match(told[0] ?? "", /^WARNING DHCP leases in .* cannot be read, it is kept as .*\.unreadable: /);
    assert.equal(readFileSync(`${file}.unreadable`, "utf8"), content);
    await table.bind(a, "10.0.0.10", 3600, undefined);
    assert.equal((await tableWith({ file })).table.at("10.0.0.10")?.mac, a);
  }
});

test("a disk that refuses is told once, and leases are given all the same", async (t) => {
  const file = join(fileIn(t), "below", "a", "file");
  writeFileSync(join(file, "..", "..", ".."), "no folder");
  const { table, told } = await tableWith({ file });
  await table.bind(a, "10.0.0.10", 3600, undefined);
  await table.bind(b, "10.0.0.11", 3600, undefined);
  assert.equal(table.list().length, 2);
  assert.equal(told.filter((line) => /^WARNING DHCP leases are not kept/.test(line)).length, 1, told.join("\n"));
});

const cuts = 500;
test(`after a power cut every client that was told its address has it, and no address has two (${cuts} cuts)`, async (t) => {
  const recorded = scratch(t);
  const recording = recordDisk(t, recorded);
  const { table } = await tableWith({ file: join(recorded, "leases.json") });
  /** What clients had been told when so many operations were done. */
  const promised: { length: number; mac: string; address: string }[] = [];
  for (const [n, mac] of macs.entries()) {
    const address = table.offer(mac, undefined) ?? assert.fail();
    // Two at a time share a write.
    const binding = table
      .bind(mac, address, 3600, undefined)
      .then(() => promised.push({ length: recording.length, mac, address }));
    if (n % 2 === 1) await binding;
  }
  await table.close();
  assert.ok(recording.length > 12);

  let state = 1;
  const random = () => (state = (state * 1664525 + 1013904223) % 2 ** 32) / 2 ** 32;
  const laidOut = join(scratch(t), "disk");
  for (let cut = 0; cut < cuts; cut++) {
    const length = Math.floor(random() * (recording.length + 1));
    recording.restore(laidOut, length, random);
    const { table: again, told } = await tableWith({ file: join(laidOut, "leases.json") });
    assert.deepEqual(told, []);
    for (const promise of promised) {
      if (promise.length <= length) assert.equal(again.at(promise.address)?.mac, promise.mac);
    }
    assert.ok(!existsSync(join(laidOut, "leases.json.unreadable")));
  }
});
