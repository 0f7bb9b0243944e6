/**
 * A machine of its own for tests: systemd as process 1 in systemd-nspawn, with this host's /usr, an empty /etc and /var, and the agent where
 * its package puts it. Needs root.
 */
import { execFileSync, spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { chmodSync, cpSync, existsSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import type { TestContext } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { loadKoffi } from "../../agent/sys/native.ts";
import { scratch } from "../sim/agent.ts";
import { run, type Finished } from "../sim/python-client.ts";

const bootLimitMs = 60_000;
const stopLimitMs = 20_000;

export interface Machine {
  /** Where the machine's /etc, /var and /srv are. */
  readonly root: string;
  /** Runs a program in the machine, as its root. */
  run(command: string, args: readonly string[], options?: { timeoutMs?: number }): Promise<Finished>;
  /** The same for one that must not fail. @returns what it printed */
  call(command: string, ...args: readonly string[]): Promise<string>;
  /** A property of a unit, as `systemctl show` tells it. */
  property(unit: string, name: string): Promise<string>;
  /** Waits until a property is as it should be. */
  until(unit: string, name: string, is: (value: string) => boolean, limitMs?: number): Promise<string>;
  /** What the journal has of a unit, the entries of process 1 about it among them. */
  journal(unit: string): Promise<Record<string, string>[]>;
  /** The console of process 1, when something is wrong. */
  console(): string;
}

/**
 * From now on this process, and all that it starts, lives in a network of its own where every port is free. Node's own threads, which look up
 * names, stay behind.
 */
export async function leaveNetwork(): Promise<void> {
  const koffi = await loadKoffi();
  const CLONE_NEWNET = 0x4000_0000;
  const unshare = koffi.load(null).func("int unshare(int flags)") as (flags: number) => number;
  if (unshare(CLONE_NEWNET) !== 0) throw new Error(`unshare: error ${koffi.errno()}`);
  execFileSync("ip", ["link", "set", "lo", "up"]);
}

/** Boots the machine. It is gone with the test. @param bind nodes of this host that it shall have */
export async function bootMachine(
  t: Pick<TestContext, "after">,
  { bind = [], systemd = "systemd" }: { readonly bind?: readonly string[]; readonly systemd?: string } = {},
): Promise<Machine> {
  const directory = scratch(t);
  const root = join(directory, "root");
  const usr = join(directory, "usr");
  installAgent(usr, systemd);
  furnish(root, usr);
  const words = [
    ...["--quiet", "--directory", root, "--boot", "--console=pipe", "--register=no", "--keep-unit"],
    // Its own network is that of this process, and it may do there what a machine may.
    ...["--capability=CAP_NET_ADMIN,CAP_BPF,CAP_SYS_RAWIO", "--system-call-filter=bpf"],
    ...[`--overlay-ro=/usr:${usr}:/usr`, `--bind-ro=${process.execPath}:/usr/lib/jumpstarter-agent/node`],
    ...bind.map((node) => `--bind=${node}`),
    "systemd.unit=multi-user.target",
  ];
  const nspawn = spawn("setpriv", ["--pdeathsig", "KILL", "systemd-nspawn", ...words], {
    stdio: ["ignore", "pipe", "pipe"],
    // Device policies are programs that need the unified hierarchy.
    env: {
      ...process.env,
      SYSTEMD_NSPAWN_UNIFIED_HIERARCHY: "1",
      // The network is not the machine's own for nspawn, but it is for us.
      SYSTEMD_NSPAWN_API_VFS_WRITABLE: "network",
    },
  });
  let said = "";
  for (const stream of [nspawn.stdout, nspawn.stderr]) {
    stream.setEncoding("utf8").on("data", (text: string) => (said += text));
  }
  const ended = once(nspawn, "close");
  t.after(() => powerOff(nspawn, ended));
  const leader = await leaderOf(nspawn, () => said);

  const runInside: Machine["run"] = (command, args, options) =>
    run(
      "nsenter",
      ["--target", `${leader}`, "--mount", "--uts", "--ipc", "--pid", "--cgroup", "--", command, ...args],
      {
        env: { PATH: "/usr/sbin:/usr/bin:/sbin:/bin", SYSTEMD_PAGER: "", SYSTEMD_COLORS: "0", LC_ALL: "C.UTF-8" },
        ...options,
      },
    );
  const call: Machine["call"] = async (command, ...args) => {
    const { code, stdout, stderr } = await runInside(command, args);
    if (code !== 0) throw new Error(`${command} ${args.join(" ")} ended with ${code}: ${stderr}${stdout}`);
    return stdout;
  };
  const property: Machine["property"] = async (unit, name) =>
    (await call("systemctl", "show", "--property", name, "--value", unit)).trim();
  const machine: Machine = {
    ...{ root, run: runInside, call, property },
    async until(unit, name, is, limitMs = 30_000) {
      const deadline = performance.now() + limitMs;
      for (;;) {
        const value = await property(unit, name);
        if (is(value)) return value;
        if (performance.now() > deadline) {
          const { stdout } = await runInside("journalctl", ["--no-pager", "--unit", unit, "--lines", "40"]);
          throw new Error(`${unit}: ${name} is still ${value}\n${stdout}`);
        }
        await sleep(100);
      }
    },
    async journal(unit) {
      const lines = await call("journalctl", "--no-pager", "--output", "json", "--unit", unit);
      return lines
        .split("\n")
        .filter(Boolean)
        .map((line) => JSON.parse(line) as Record<string, string>);
    },
    console: () => said,
  };
  await isUp(machine);
  return machine;
}

/** The agent as its package lays it out. @param systemd the folder with its units and their company */
function installAgent(usr: string, systemd: string): void {
  const library = join(usr, "lib/jumpstarter-agent");
  mkdirSync(join(library, "node_modules"), { recursive: true });
  cpSync("dist", join(library, "dist"), { recursive: true });
  for (const module of ["koffi", "@koromix"]) {
    cpSync(join("node_modules", module), join(library, "node_modules", module), { recursive: true });
  }
  writeFileSync(join(library, "node"), "");
  mkdirSync(join(usr, "bin"));
  for (const program of ["jmp-agent", "j"]) {
    const wrapper = join(usr, "bin", program);
    writeFileSync(
      wrapper,
      `#!/bin/sh\nexec /usr/lib/jumpstarter-agent/node /usr/lib/jumpstarter-agent/dist/${program}.js "$@"\n`,
    );
    chmodSync(wrapper, 0o755);
  }
  const places = {
    system: "lib/systemd/system",
    "sysusers.d": "lib/sysusers.d",
    "tmpfiles.d": "lib/tmpfiles.d",
    "modules-load.d": "lib/modules-load.d",
    udev: "lib/udev/rules.d",
  };
  for (const [from, to] of Object.entries(places)) cpSync(join(systemd, from), join(usr, to), { recursive: true });
}

/** What a machine needs beside /usr. */
function furnish(root: string, usr: string): void {
  for (const folder of ["usr", "etc", "var", "run", "tmp", "proc", "sys", "dev", "root", "srv"]) {
    mkdirSync(join(root, folder), { recursive: true });
  }
  for (const link of ["bin", "sbin", "lib", "lib64"]) {
    if (existsSync(join("/usr", link))) symlinkSync(join("usr", link), join(root, link));
  }
  const id = "0123456789abcdef0123456789abcdef";
  write(join(root, "etc/machine-id"), `${id}\n`);
  write(join(root, "etc/hostname"), "lab-host\n");
  // Nothing of this host's services is started.
  write(join(root, "etc/systemd/system-preset/00-none.preset"), "disable *\n");
  // In memory, whatever the journal's folder is on.
  write(join(root, "etc/systemd/journald.conf.d/test.conf"), "[Journal]\nStorage=volatile\nRateLimitBurst=0\n");
  cpSync("/usr/lib/os-release", join(root, "etc/os-release"));
  for (const file of ["/usr/lib/sysusers.d/basic.conf", join(usr, "lib/sysusers.d/jumpstarter-agent.conf")]) {
    execFileSync("systemd-sysusers", ["--root", root, file], { stdio: "ignore" });
  }
}

export function write(path: string, text: string, mode = 0o644): void {
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, text, { mode });
}

/** Process 1 of the machine, as this host numbers it. */
async function leaderOf(nspawn: ChildProcess, said: () => string): Promise<number> {
  const deadline = performance.now() + bootLimitMs;
  while (performance.now() < deadline && nspawn.exitCode === null) {
    const children = readFileSync(`/proc/${nspawn.pid}/task/${nspawn.pid}/children`, "utf8").trim().split(" ");
    for (const child of children.filter(Boolean)) {
      const name = readFileSync(`/proc/${child}/comm`, "utf8").trim();
      if (name === "systemd") return Number(child);
    }
    await sleep(50);
  }
  throw new Error(`systemd does not start: ${said()}`);
}

async function isUp(machine: Machine): Promise<void> {
  const deadline = performance.now() + bootLimitMs;
  for (;;) {
    const { stdout, stderr } = await machine.run("systemctl", ["is-system-running"]);
    if (/^(running|degraded)/.test(stdout)) return;
    if (performance.now() > deadline) throw new Error(`it does not boot: ${stdout}${stderr}\n${machine.console()}`);
    await sleep(200);
  }
}

async function powerOff(nspawn: ChildProcess, ended: Promise<unknown>): Promise<void> {
  if (nspawn.exitCode !== null || nspawn.signalCode !== null) return;
  // To nspawn this is the power switch.
  nspawn.kill("SIGTERM");
  const timer = setTimeout(() => nspawn.kill("SIGKILL"), stopLimitMs);
  await ended;
  clearTimeout(timer);
}
