// An update of the appliance is killed in each of its states: GRUB always has a whole system to start.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, test, type TestContext } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { updateSteps, type UpdateStep } from "../../appliance/update/write-update.ts";
import { UpdateRecords } from "../../appliance/update/records.ts";
import { scratch } from "../sim/agent.ts";
import { until } from "../sim/lease-bench.ts";
import { loopDisk, missingLoops } from "../sim/loop.ts";
import { keyPair } from "../sim/signing.ts";
import { grubChoice, holds, systemFiles, updateArchive, updateLab } from "../sim/update-lab.ts";

const whole: readonly UpdateStep[] = ["done"];

describe("an update that is killed", { skip: missingLoops, concurrency: 2 }, () => {
  for (const step of updateSteps) {
    test(
      `before '${step}': the right system is started, and the next update works`,
      { timeout: 120_000 },
      async (t) => {
        const lab = await setUp(t);
        await lab.killedIn(step);
        lab.mustStart(whole.includes(step) ? "new" : "old");
        await lab.whole();
        lab.mustStart("new");
      },
    );
  }

  test("at any time", { timeout: 240_000 }, async (t) => {
    const lab = await setUp(t);
    for (let time = 0; time < 8; time += 1) {
      await lab.killedAfter(Math.random() * 400);
      lab.mustStart("either");
    }
    await lab.whole();
    lab.mustStart("new");
  });
});

async function setUp(t: TestContext) {
  const folder = scratch(t);
  const disk = loopDisk(t, { sizeBytes: 8 * 2 ** 20 });
  const [old, fresh] = [systemFiles(join(folder, "old")), systemFiles(join(folder, "new"))];
  const key = keyPair("ed25519");
  writeFileSync(join(folder, "key.pub"), key.pem);
  const archive = await updateArchive(join(folder, "update.tar"), fresh, key);
  const lab = updateLab(folder, old, { path: disk.path, sizeBytes: 8 * 2 ** 20 });
  const records = new UpdateRecords(join(folder, "updates"));

  const begin = (hold = "") => {
    const words = [
      "--import",
      "tsx",
      "test/sim/update-process.ts",
      archive,
      join(folder, "key.pub"),
      JSON.stringify(lab),
      hold,
    ];
    const child = spawn(process.execPath, words, { stdio: ["ignore", "pipe", "inherit"] });
    t.after(() => child.kill("SIGKILL"));
    let output = "";
    child.stdout.on("data", (chunk: Buffer) => (output += chunk.toString()));
    const reached = (step: string) => until(step, async () => output.split("\n").includes(step), 30_000);
    return { child, reached, ended: once(child, "close") };
  };
  return {
    async killedIn(step: UpdateStep) {
      const { child, reached, ended } = begin(step);
      await reached(step);
      child.kill("SIGKILL");
      await ended;
      assert.equal((await records.last())?.state, "writing");
    },
    async killedAfter(ms: number) {
      const { child, reached, ended } = begin();
      await reached("invalidate");
      await sleep(ms);
      child.kill("SIGKILL");
      await ended;
    },
    async whole() {
      const [code] = (await begin().ended) as [number];
      assert.equal(code, 0);
      assert.equal((await records.last())?.state, "trial");
    },
    mustStart(which: "old" | "new" | "either") {
      const choice = grubChoice(lab.boot);
      const isNew = choice?.slot === "b";
      if (which !== "either")
        assert.deepEqual(choice, which === "new" ? { slot: "b", as: "trial" } : { slot: "a", as: "confirmed" });
      // A loop device is read from behind: what is on the disk, not what is on its way.
      if (isNew) assert.ok(holds(lab.boot, "b", fresh, disk.backing), "the new system is whole");
      else assert.ok(choice !== undefined && holds(lab.boot, "a", old, undefined), "the old system is whole");
    },
  };
}
