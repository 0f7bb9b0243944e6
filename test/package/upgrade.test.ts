/** An upgrade under a real systemd, in the middle of a lease. */
import assert from "node:assert/strict";
import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { copyFileSync, existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";
import { test, type TestContext } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { promisify } from "node:util";
import { stringify } from "yaml";
import { power } from "../../boards/power/interface.ts";
import { missingPrograms } from "../../scripts/programs.mjs";
import { scratch } from "../sim/agent.ts";
import { startController } from "../sim/controller/controller.ts";
import { debianChroot, noChroot } from "../sim/debian-chroot.ts";
import { leaseClient } from "../sim/lease-client.ts";
import { buildPackage } from "./packages.ts";

const execute = promisify(execFile);
const missing = missingPrograms(["systemd-nspawn", "nsenter"]);
const skip = noChroot || (missing.length > 0 ? `needs ${missing.join(", ")}` : false);
const unit = "jumpstarter-agent.service";
const bootLimitMs = 120_000;

test("an upgrade lets a lease end, and then the agent is the new one", { skip, timeout: 900_000 }, async (t) => {
  const folder = scratch(t);
  const next = await buildPackage(folder, "amd64", "1.1");
  const now = await withOldChunk(folder, next);
  const debian = await debianChroot(t, "trixie", { include: ["systemd-sysv", "dbus", "udev"] });
  const old = join(debian.root, "usr/lib/jumpstarter-agent/dist/chunks/old-ABCDEFGH.js");
  const machine = await boot(debian.root);
  try {
    await upgrade(t, { root: debian.root, call: (...words) => machine.call(...words), old, now, next });
  } finally {
    await machine.off();
  }
});

interface Upgrade {
  readonly root: string;
  readonly call: Machine["call"];
  /** What only the older package has. */
  readonly old: string;
  /** The older package, and the newer. */
  readonly now: string;
  readonly next: string;
}

async function upgrade(t: TestContext, { root, call, old, now, next }: Upgrade): Promise<void> {
  for (const path of [now, next]) copyFileSync(path, join(root, "root", basename(path)));

  const lab = await startController();
  t.after(() => lab.close());
  lab.addExporter({ name: "bench" });
  lab.addClient({ name: "ann" });
  await call("dpkg", "--install", `/root/${basename(now)}`);
  assert.equal(await call("systemctl", "is-enabled", unit), "enabled\n");
  const config = lab.exporterConfig("bench", { power: { type: "jumpstarter_driver_power.driver.MockPower" } });
  mkdirSync(join(root, "etc/jumpstarter/exporters"), { recursive: true });
  writeFileSync(join(root, "etc/jumpstarter/exporters/bench.yaml"), stringify(config));
  await call("chown", "-R", "root:jumpstarter", "/etc/jumpstarter/exporters");
  await call("systemctl", "start", unit);
  await lab.ready("bench", 120_000);
  const pidOf = async () => Number(await call("systemctl", "show", "--property=MainPID", "--value", unit));
  const first = await pidOf();
  assert.ok(first > 0);

  lab.createLease({ client: "ann", exporterName: "bench", name: "work" });
  const connection = await leaseClient(t, lab.clientConfig("ann")).connect("work");
  await connection.find("power")?.as(power).on();

  await call("dpkg", "--install", `/root/${basename(next)}`);
  assert.match(await call("dpkg-query", "--show", "jumpstarter-agent"), /1\.1/);
  assert.equal(await pidOf(), first, "the agent goes on while it is leased");
  assert.ok(existsSync(old), "what it may yet load is there");
  await connection.find("power")?.as(power).off();

  const ended = performance.now();
  lab.deleteLease("work");
  for (;;) {
    const pid = await pidOf();
    if (pid > 0 && pid !== first) break;
    assert.ok(performance.now() - ended < 120_000, `the agent is still ${pid}, and was ${first}`);
    await sleep(200);
  }
  await lab.ready("bench", 120_000);
  t.diagnostic(`registered again ${Math.round(performance.now() - ended)} ms after the end of its lease`);
  assert.equal(lab.lease("work").ended, true);

  // Without a lease it is the new one at once, and what the last upgrade left has gone.
  const second = await pidOf();
  await call("dpkg", "--install", `/root/${basename(next)}`);
  for (const until = performance.now() + 120_000; [0, second].includes(await pidOf());) {
    assert.ok(performance.now() < until, "an agent without a lease is started again");
    await sleep(200);
  }
  assert.ok(!existsSync(old));
  await call("dpkg", "--remove", "jumpstarter-agent");
  await assert.rejects(call("systemctl", "is-active", unit));
  assert.ok(!existsSync(join(root, "usr/lib/jumpstarter-agent")));
}

/** The same package as an older one, with a part that the newer one has no more. */
async function withOldChunk(folder: string, path: string): Promise<string> {
  const unpacked = join(folder, "unpacked");
  await execute("dpkg-deb", ["-R", path, unpacked]);
  writeFileSync(join(unpacked, "usr/lib/jumpstarter-agent/dist/chunks/old-ABCDEFGH.js"), "export {};\n");
  const control = join(unpacked, "DEBIAN/control");
  writeFileSync(control, readFileSync(control, "utf8").replace("Version: 1.1", "Version: 1.0"));
  const made = join(folder, "jumpstarter-agent_1.0_amd64.deb");
  await execute("dpkg-deb", ["--root-owner-group", "-Zxz", "-z0", "--build", unpacked, made]);
  return made;
}

interface Machine {
  /** Runs a program in there. @returns what it printed */
  call(...words: string[]): Promise<string>;
  /** Before its root is removed. */
  off(): Promise<void>;
}

/** Boots it, on this host's network. */
async function boot(root: string): Promise<Machine> {
  const machine = spawn(
    "setpriv",
    [
      "--pdeathsig",
      "KILL",
      "systemd-nspawn",
      "--quiet",
      "--directory",
      root,
      "--boot",
      "--console=pipe",
      "--register=no",
      "--keep-unit",
    ],
    { stdio: ["ignore", "pipe", "pipe"], env: { ...process.env, SYSTEMD_NSPAWN_UNIFIED_HIERARCHY: "1" } },
  );
  let said = "";
  for (const stream of [machine.stdout, machine.stderr]) {
    stream.setEncoding("utf8").on("data", (text: string) => (said += text));
  }
  const ended = once(machine, "close");
  const off = async () => {
    // To nspawn this is the power switch.
    machine.kill("SIGTERM");
    const timer = setTimeout(() => machine.kill("SIGKILL"), 20_000);
    await ended;
    clearTimeout(timer);
  };
  const env = { PATH: "/usr/sbin:/usr/bin:/sbin:/bin", LC_ALL: "C.UTF-8", DEBIAN_FRONTEND: "noninteractive" };
  let leader: string | undefined;
  const call = async (...words: string[]) => {
    const spaces = ["--mount", "--uts", "--ipc", "--pid", "--cgroup"];
    const { stdout } = await execute("nsenter", ["--target", `${leader}`, ...spaces, "--", ...words], { env });
    return stdout;
  };
  for (const until = performance.now() + bootLimitMs; ; await sleep(200)) {
    if (performance.now() > until || machine.exitCode !== null) {
      await off();
      throw new Error(`it does not boot: ${said}`);
    }
    const children = readFileSync(`/proc/${machine.pid}/task/${machine.pid}/children`, "utf8").trim().split(" ");
    leader = children.find((pid) => pid !== "" && readFileSync(`/proc/${pid}/comm`, "utf8") === "systemd\n");
    if (leader === undefined) continue;
    const state = await call("systemctl", "is-system-running").catch((error: { stdout: string }) => error.stdout);
    if (/^(running|degraded)/.test(state)) return { call, off };
  }
}
