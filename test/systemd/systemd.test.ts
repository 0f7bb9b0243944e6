import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { chmodSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { stringify } from "yaml";
import { missingPrograms } from "../../scripts/programs.mjs";
import { scratch } from "../sim/agent.ts";
import { pythonClient, type PythonClient } from "../sim/controller/python.ts";
import { startLabProcess, type LabProcess } from "../sim/controller/process-client.ts";
import { missingClient, clientProgram } from "../sim/python-client.ts";
import { bootMachine, leaveNetwork, write, type Machine } from "./machine.ts";

const release = "0.9.0";
const needed = missingPrograms(["systemd-nspawn", "socat", "tftp", "curl", "losetup", "nft"]);
const skip =
  process.getuid?.() !== 0
    ? "needs root"
    : needed.length > 0
      ? `needs ${needed.join(", ")}`
      : missingClient(release) || false;

/** Minutes of measuring instead of seconds. */
const long = process.env["APPLIANCE_LONG"] === "1";

const driver = {
  power: "jumpstarter_driver_power.driver.MockPower",
  shell: "jumpstarter_driver_shell.driver.Shell",
  serial: "jumpstarter_driver_pyserial.driver.PySerial",
  tftp: "jumpstarter_driver_tftp.driver.Tftp",
  network: "jumpstarter_driver_dut_network.driver.DutNetwork",
};
const all = "jumpstarter-agent.service";
const one = "jumpstarter-agent@bench.service";
const boot = "jumpstarter-agent-boot.service";

/** A disk of the host that is not the agent's, which everybody may read as far as its mode goes. */
const foreignDisk = "/dev/foreign-disk";

/** What the service may do, as one of its own programs sees it. */
const facts = `
echo facts:; id -un; id -Gn
grep -E '^(CapEff|NoNewPrivs|Seccomp):' /proc/self/status
touch /etc/mine 2>&1; touch "$STATE_DIRECTORY"x 2>&1; ls /etc/jumpstarter/tokens 2>&1
head -c 1 ${foreignDisk} 2>&1 >/dev/null; head -c 1 /dev/zero >/dev/null && echo zero
echo "left to us: \${NOTIFY_SOCKET:-no socket} \${WATCHDOG_USEC:-no watchdog}"
`;
/** How a program blocks the loop that has no way to do so of its own. */
const blocker = `process.on("SIGUSR2", function standStill() { for (;;); });`;

const cleanUps: (() => unknown)[] = [];
const t = { after: (cleanUp: () => unknown) => void cleanUps.push(cleanUp) };
const known = new Set<string>();
let machine: Machine;
let lab: LabProcess;
let ann: PythonClient;

before(async () => {
  if (skip !== false) return;
  await leaveNetwork();
  lab = await startLabProcess(t);
  await lab.addClient({ name: "ann" });
  ann = pythonClient(t, { clientConfig: await configOf("ann") }, release, "ann");
  machine = await bootMachine(t);
  write(join(machine.root, "srv/tftp/hello"), "hello board\n");
  await machine.call(
    "systemd-run",
    "--quiet",
    "--unit=board",
    "socat",
    "PTY,link=/run/board,raw,echo=0,mode=666",
    "PIPE",
  );
  await machine.call("mknod", "--mode=666", foreignDisk, "b", "7", "0");
  await configure("bench");
});
after(async () => {
  for (const cleanUp of cleanUps.reverse()) await cleanUp();
});

async function configOf(client: string) {
  const config = await lab.clientConfig(client);
  return () => config;
}

/** Writes a configuration as its owner would: the token beside it. */
async function configure(name: string, more: Record<string, unknown> = {}): Promise<void> {
  if (!known.has(name)) await lab.addExporter({ name, labels: { [name]: "yes" } });
  known.add(name);
  const { token, ...config } = (await lab.exporterConfig(
    name,
    {
      power: { type: driver.power },
      shell: { type: driver.shell, config: { methods: { facts } } },
      serial: { type: driver.serial, config: { url: "/run/board" } },
    },
    more,
  )) as { token: string };
  const folder = join(machine.root, "etc/jumpstarter");
  write(join(folder, "exporters", `${name}.yaml`), stringify(config));
  write(join(folder, "tokens", name), token, 0o600);
}

async function dropIn(unit: string, name: string, text: string): Promise<void> {
  write(join(machine.root, "etc/systemd/system", `${unit}.d`, name), text);
  await machine.call("systemctl", "daemon-reload");
}

/** The client says other things, too. */
const factsIn = (stdout: string) => stdout.slice(stdout.indexOf("facts:\n") + "facts:\n".length).split("\n");
const mainPid = (unit: string) => machine.property(unit, "MainPID");
const messages = async (unit: string) => (await machine.journal(unit)).map(({ MESSAGE }) => MESSAGE ?? "");

/** Waits until another process serves, and the controller knows it. */
async function restarted(unit: string, before: string): Promise<void> {
  await machine.until(unit, "MainPID", (pid) => pid !== before && pid !== "0", 60_000);
  await machine.until(unit, "ActiveState", (state) => state === "active", 60_000);
  await machine.until(unit, "StatusText", (text) => text.startsWith("1 exporter, 1 registered"), 60_000);
}

const options = { skip };

test("the boot server serves TFTP and HTTP at the ports of the world, as a user of its own", options, async () => {
  await machine.call("systemctl", "start", boot);
  const directory = scratch(t);
  execFileSync("tftp", ["-m", "binary", "127.0.0.1", "-c", "get", "hello", join(directory, "hello")]);
  assert.equal(readFileSync(join(directory, "hello"), "utf8"), "hello board\n");
  assert.equal(execFileSync("curl", ["--silent", "http://127.0.0.1/hello"], { encoding: "utf8" }), "hello board\n");
  assert.equal(await machine.property(boot, "StatusText"), "serving /srv/tftp, 0 transfers");
  const status = await machine.call("cat", `/proc/${await mainPid(boot)}/status`);
  assert.match(status, /^CapEff:\s+0000000000000400$/m);
  assert.match(status, /^NoNewPrivs:\s+1$/m);
  assert.match(status, /^Seccomp:\s+2$/m);
  const owner = await machine.call("stat", "--format=%U", `/proc/${await mainPid(boot)}`);
  assert.equal(owner.trim(), "jumpstarter-boot");
  await machine.call("systemctl", "stop", boot);
  assert.equal(await machine.property(boot, "Result"), "success");
  assert.equal(await machine.property(boot, "ActiveState"), "inactive");
});

test("the hardware unit serves an unmodified Python client, and may do no more than it must", options, async () => {
  await machine.call("systemctl", "start", all);
  await lab.ready("bench", 30_000);
  await machine.until(all, "StatusText", (text) => text === "1 exporter, 1 registered, 0 leased");
  const drive = fileURLToPath(new URL("drive.py", import.meta.url));
  const { code, stdout, stderr } = await ann.shell(
    ["--selector", "bench=yes"],
    [clientProgram(release, "python"), drive],
  );
  assert.equal(code, 0, stderr);
  const told = factsIn(stdout);
  assert.deepEqual(told.slice(0, 1), ["jumpstarter"]);
  assert.deepEqual(new Set(told[1]?.split(" ")), new Set(["jumpstarter", "dialout", "plugdev", "gpio", "i2c"]));
  assert.deepEqual(
    told.slice(2, 5).map((line) => line.replace(/\s+/, " ")),
    ["CapEff: 0000000000000400", "NoNewPrivs: 1", "Seccomp: 2"],
  );
  const rest = told.slice(5).join("\n");
  assert.match(rest, /touch: cannot touch '\/etc\/mine': Read-only file system/);
  assert.match(rest, /cannot open directory '\/etc\/jumpstarter\/tokens': Permission denied/);
  assert.match(rest, new RegExp(`cannot open '${foreignDisk}' for reading: Operation not permitted`));
  assert.match(rest, /^zero$/m);
  assert.match(rest, /left to us: no socket no watchdog/);
});

test("the journal can be asked by exporter, lease and driver", options, async () => {
  const bench = (await machine.journal(all)).filter(({ EXPORTER }) => EXPORTER === "bench");
  const [lease] = bench.flatMap(({ LEASE }) => LEASE ?? []);
  assert.ok(lease, "no entry has a lease");
  const query = ["--no-pager", "--output=cat", "EXPORTER=bench", `LEASE=${lease}`];
  const ofPower = await machine.call("journalctl", ...query, "DRIVER=power");
  assert.match(ofPower, /^bench driver\.MockPower: .*\(on\)$/m);
  assert.doesNotMatch(ofPower, /Shell/);
  const calls = bench.filter(({ LOGGER }) => LOGGER === "driver.Shell");
  assert.deepEqual(
    new Set(calls.map(({ PRIORITY, SYSLOG_IDENTIFIER }) => `${PRIORITY} ${SYSLOG_IDENTIFIER}`)),
    new Set(["6 jmp-agent"]),
  );
});

test(
  "a changed configuration is taken over by systemctl reload, and a root's status finds the agents",
  options,
  async () => {
    const pid = await mainPid(all);
    await configure("bench", { description: "changed" });
    await machine.call("systemctl", "reload", all);
    assert.equal(await mainPid(all), pid);
    assert.equal(await machine.property(all, "ActiveState"), "active");
    const told = (await messages(all)).join("\n");
    assert.match(told, /agent \d+: bench: (changed now|nothing has changed)/);
    assert.match(told, /The configuration is reloaded: description/);
    // Credentials are read when the service starts.
    await machine.call("systemctl", "stop", all);
    await configure("second");
    await machine.call("systemctl", "start", all);
    await machine.until(all, "StatusText", (text) => text === "2 exporters, 2 registered, 0 leased");
    const { code, stdout } = await machine.run("jmp-agent", ["status"]);
    assert.equal(code, 0, stdout);
    assert.match(stdout, /bench +available\n.*second +available/s);
  },
);

test(
  "one process each: the instance has its own token only, and takes the place of the other unit",
  options,
  async () => {
    await machine.call("systemctl", "start", one);
    assert.equal(await machine.property(all, "ActiveState"), "inactive");
    await machine.until(one, "StatusText", (text) => text === "1 exporter, 1 registered, 0 leased");
    const credentials = await machine.call("ls", `/run/credentials/${one}`);
    assert.deepEqual(credentials.trim().split("\n"), ["token_bench"]);
  },
);

test("a policy of the drivers' own needs runs them, with fewer rights", options, async () => {
  const config = "/etc/jumpstarter/exporters/bench.yaml";
  await dropIn(one, "policy.conf", await machine.call("jmp-agent", "policy", config));
  await machine.call("systemctl", "restart", one);
  await machine.until(one, "StatusText", (text) => text.startsWith("1 exporter, 1 registered"));
  const status = await machine.call("cat", `/proc/${await mainPid(one)}/status`);
  assert.match(status, /^CapEff:\s+0000000000000000$/m);
  const drive = fileURLToPath(new URL("drive.py", import.meta.url));
  const { code, stdout, stderr } = await ann.shell(
    ["--selector", "bench=yes"],
    [clientProgram(release, "python"), drive],
  );
  assert.equal(code, 0, stderr);
  assert.deepEqual(new Set(factsIn(stdout)[1]?.split(" ")), new Set(["jumpstarter", "dialout"]));
});

test(
  "the watchdog: what blocks the loop is started again, with the reason; a stopped controller is none",
  options,
  async (context) => {
    const impatient = "[Service]\nWatchdogSec=4\nTimeoutAbortSec=2\n";
    const preload = "/var/lib/blocker.mjs";
    writeFileSync(join(machine.root, preload), blocker);
    chmodSync(join(machine.root, preload), 0o644);
    await dropIn(one, "impatient.conf", `${impatient}Environment=NODE_OPTIONS=--import=file://${preload}\n`);
    await machine.call("systemctl", "restart", one);
    await machine.until(one, "StatusText", (text) => text.startsWith("1 exporter, 1 registered"));

    await context.test("a controller that stands still", async () => {
      const pid = await mainPid(one);
      lab.signal("SIGSTOP");
      await sleep(12_000);
      assert.equal(await mainPid(one), pid);
      assert.equal(await machine.property(one, "ActiveState"), "active");
      lab.signal("SIGCONT");
      await machine.until(one, "StatusText", (text) => text.startsWith("1 exporter, 1 registered"), 60_000);
      assert.equal(await mainPid(one), pid);
      assert.equal(await machine.property(one, "NRestarts"), "0");
    });

    await context.test("a loop that does not turn", async () => {
      const pid = await mainPid(one);
      await machine.call("kill", "-USR2", pid);
      await restarted(one, pid);
      const told = await messages(one);
      assert.ok(
        told.some((line) =>
          /^The event loop has been blocked for 2\.\d s, in standStill \(lib\/blocker\.mjs:1:\d+\)/.test(line),
        ),
        told.join("\n"),
      );
      assert.ok(told.some((line) => line.includes("Watchdog timeout (limit 4s)!")));
    });

    await context.test("a process that is stopped", async () => {
      const pid = await mainPid(one);
      await machine.call("kill", "-STOP", pid);
      await restarted(one, pid);
      assert.equal(await machine.property(one, "NRestarts"), "2");
      assert.equal((await messages(one)).filter((line) => line.includes("Watchdog timeout (limit 4s)!")).length, 2);
      // Nobody says that a loop was blocked which nobody ran.
      assert.equal((await messages(one)).filter((line) => line.includes("in standStill")).length, 1);
    });
  },
);

test("drop-ins give the drivers that need more what they need, and nothing before", options, async () => {
  const unit = "jumpstarter-agent@rig.service";
  for (const [end, peer] of [
    ["boards0", "board"],
    ["up0", "uplink"],
  ] as const) {
    execFileSync("ip", ["link", "add", end, "type", "veth", "peer", "name", peer]);
  }
  write(join(machine.root, "srv/tftp/kernel"), "a kernel\n");
  await machine.call("chown", "--recursive", "jumpstarter:", "/srv/tftp");
  const network = { interface: "boards0", upstream_interface: "up0", dhcp_enabled: true };
  await configure("rig", {
    export: {
      shell: { type: driver.shell, config: { methods: { facts } } },
      tftp: { type: driver.tftp, config: { root_dir: "/srv/tftp", host: "127.0.0.1" } },
      network: { type: driver.network, config: network },
    },
  });
  await machine.call("systemctl", "start", unit);
  await machine.until(unit, "StatusText", (text) => text.startsWith("1 exporter, 1 registered"));
  assert.match(
    (await messages(unit)).join("\n"),
    /network is offline: Command '\['ip', .*sudo.*\(the agent needs CAP_NET_ADMIN/s,
  );

  const names = ["boot-server", "dut-network", "can-bitrate", "usb-sd-mux", "hub-port", "video", "virtual-machines"];
  for (const name of names) {
    await dropIn(unit, `${name}.conf`, readFileSync(`systemd/drop-ins/${name}.conf`, "utf8"));
  }
  await machine.call("systemctl", "restart", unit);
  await machine.until(unit, "StatusText", (text) => text.startsWith("1 exporter, 1 registered"));
  const drive = fileURLToPath(new URL("drive_rig.py", import.meta.url));
  const { code, stdout, stderr } = await ann.shell(
    ["--selector", "rig=yes"],
    [clientProgram(release, "python"), drive],
  );
  assert.equal(code, 0, `${stderr}\n${(await messages(unit)).join("\n")}`);
  const [user, groups, capabilities] = factsIn(stdout);
  assert.equal(user, "jumpstarter");
  const more = ["video", "kvm"];
  assert.deepEqual(new Set(groups?.split(" ")), new Set(["jumpstarter", "dialout", "plugdev", "gpio", "i2c", ...more]));
  // linux/capability.h: bits 10, 12, 13 and 17.
  assert.match(capabilities ?? "", /^CapEff:\s+0000000000023400$/);
  await machine.call("systemctl", "stop", unit);
  // The network goes with its exporter.
  assert.doesNotMatch(execFileSync("nft", ["list", "ruleset"], { encoding: "utf8" }), /boards0/);
  await machine.call("rm", "/etc/jumpstarter/exporters/rig.yaml");
});

test("idle: little memory with one exporter; little of a core and of the disk with eight", options, async (context) => {
  await machine.call("rm", join("/etc/systemd/system", `${one}.d`, "impatient.conf"));
  await machine.call("systemctl", "daemon-reload");
  await machine.call("systemctl", "restart", one);
  await machine.until(one, "StatusText", (text) => text.startsWith("1 exporter, 1 registered"));
  await sleep(long ? 60_000 : 10_000);
  const rss =
    Number(/^VmRSS:\s+(\d+) kB$/m.exec(await machine.call("cat", `/proc/${await mainPid(one)}/status`))?.[1]) / 1024;
  context.diagnostic(`RSS with one exporter: ${rss.toFixed(0)} MiB`);
  assert.ok(rss <= 120, `${rss} MiB`);

  for (const name of ["b3", "b4", "b5", "b6", "b7", "b8"]) await configure(name);
  await machine.call("systemctl", "start", all);
  await machine.until(all, "StatusText", (text) => text.startsWith("8 exporters, 8 registered"), 60_000);
  await sleep(10_000);
  const pid = await mainPid(all);
  const look = async () => {
    const stat = (await machine.call("cat", `/proc/${pid}/stat`)).replace(/^.*\) /, "").split(" ");
    const io = await machine.call("cat", `/proc/${pid}/io`);
    return {
      cpuS: (Number(stat[11]) + Number(stat[12])) / 100,
      written: Number(/^write_bytes: (\d+)$/m.exec(io)?.[1]),
      atMs: performance.now(),
    };
  };
  // The least of three looks: a machine that is itself a guest charges a process with what its host took away meanwhile.
  const looks: { cpu: number; perHour: number }[] = [];
  while (looks.length < 3 && !looks.some(({ cpu }) => cpu <= 1)) {
    const first = await look();
    await sleep(long ? 300_000 : 20_000);
    const second = await look();
    const seconds = (second.atMs - first.atMs) / 1_000;
    const cpu = ((second.cpuS - first.cpuS) / seconds) * 100;
    const perHour = ((second.written - first.written) / seconds) * 3_600;
    context.diagnostic(
      `8 exporters, idle for ${seconds.toFixed(0)} s: ${cpu.toFixed(2)} % of a core, ${perHour.toFixed(0)} bytes/h written`,
    );
    looks.push({ cpu, perHour });
  }
  const cpu = Math.min(...looks.map((each) => each.cpu));
  const perHour = Math.max(...looks.map((each) => each.perHour));
  assert.ok(cpu <= 1, `${cpu} %`);
  assert.ok(perHour <= 1_000_000, `${perHour} bytes/h`);
});

test("SIGTERM ends it in order, and systemd calls that a success", options, async () => {
  await machine.call("systemctl", "stop", all);
  assert.equal(await machine.property(all, "Result"), "success");
  assert.equal(await machine.property(all, "ActiveState"), "inactive");
  assert.match((await messages(all)).join("\n"), /SIGTERM: stopping/);
});
