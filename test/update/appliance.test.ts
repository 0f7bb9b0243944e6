// Updates of a whole appliance, from the update's file to the next start: real firmware, GRUB, kernel and `jmp-agent update`.
// UPDATE_LONG=20 does each of them 20 times, with power cuts at random.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, afterEach, before, describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { readBootState } from "../../appliance/slots/boot-state.ts";
import { missingPrograms } from "../../scripts/programs.mjs";
import {
  agent,
  bootOf,
  makeDisk,
  makeParts,
  makeRoot,
  programs,
  squashfs,
  writeOrders,
  type Parts,
} from "./tiny-appliance.ts";
import { start, type VirtualMachine } from "./virtual-machine.ts";

const times = Number(process.env["UPDATE_LONG"] ?? 1);
const missing = missingPrograms(programs);
const skip =
  missing.length > 0 ? `it needs ${missing.join(", ")}` : process.arch !== "x64" ? "its systems are for x86" : false;
const limits = { skip, timeout: 120_000 + times * 1_200_000 };

/** What the systems do that updates bring. */
const acts = {
  good: undefined,
  /** Its first program ends at once, or the kernel panics, or GRUB can do nothing with the kernel. */
  crash: "echo CRASH; reboot -f",
  panic: "echo CRASH; echo 1 > /proc/sys/kernel/panic; echo c > /proc/sysrq-trigger; sleep 60",
  unbootable: undefined,
} as const;

describe("an appliance", { concurrency: false }, () => {
  let folder: string;
  let parts: Parts;
  let root: string;
  let updates: string;
  let machine: VirtualMachine | undefined;
  let disk: string;

  /** A test that has failed leaves its machine. */
  afterEach(() => off());

  before(() => {
    if (skip !== false) return;
    folder = mkdtempSync(join(tmpdir(), "jmp-agent-update-"));
    parts = makeParts(folder);
    root = makeRoot(folder, "1");
    updates = makeUpdates();
  });
  after(() => {
    if (skip === false) rmSync(folder, { recursive: true, force: true });
  });

  /** A disk like a USB stick with an update of each kind, signed; and one whose signature is of somebody else. */
  function makeUpdates(): string {
    const stick = join(folder, "stick");
    mkdirSync(stick);
    const jmpAgent = (...words: string[]) =>
      execFileSync(process.execPath, ["dist/jmp-agent.js", ...words], { stdio: "pipe" });
    for (const key of ["lab", "stranger"]) jmpAgent("bundle", "keygen", join(folder, key));
    const broken = join(folder, "broken");
    writeFileSync(broken, Buffer.concat([Buffer.from("MZ"), Buffer.alloc(100_000)]));
    const build = (
      name: string,
      { act = undefined as string | undefined, kernel = parts.kernel, key = "lab" } = {},
    ) => {
      const files = ["--root", makeRoot(folder, `2-${name}`, act), "--kernel", kernel, "--initrd", parts.initrd];
      const words = [
        "--version",
        `2-${name}`,
        "--arch",
        "amd64",
        "--image-id",
        "tiny",
        "--key",
        join(folder, `${key}.key`),
      ];
      jmpAgent("update", "build", ...files, ...words, "--output", join(stick, `${name}.tar`));
    };
    for (const [name, act] of Object.entries(acts))
      build(name, { act, ...(name === "unbootable" && { kernel: broken }) });
    build("forged", { key: "stranger" });
    writeFileSync(join(stick, "lab.pub"), readFileSync(join(folder, "lab.pub")));
    return squashfs(stick, join(folder, "stick.squashfs"), "lz4");
  }

  const order = (...lines: string[]) => writeOrders(join(folder, "orders"), lines.join("\n"));
  const update = (name: string) =>
    `${agent(`update /updates/${name}.tar --key /updates/lab.pub --allow-downgrade --no-reboot`)}; echo "UPDATE ENDED WITH $?"`;
  const confirm = `${agent("update confirm --wait --settle 1 --limit 60 --no-reboot")}; echo "CONFIRM ENDED WITH $?"`;
  const reboot = "sync; reboot -f";
  const power = () => {
    machine = start({ disk, more: [parts.tools, join(folder, "orders"), updates], folder });
    return machine;
  };
  const newDisk = () => (disk = makeDisk(folder, "disk.img", parts, root));
  const bootState = () =>
    readBootState(execFileSync("mtype", ["-i", bootOf(disk), "::/grub/grubenv"], { maxBuffer: 4096 }));
  /** As a disk may, that dies slowly. */
  const damage = (name: string) =>
    execFileSync("mcopy", ["-o", "-i", bootOf(disk), "-", `::/grub/${name}`], { input: randomBytes(1024) });
  const started = async (limitMs?: number) => {
    const [, version = "", slot = "", as = ""] = await (machine as VirtualMachine).see(
      /STARTED (\S+) IN (\w) AS (\w+)/,
      limitMs,
    );
    return { version, slot, as };
  };
  /** What a command has ended with is seen, and not waited for in vain. */
  const ended = async (command: "UPDATE" | "CONFIRM", code: number) => {
    const [, found] = await (machine as VirtualMachine).see(new RegExp(`${command} ENDED WITH (\\d+)`));
    assert.equal(Number(found), code, machine?.output.slice(-2000));
  };
  const off = async () => {
    await machine?.cut();
    machine = undefined;
  };

  test(`a good update is tried and confirmed (${times})`, limits, async () => {
    newDisk();
    order(confirm, update("good"), reboot);
    const vm = power();
    assert.deepEqual(await started(), { version: "1", slot: "a", as: "confirmed" });
    for (let time = 0, slot = "b"; time < times; time += 1, slot = slot === "a" ? "b" : "a") {
      await ended("UPDATE", 0);
      // What the system on trial does, after which it is updated again.
      order(confirm, agent("update status"), ...(time + 1 < times ? [update("good"), reboot] : [reboot]));
      assert.deepEqual(await started(), { version: "2-good", slot, as: "trial" });
      await vm.see(/^confirmed/m);
      await ended("CONFIRM", 0);
      await vm.see(/to 2-good is confirmed/);
    }
    const slot = times % 2 === 0 ? "a" : "b";
    assert.deepEqual(await started(), { version: "2-good", slot, as: "confirmed" });
    await off();

    // What the state was before it was damaged is in its copy; without that, a system that starts is better than none.
    order(confirm, agent("update status"));
    for (const [damaged, expected] of [
      [["grubenv"], slot],
      [["grubenv", "grubenv.safe"], "a"],
    ] as const) {
      for (const name of damaged) damage(name);
      power();
      assert.equal((await started()).slot, expected, `${damaged.join(" and ")} damaged`);
      await ended("CONFIRM", 0);
      assert.equal(bootState()?.slot, expected, "the agent has made it anew");
      await off();
    }
  });

  test(`an update that does not come up is rolled back (${times})`, limits, async () => {
    newDisk();
    const kinds = ["crash", "panic", "unbootable"] as const;
    order(update(kinds[0]), reboot);
    const vm = power();
    await started();
    for (let time = 0; time < times; time += 1) {
      const kind = kinds[time % kinds.length] as (typeof kinds)[number];
      const next = kinds[(time + 1) % kinds.length] as string;
      await ended("UPDATE", 0);
      order(confirm, agent("update status"), update(next), reboot);
      for (let left = 3; kind !== "unbootable" && left > 0; left -= 1) {
        assert.deepEqual(await started(), { version: `2-${kind}`, slot: "b", as: "trial" });
        await vm.see(/CRASH/);
      }
      if (kind === "unbootable") await vm.see(/System b does not start/);
      assert.deepEqual(await started(), { version: "1", slot: "a", as: "confirmed" });
      await vm.see(/nothing to confirm/);
      await ended("CONFIRM", 0);
      await vm.see(new RegExp(`to 2-${kind} was rolled back: version 2-${kind} did not come up`));
    }
    await off();
  });

  test(`an update with a stranger's signature changes nothing (${times})`, limits, async () => {
    newDisk();
    const state = bootState();
    order(...Array<string>(times).fill(update("forged")), agent("update status"));
    const vm = power();
    await started();
    for (let time = 0; time < times; time += 1) {
      await vm.see(/has no signature that counts: a signature is not of a trusted key/);
      await ended("UPDATE", 1);
    }
    await vm.see(/was refused: .*no signature that counts/);
    await vm.see(/IDLE/);
    await off();
    assert.deepEqual(bootState(), state);
  });

  test(`the power is cut while an update is written, or tried (${2 * times})`, limits, async (t) => {
    newDisk();
    const seen = { writing: 0, trial: 0, old: 0, new: 0 };
    for (let time = 0; time < 2 * times; time += 1) {
      const before = bootState();
      const writes = time % 2 === 0;
      // What runs is written over from time to time by what it brought itself.
      order(confirm, update("good"), ...(writes ? ["sleep 3600"] : [reboot]));
      power();
      await started();
      await ended("CONFIRM", 0);
      if (writes) {
        await sleep(Math.random() * 12_000);
        seen.writing += 1;
      } else {
        await ended("UPDATE", 0);
        // Firmware, GRUB, which counts, the kernel, the confirmation.
        await sleep(Math.random() * 25_000);
        seen.trial += 1;
      }
      await off();
      order(confirm, agent("update status"), reboot);
      power();
      const now = await started();
      assert.ok(["1", "2-good"].includes(now.version), now.version);
      seen[now.as === "trial" ? "new" : "old"] += 1;
      await ended("CONFIRM", 0);
      // Whatever it was, it stays.
      assert.deepEqual(await started(), { ...now, as: "confirmed" });
      assert.notEqual(before, undefined);
      await off();
    }
    t.diagnostic(JSON.stringify(seen));
  });
});
