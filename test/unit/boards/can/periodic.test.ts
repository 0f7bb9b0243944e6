import assert from "node:assert/strict";
import { test } from "node:test";
import { PeriodicTasks } from "../../../../boards/can/periodic.ts";
import { frameOf } from "../../../sim/can-frames.ts";

/** Tasks in a time of their own, whose timers are late by as much as is said. */
function makeTasks({ lateMs = 0 } = {}) {
  let nowMs = 1_000;
  let timers: { atMs: number; run: () => void }[] = [];
  const sent: { atMs: number; id: number }[] = [];
  const warnings: string[] = [];
  let bus = async () => {};
  const tasks = new PeriodicTasks({
    send: async ({ id }) => {
      sent.push({ atMs: nowMs - 1_000, id });
      await bus();
    },
    warn: (text) => warnings.push(text),
    now: () => nowMs,
    later: (run, ms) => {
      const timer = { atMs: nowMs + ms + lateMs, run };
      timers.push(timer);
      return () => (timers = timers.filter((other) => other !== timer));
    },
  });
  const settle = () => new Promise((resolve) => setImmediate(resolve));
  /** Lets time pass, timer by timer. */
  const pass = async (ms: number) => {
    const endMs = nowMs + ms;
    await settle();
    for (;;) {
      const [next] = timers.toSorted((a, b) => a.atMs - b.atMs);
      if (next === undefined || next.atMs > endMs) break;
      timers = timers.filter((timer) => timer !== next);
      nowMs = Math.max(nowMs, next.atMs);
      next.run();
      await settle();
    }
    nowMs = endMs;
  };
  /** The process is held up: time passes and no timer runs. */
  const freeze = (ms: number) => (nowMs += ms);
  return {
    tasks,
    sent,
    warnings,
    pass,
    freeze,
    timers: () => timers.length,
    takeBus: (taken: typeof bus) => (bus = taken),
  };
}

const frame = frameOf({ id: 1 });

test("late timers do not add up: as many frames are sent as periods have begun", async () => {
  const { tasks, sent, pass, timers } = makeTasks({ lateMs: 1.3 });
  const uuid = tasks.add([frame], 0.01, undefined);
  tasks.start(uuid);
  await pass(9_995);
  assert.equal(sent.length, 1_000);
  assert.ok(sent.every(({ atMs }, index) => atMs >= index * 10 && atMs < index * 10 + 1.4));
  tasks.remove(uuid);
  assert.equal(timers(), 0);
});

test("a period below what timers can do is kept by sending several frames at once", async () => {
  const { tasks, sent, pass } = makeTasks({ lateMs: 1 });
  tasks.start(tasks.add([frame], 0.0001, undefined));
  await pass(1_000);
  assert.ok(sent.length > 9_950 && sent.length <= 10_001, `${sent.length}`);
});

test("after the process was held up, what is long overdue is left out", async () => {
  const { tasks, sent, pass, freeze } = makeTasks();
  tasks.start(tasks.add([frame], 0.01, undefined));
  await pass(95);
  assert.equal(sent.length, 10);
  freeze(5_000);
  await pass(0);
  assert.ok(sent.length <= 13, `${sent.length}`);
  await pass(1_000);
  assert.ok(sent.length >= 110 && sent.length <= 113, `${sent.length}`);
  assert.equal((sent.at(-1)?.atMs ?? 0) % 10, 0, "in step with the start still");
});

test("a bus that takes no frames has one waiting, not a pile", async () => {
  const { tasks, sent, pass, takeBus } = makeTasks();
  let free = () => {};
  takeBus(() => new Promise((resolve) => (free = resolve)));
  tasks.start(tasks.add([frame], 0.01, undefined));
  await pass(1_000);
  assert.equal(sent.length, 1);
  takeBus(async () => {});
  free();
  await pass(100);
  assert.ok(sent.length >= 10 && sent.length <= 13, `${sent.length}`);
});

test("a failure is told once, and the task goes on", async () => {
  const { tasks, sent, warnings, pass, takeBus } = makeTasks();
  takeBus(() => Promise.reject(new Error("no acknowledge")));
  const uuid = tasks.add([frame], 0.01, undefined);
  tasks.start(uuid);
  await pass(100);
  assert.equal(sent.length, 11);
  assert.deepEqual(warnings, ["a periodic frame was not sent: no acknowledge"]);
  tasks.stopAll();
  await pass(100);
  assert.equal(sent.length, 11);
});

test("a start while it runs changes nothing; a stop and a start begin a new duration", async () => {
  const { tasks, sent, pass } = makeTasks();
  const uuid = tasks.add([frame], 0.01, 0.05);
  tasks.start(uuid);
  await pass(25);
  tasks.start(uuid);
  await pass(100);
  assert.equal(sent.length, 5);
  tasks.start(uuid);
  await pass(12);
  tasks.stopAll();
  tasks.start(uuid);
  await pass(100);
  assert.equal(sent.length, 5 + 2 + 5);
});
