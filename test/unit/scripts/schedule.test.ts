// What runs beside what when all suites run.
import assert from "node:assert/strict";
import { test } from "node:test";
import { runJobs, type Job } from "../../../scripts/schedule.mjs";

/** Runs jobs that end one after the other. @returns who was running, each time that one had begun */
async function beside(jobs: readonly Omit<Job, "run">[], cores: number): Promise<string[]> {
  const running: string[] = [];
  const seen: string[] = [];
  let turn = 0;
  const run = (name: string) => async () => {
    running.push(name);
    seen.push([...running].sort().join("+"));
    turn += 1;
    for (let left = 5 * turn; left > 0; left -= 1) await new Promise((resolve) => setImmediate(resolve));
    running.splice(running.indexOf(name), 1);
  };
  await runJobs(
    jobs.map((job) => ({ ...job, run: run(job.name) })),
    cores,
  );
  assert.deepEqual(running, []);
  return seen;
}

test("jobs share the processors, and one that fits goes before one that does not", async () => {
  const jobs = [
    { name: "a", cores: 1 },
    { name: "b", cores: 2 },
    { name: "c", cores: 1 },
    { name: "d", cores: 5 },
  ];
  assert.deepEqual(await beside(jobs, 2), ["a", "a+c", "b", "d"]);
  assert.deepEqual(await beside(jobs, 3), ["a", "a+b", "b+c", "d"]);
});

test("what must not run meanwhile does not, whoever of the two says so, nor do two of a kind", async () => {
  const jobs = [
    { name: "a", cores: 1, kind: "board" },
    { name: "a again", cores: 1, kind: "board" },
    { name: "b", cores: 1, apart: ["board"] },
    { name: "c", cores: 1, apart: ["b"] },
  ];
  assert.deepEqual(await beside(jobs, 9), ["a", "a+c", "a again+c", "b"]);
});

test("what comes after others waits for all of them", async () => {
  const jobs = [
    { name: "c", cores: 1, after: ["a", "b"] },
    { name: "a", cores: 1 },
    { name: "b", cores: 1 },
  ];
  assert.deepEqual(await beside(jobs, 9), ["a", "a+b", "c"]);
  await assert.rejects(
    runJobs([{ name: "x", cores: 1, after: ["nobody"], run: async () => {} }], 1),
    /nobody ends what/,
  );
});
