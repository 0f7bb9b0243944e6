import assert from "node:assert/strict";
import { rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { LogBus } from "../../../agent/driver/log.ts";
import { bootStateIn, type BootState } from "../../../appliance/slots/boot-state.ts";
import type { RunningSystem } from "../../../appliance/slots/system.ts";
import { confirmTrial, whatIsMissing } from "../../../appliance/update/confirm.ts";
import type { UpdatedHost } from "../../../appliance/update/host.ts";
import type { ExporterNow } from "../../../appliance/update/exporters.ts";
import { UpdateRecords, type UpdateRecord } from "../../../appliance/update/records.ts";
import { scratch } from "../../sim/agent.ts";
import { systemFiles, updateLab } from "../../sim/update-lab.ts";

const onTrial: BootState = { slot: "b", trial: "a", tries: 2, invalid: undefined };
const confirmedA: BootState = { slot: "a", trial: undefined, tries: 0, invalid: undefined };
const confirmedB: BootState = { ...confirmedA, slot: "b" };
const bench = { exporter: "bench", online: true, offlineDrivers: ["camera"] };
const benchNow: ExporterNow = { exporter: "bench", pid: 7, online: true, lease: null, offline: [] };

test("what exporters did before must be done again, and no more", () => {
  const missing = (...now: Partial<ExporterNow>[]) =>
    whatIsMissing(
      [bench],
      now.map((one) => ({ ...benchNow, ...one })),
    );
  assert.equal(missing({}), undefined);
  assert.equal(missing({ offline: [{ driver: "camera", reason: "no camera" }] }), undefined);
  assert.equal(whatIsMissing([], []), undefined);
  assert.match(missing() ?? "", /bench does not run/);
  assert.match(missing({ online: false }) ?? "", /bench is not registered/);
  assert.match(
    missing({ offline: [{ driver: "power", reason: "EACCES" }] }) ?? "",
    /power of bench is offline: EACCES/,
  );
  // Its controller was away before: that says nothing of the new system.
  assert.equal(whatIsMissing([{ ...bench, online: false }], [{ ...benchNow, online: false }]), undefined);
});

test("a trial that gets well is confirmed, and its record says so", async (t) => {
  const lab = setUp(t, onTrial);
  await lab.keep({ state: "trial" });
  lab.answers([benchNow]);
  assert.deepEqual(await lab.confirm(), { outcome: "confirmed" });
  assert.deepEqual((await lab.store.read()).state, confirmedA);
  assert.equal((await lab.records.last())?.state, "confirmed");
});

test("a trial is given up after its limit, with the reason, and GRUB starts the old system", async (t) => {
  const lab = setUp(t, onTrial);
  await lab.keep({ state: "trial" });
  lab.answers([{ ...benchNow, online: false }]);
  const ended = await lab.confirm();
  assert.match(
    ended.outcome === "rolled back" ? ended.reason : "",
    /not confirmed within 0.2 s: bench is not registered/,
  );
  assert.deepEqual((await lab.store.read()).state, confirmedB);
  const last = await lab.records.last();
  assert.equal(last?.state, "rolled-back");
  assert.match(last?.reason ?? "", /bench is not registered/);
});

test("an agent that comes up and dies again is not well", async (t) => {
  const lab = setUp(t, onTrial);
  await lab.keep({ state: "trial" });
  let pid = 0;
  lab.answers(() => [{ ...benchNow, pid: (pid += 1) }]);
  assert.equal((await lab.confirm()).outcome, "rolled back");
});

test("an agent that does not answer is not well", async (t) => {
  const lab = setUp(t, onTrial);
  lab.answers(() => {
    throw new Error("nobody there");
  });
  const ended = await lab.confirm();
  assert.match(ended.outcome === "rolled back" ? ended.reason : "", /nobody there/);
});

test("another version than was written is not confirmed", async (t) => {
  const lab = setUp(t, onTrial, { version: "1" });
  await lab.keep({ state: "trial" });
  lab.answers([benchNow]);
  const ended = await lab.confirm();
  assert.match(ended.outcome === "rolled back" ? ended.reason : "", /version 1 runs, and 2 was written/);
});

test("whoever does not wait confirms it as it is", async (t) => {
  const lab = setUp(t, onTrial);
  lab.answers([]);
  assert.deepEqual(await lab.confirm({ wait: false }), { outcome: "confirmed" });
  assert.deepEqual((await lab.store.read()).state, confirmedA);
});

test("what was confirmed by hand is not rolled back by who still waited", async (t) => {
  const lab = setUp(t, onTrial);
  await lab.keep({ state: "trial" });
  lab.answers([]);
  const waiting = lab.confirm();
  assert.deepEqual(await lab.confirm({ wait: false }), { outcome: "confirmed" });
  // The next update may even be written by then.
  const next: BootState = { slot: "a", trial: "b", tries: 3, invalid: undefined };
  await lab.store.write(next);
  assert.deepEqual(await waiting, { outcome: "nothing to confirm" });
  assert.deepEqual((await lab.store.read()).state, next);
  assert.equal((await lab.records.last())?.state, "confirmed");
});

const old = { slot: "a", startedAs: "confirmed", version: "1" } as const;

for (const [name, state, record, verdict, left] of [
  ["all tries are used", { slot: "a", trial: "b", tries: 0, invalid: undefined }, "trial", "rolled-back", confirmedA],
  [
    "GRUB could not load it",
    { slot: "a", trial: "b", tries: 2, invalid: undefined },
    "trial",
    "rolled-back",
    confirmedA,
  ],
  ["it was given up", confirmedA, "trial", "rolled-back", confirmedA],
  ["it was being written", { ...confirmedA, invalid: "b" }, "writing", "failed", { ...confirmedA, invalid: "b" }],
] as const) {
  test(`the old system tells what became of an update: ${name}`, async (t) => {
    const lab = setUp(t, state, old);
    await lab.keep({ state: record, from: { slot: "a", version: "1" }, to: { slot: "b", version: "2" } });
    assert.deepEqual(await lab.confirm(), { outcome: "nothing to confirm" });
    assert.deepEqual((await lab.store.read()).state, left);
    assert.equal((await lab.records.last())?.state, verdict);
  });
}

test("an update that was not started yet stays to be tried", async (t) => {
  const waiting: BootState = { slot: "a", trial: "b", tries: 3, invalid: undefined };
  const lab = setUp(t, waiting, old);
  await lab.keep({ state: "trial", from: { slot: "a", version: "1" }, to: { slot: "b", version: "2" } });
  assert.deepEqual(await lab.confirm(), { outcome: "nothing to confirm" });
  assert.deepEqual((await lab.store.read()).state, waiting);
  assert.equal((await lab.records.last())?.state, "trial");
});

test("a record that the power cut off from its confirmation is completed", async (t) => {
  const lab = setUp(t, confirmedA, { startedAs: "confirmed" });
  await lab.keep({ state: "trial" });
  await lab.confirm();
  assert.equal((await lab.records.last())?.state, "confirmed");
});

test("a damaged boot state is mended from its copy, or from what runs", async (t) => {
  const lab = setUp(t, { ...confirmedB, invalid: "a" });
  const main = join(lab.boot, "grub/grubenv");
  writeFileSync(main, "torn");
  await lab.confirm();
  assert.deepEqual(await lab.store.read(), { state: { ...confirmedB, invalid: "a" }, isDamaged: false });
  for (const name of ["grubenv", "grubenv.safe"]) rmSync(join(lab.boot, "grub", name));
  await lab.confirm();
  assert.deepEqual(await lab.store.read(), { state: confirmedA, isDamaged: false });
});

test("a state directory that cannot be written is no good sign", async (t) => {
  const lab = setUp(t, onTrial, {}, "no-folder");
  lab.answers([benchNow]);
  const ended = await lab.confirm();
  assert.match(ended.outcome === "rolled back" ? ended.reason : "", /state directory cannot be written/);
});

/** Slot a runs, as version 2, which slot b was updated to. */
function setUp(t: TestContext, state: BootState, running: Partial<RunningSystem> = {}, updates = "updates") {
  const folder = scratch(t);
  const files = systemFiles(join(folder, "files"), 1_000);
  const { boot, roots, system } = updateLab(folder, files, { path: "/nowhere", sizeBytes: 0 });
  const store = bootStateIn(boot);
  if (updates !== "updates") writeFileSync(join(folder, updates), "");
  const records = new UpdateRecords(join(folder, updates));
  let answer: () => readonly ExporterNow[] = () => [];
  const host: UpdatedHost = {
    system: { ...system, startedAs: "trial", version: "2", ...running },
    roots,
    records,
    askExporters: () => Promise.resolve().then(() => answer()),
    log: new LogBus().logger({ source: "system", logger: "update" }),
  };
  const record: UpdateRecord = {
    format: "jumpstarter-agent/update-receipt/v1",
    id: records.newId(),
    kind: "update",
    state: "trial",
    startedAt: "2026-11-30T00:00:00.000Z",
    from: { slot: "b", version: "1" },
    to: { slot: "a", version: "2" },
    steps: [],
    before: [bench],
  };
  const written = store.write(state);
  return {
    boot,
    store,
    records,
    keep: (facts: Partial<UpdateRecord>) => records.keep({ ...record, ...facts }),
    answers: (given: readonly ExporterNow[] | (() => readonly ExporterNow[])) =>
      void (answer = typeof given === "function" ? given : () => given),
    async confirm(options: { wait?: boolean } = {}) {
      await written;
      const signal = AbortSignal.timeout(30_000);
      return await confirmTrial({ wait: true, limitMs: 200, settleMs: 50, lookEveryMs: 10, signal, ...options }, host);
    },
  };
}
