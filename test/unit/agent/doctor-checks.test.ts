import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { createSocket } from "node:dgram";
import { once } from "node:events";
import { chmodSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { stringify } from "yaml";
import * as z from "zod";
import { createCatalog, shippedDrivers, type Catalog } from "../../../agent/driver/catalog.ts";
import {
  defineDriver,
  type AnyDriver,
  type Driver,
  type Finding,
  type HostNeeds,
} from "../../../agent/driver/driver.ts";
import { DeviceOffline } from "../../../agent/driver/errors.ts";
import { checkClock } from "../../../agent/ops/doctor/clock.ts";
import { readConfigurations, type Configured } from "../../../agent/ops/doctor/configured.ts";
import { inspectDevices } from "../../../agent/ops/doctor/devices.ts";
import { checkDisk, judgeRoom } from "../../../agent/ops/doctor/disk.ts";
import { firstToFix, inOrder, type DoctorFinding } from "../../../agent/ops/doctor/finding.ts";
import { thisHost } from "../../../agent/ops/doctor/host.ts";
import { checkMemory } from "../../../agent/ops/doctor/memory.ts";
import { checkModules } from "../../../agent/ops/doctor/modules.ts";
import { describeAccess } from "../../../agent/ops/doctor/permissions.ts";
import { checkPorts } from "../../../agent/ops/doctor/ports.ts";
import { parseSockets } from "../../../agent/ops/doctor/sockets.ts";
import { checkSoftware } from "../../../agent/ops/doctor/software.ts";
import { checkSupply } from "../../../agent/ops/doctor/supply.ts";
import { tokenExpiry } from "../../../agent/ops/doctor/token.ts";
import { power } from "../../../boards/power/interface.ts";
import { freePort, scratch } from "../../sim/agent.ts";
import { fakeHost } from "../../sim/fake-host.ts";

/** A driver that says this of a host and of its device. */
function lamp(parts: { inspect?: () => Promise<Finding[]> | Finding[]; needs?: HostNeeds }): Driver {
  return defineDriver({
    types: ["example.Lamp"],
    summary: "",
    implements: power,
    config: z.object({ path: z.string().optional() }),
    ...(parts.inspect && { inspect: parts.inspect }),
    needs: () => parts.needs ?? {},
    open: () => {
      throw new Error("the doctor opens nothing");
    },
  });
}

const withComposite = (driver: Driver): Catalog =>
  createCatalog(
    new Map([
      ["example.Lamp", async () => driver as AnyDriver],
      ...shippedDrivers.types().map((type) => [type, () => shippedDrivers.load(type) as Promise<AnyDriver>] as const),
    ]),
  );

async function configured(t: TestContext, exported: object, catalog: Catalog = shippedDrivers): Promise<Configured[]> {
  const file = join(scratch(t), "bench.yaml");
  writeFileSync(file, stringify({ metadata: { name: "bench" }, export: exported }));
  const { configured, findings } = await readConfigurations([file], catalog, {});
  assert.deepEqual(
    findings.filter(({ level }) => level !== "ok"),
    [],
  );
  return configured;
}

const texts = (findings: readonly DoctorFinding[]) => findings.map(({ level, text }) => `${level}: ${text}`);

test("a configuration that an agent would refuse is a problem with its place, a token that all can read a warning", async (t) => {
  const directory = scratch(t);
  const [good, bad, missing] = ["good.yaml", "bad.yaml", "missing.yaml"].map((name) => join(directory, name)) as [
    string,
    string,
    string,
  ];
  writeFileSync(good, "metadata: {name: a}\nendpoint: x:1\ntoken: secret\n");
  chmodSync(good, 0o644);
  writeFileSync(bad, "metadata: {name: b}\nexport: {p: {type: x.y}}\n");
  const { configured, findings } = await readConfigurations([good, bad, missing], shippedDrivers, {});
  assert.deepEqual(
    configured.map(({ file }) => file),
    [good],
  );
  assert.match(
    texts(findings).join("\n"),
    /^ok: .*good\.yaml: exporter a\nwarning: .*good\.yaml: every user.*\nproblem: .*bad\.yaml:2:20: export\.p\.type: .*\nproblem: .*missing\.yaml.*No such file/,
  );
  assert.doesNotMatch(JSON.stringify(findings), /secret/);
});

test("what to fix first is what other things wait for, and warnings are nothing to fix", () => {
  const finding = (area: DoctorFinding["area"], level: DoctorFinding["level"]) => ({ area, level, text: area });
  const findings = [
    finding("controller", "problem"),
    finding("clock", "warning"),
    finding("devices", "problem"),
    finding("modules", "problem"),
    finding("software", "ok"),
  ];
  assert.equal(firstToFix(findings)?.area, "modules");
  assert.deepEqual(
    inOrder(findings).map(({ area }) => area),
    ["software", "modules", "devices", "clock", "controller"],
  );
  assert.equal(firstToFix([finding("clock", "warning")]), undefined);
});

test("drivers say what they match; one that throws, or says nothing, is a finding of its own", async (t) => {
  const look = async (inspect: () => Promise<Finding[]> | Finding[]) => {
    const exporters = await configured(t, { light: { type: "example.Lamp" } }, withComposite(lamp({ inspect })));
    return await inspectDevices(exporters, []);
  };
  const seen = await look(() => [
    { ok: true, text: "lamp 1", nodes: ["/dev/lamp1"] },
    { ok: false, text: "no lamp 2", hint: "plug it in" },
  ]);
  assert.deepEqual(seen.findings, [
    { area: "devices", level: "ok", text: "bench: light: lamp 1" },
    { area: "devices", level: "problem", text: "bench: light: no lamp 2", hint: "plug it in" },
  ]);
  assert.deepEqual(seen.nodes, [{ path: "/dev/lamp1", driver: "bench: light" }]);
  const thrown = await look(() => {
    throw new DeviceOffline("there is no lamp at all", { hint: "buy one" });
  });
  assert.deepEqual(thrown.findings, [
    { area: "devices", level: "problem", text: "bench: light: there is no lamp at all", hint: "buy one" },
  ]);
});

test("what a running agent says of a driver counts where the driver sees nothing wrong itself", async (t) => {
  const offline = [
    { exporter: "bench", driver: "light", reason: "somebody else has it" },
    { exporter: "other", driver: "light", reason: "of another exporter" },
  ];
  for (const ok of [true, false]) {
    const catalog = withComposite(lamp({ inspect: () => [{ ok, text: "lamp" }] }));
    const { findings } = await inspectDevices(
      await configured(t, { light: { type: "example.Lamp" } }, catalog),
      offline,
    );
    const said = "problem: bench: light: is offline in the running agent: somebody else has it";
    assert.deepEqual(texts(findings), ok ? ["ok: bench: light: lamp", said] : ["problem: bench: light: lamp"]);
  }
});

test("nodes that a configuration names are looked for where the driver itself does not tell", async (t) => {
  const missing = "/dev/serial/by-id/no-such-port";
  const exporters = await configured(
    t,
    {
      here: { type: "example.Lamp", config: { path: "/dev/null" } },
      gone: { type: "example.Lamp", config: { path: missing } },
      pattern: { type: "example.Lamp", config: { path: "/dev/ttyUSB*" } },
    },
    withComposite(lamp({})),
  );
  const { findings, nodes } = await inspectDevices(exporters, []);
  assert.deepEqual(texts(findings), [
    "ok: bench: here: /dev/null is there",
    `problem: bench: gone: ${missing} is not there`,
  ]);
  assert.deepEqual(
    nodes.map(({ path }) => path),
    ["/dev/null", missing],
  );
});

test("a node that is not ours: the group to join, to log in again, or the udev rule that is missing", () => {
  const node = { owner: "root", group: "dialout", mode: 0o20660, user: "ann", isMember: false, match: undefined };
  assert.deepEqual(describeAccess("/dev/ttyUSB0", node), {
    text: "ann may not open /dev/ttyUSB0, which belongs to root:dialout with mode 0660",
    hint: "sudo usermod -aG dialout ann, then log in again (a service: restart it)",
  });
  assert.match(describeAccess("/dev/ttyUSB0", { ...node, isMember: true }).hint, /log in again$/);
  const usb = { ...node, group: "root", mode: 0o20600, match: 'SUBSYSTEM=="usb", ATTR{idVendor}=="04e8"' };
  assert.match(
    describeAccess("/dev/bus/usb/001/004", usb).hint,
    /^a udev rule: SUBSYSTEM=="usb", ATTR\{idVendor\}=="04e8", MODE="0660", GROUP="plugdev" in \/etc\/udev/,
  );
  // A group that may only read is of no help.
  assert.match(describeAccess("/dev/sg0", { ...node, mode: 0o20640 }).hint, /KERNEL=="sg0"/);
});

test("kernel modules: loaded, built in, loaded on demand, not loaded, not there, not known", async (t) => {
  const kernel = "7.1.0-test";
  const modules = ["sg", "i2c-dev", "loop", "can-isotp", "gpio_sim", "absent"];
  const exporters = await configured(t, { l: { type: "example.Lamp" } }, withComposite(lamp({ needs: { modules } })));
  const host = fakeHost(t, {
    "proc/modules": "sg 45056 0 - Live 0x0000000000000000\n",
    "sys/module/gpio_sim/refcnt": "0\n",
    [`lib/modules/${kernel}/modules.builtin`]: "kernel/drivers/block/loop.ko\n",
    [`lib/modules/${kernel}/modules.dep`]:
      "kernel/drivers/i2c/i2c-dev.ko.xz: kernel/x.ko\nkernel/net/can/can-isotp.ko: kernel/net/can/can.ko\n",
  });
  const findings = await checkModules(exporters, host, kernel);
  assert.deepEqual(texts(findings), [
    "ok: bench: l: the kernel has sg",
    "problem: bench: l: the kernel module i2c_dev is not loaded",
    "ok: bench: l: the kernel has loop",
    "ok: bench: l: the kernel loads can_isotp when it is needed",
    "ok: bench: l: the kernel has gpio_sim",
    "problem: bench: l: the kernel 7.1.0-test has no module absent",
  ]);
  assert.match(findings[1]?.hint ?? "", /^sudo modprobe i2c_dev/);
  const broken = withComposite({
    ...lamp({}),
    needs: () => {
      throw new Error("no idea");
    },
  });
  assert.deepEqual(await checkModules(await configured(t, { l: { type: "example.Lamp" } }, broken), host, kernel), []);
  const elsewhere = await checkModules(exporters, host, "another");
  assert.ok(texts(elsewhere).some((text) => text.startsWith("warning: bench: l: needs the kernel module absent")));
});

test("sockets of /proc/net are read with their addresses", () => {
  const head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n";
  const line = (local: string, state: string) =>
    `   0: ${local} 00000000:0000 ${state} 00000000:00000000 00:00000000 00000000  1000        0 4242 1 x 100 0\n`;
  const read = (local: string, state: string, protocol: "tcp" | "udp") =>
    parseSockets(head + line(local, state), protocol).map(({ address, port }) => `${address} ${port}`);
  assert.deepEqual(read("0100007F:1F90", "0A", "tcp"), ["127.0.0.1 8080"]);
  assert.deepEqual(read("0100007F:1F90", "01", "tcp"), [], "a connection holds no port");
  assert.deepEqual(read("00000000:0045", "07", "udp"), ["0.0.0.0 69"]);
  assert.deepEqual(read("00000000000000000000000000000000:0045", "07", "udp"), [":: 69"]);
  assert.deepEqual(read("000080FE00000000FF005450B6BD52FE:0045", "07", "udp"), ["fe80::5054:ff:fe52:bdb6 69"]);
  assert.deepEqual(read("0000000000000000FFFF00000100007F:0045", "07", "udp"), ["127.0.0.1 69"]);
  const [socket] = parseSockets(line("0100007F:1F90", "0A"), "tcp");
  assert.deepEqual([socket?.uid, socket?.inode], [1000, "4242"]);
  assert.deepEqual(parseSockets("junk\n\n:::\n", "tcp"), []);
});

test("a port that another process holds is a problem that names it; a running agent's is none", async (t) => {
  const held = createServer().listen(0, "127.0.0.1");
  const datagrams = createSocket("udp4").bind(0, "127.0.0.1");
  await Promise.all([once(held, "listening"), once(datagrams, "listening")]);
  t.after(() => {
    held.close();
    datagrams.close();
  });
  const [tcp, udp] = [(held.address() as { port: number }).port, datagrams.address().port];
  const free = await freePort();
  const root = scratch(t);
  const http = (port: number, host: string) => ({
    type: "jumpstarter_driver_http.driver.HttpServer",
    config: { root_dir: root, port, host },
  });
  const exporters = await configured(t, {
    taken: http(tcp, ""),
    same: http(tcp, "127.0.0.1"),
    elsewhere: http(tcp, "127.0.0.2"),
    free: http(free, ""),
    any: http(0, ""),
    tftp: { type: "jumpstarter_driver_tftp.driver.Tftp", config: { root_dir: root, port: udp } },
  });
  const me = `${readFileSync("/proc/self/comm", "utf8").trim()} (process ${process.pid}) at 127.0.0.1`;
  assert.deepEqual(texts(await checkPorts(exporters, [], thisHost)), [
    `problem: bench: taken: TCP port ${tcp} is held by ${me}`,
    `problem: bench: same: TCP port ${tcp} is held by ${me}`,
    `ok: bench: elsewhere: TCP port ${tcp} is free`,
    `ok: bench: free: TCP port ${free} is free`,
    `problem: bench: tftp: UDP port ${udp} is held by ${me}`,
  ]);
  const ours = await checkPorts(exporters, [process.pid], thisHost);
  assert.deepEqual(
    ours.filter(({ level }) => level !== "ok"),
    [],
  );
  assert.equal(ours[0]?.text, `bench: taken: TCP port ${tcp} is held by a running agent`);
});

test("what an agent has started holds its ports for it", async (t) => {
  const port = await freePort();
  const script = `require("net").createServer().listen(${port}, "127.0.0.1", () => console.log("up"))`;
  const child = spawn(process.execPath, ["-e", script], { stdio: ["ignore", "pipe", "inherit"] });
  t.after(() => child.kill("SIGKILL"));
  await once(child.stdout, "data");
  const config = { root_dir: scratch(t), port };
  const exporters = await configured(t, { h: { type: "jumpstarter_driver_http.driver.HttpServer", config } });
  assert.equal((await checkPorts(exporters, [], thisHost))[0]?.level, "problem");
  assert.equal((await checkPorts(exporters, [process.pid], thisHost))[0]?.level, "ok");
});

test("without the right to it, a port below the first free one is a warning; a holder that is not ours is a user", async (t) => {
  const exporters = await configured(t, {
    tftp: { type: "jumpstarter_driver_tftp.driver.Tftp", config: { root_dir: scratch(t) } },
  });
  const host = fakeHost(t, {
    "proc/self/status": "CapEff:\t0000000000000000\n",
    "proc/sys/net/ipv4/ip_unprivileged_port_start": "1024\n",
  });
  assert.deepEqual(texts(await checkPorts(exporters, [], host)), [
    "warning: bench: tftp: this user may not listen on UDP port 69",
  ]);
  host.write("proc/self/status", "CapEff:\t0000000000000400\n");
  assert.deepEqual(texts(await checkPorts(exporters, [], host)), ["ok: bench: tftp: UDP port 69 is free"]);
  const line = "0: 00000000:0045 00000000:0000 07 00000000:00000000 00:00000000 00000000 107 0 4242 2 x 0\n";
  host.write("proc/net/udp", line);
  assert.deepEqual(texts(await checkPorts(exporters, [], host)), [
    "problem: bench: tftp: UDP port 69 is held by a process of user 107 at 0.0.0.0",
  ]);
});

test("who listens on all addresses is in the way of each, and who listens on one is not in the way of another", async (t) => {
  const tftp = {
    type: "jumpstarter_driver_tftp.driver.Tftp",
    config: { root_dir: scratch(t), host: "10.0.0.1", port: 6969 },
  };
  const exporters = await configured(t, { tftp });
  const level = async (table: string, local: string) => {
    const line = `0: ${local}:1B39 00000000:0000 07 00000000:00000000 00:00000000 00000000 107 0 4242 2 x 0\n`;
    return (await checkPorts(exporters, [], fakeHost(t, { [`proc/net/${table}`]: line })))[0]?.level;
  };
  assert.equal(await level("udp", "00000000"), "problem");
  assert.equal(await level("udp6", "0".repeat(32)), "problem");
  assert.equal(await level("udp", "0100000A"), "problem");
  assert.equal(await level("udp", "0200000A"), "ok");
});

test("who holds the port of a driver on another interface may not be in the way", async (t) => {
  const network = "jumpstarter_driver_dut_network.driver.DutNetwork";
  const exporters = await configured(t, { net: { type: network, config: { interface: "eth7" } } });
  const line = "0: 00000000:0043 00000000:0000 07 00000000:00000000 00:00000000 00000000 107 0 4242 2 x 0\n";
  const host = fakeHost(t, { "proc/net/udp": line });
  const [finding] = await checkPorts(exporters, [], host);
  assert.equal(finding?.level, "warning");
  assert.match(finding?.text ?? "", /UDP port 67 is held by a process of user 107 .* on eth7$/);
});

test("the clock: not set, kept right, kept by nobody, not known", () => {
  const now = new Date("2026-06-01T00:00:00.123Z");
  const level = (time: Date, state?: { synchronised: boolean }) =>
    checkClock(time, state && { ...state, maxErrorMicros: 0 }).map((finding) => finding.level);
  assert.deepEqual(level(new Date(0), { synchronised: true }), ["problem"]);
  assert.deepEqual(level(now, { synchronised: true }), ["ok"]);
  assert.deepEqual(level(now, { synchronised: false }), ["warning"]);
  assert.deepEqual(level(now), ["ok"]);
  assert.match(checkClock(now, undefined)[0]?.text ?? "", /2026-06-01T00:00:00Z/);
});

test("room on disks: enough, little, none, no further file", () => {
  const MiB = 1024 * 1024;
  const judge = (freeMiB: number, sizeMiB: number, freeFiles = 10, files = 20) =>
    judgeRoom("/x", { freeBytes: freeMiB * MiB, sizeBytes: sizeMiB * MiB, freeFiles, files }).level;
  assert.equal(judge(5_000, 100_000), "ok");
  assert.equal(judge(400, 512), "ok", "small, but nearly empty");
  assert.equal(judge(400, 30_000), "warning");
  assert.equal(judge(10, 30_000), "problem");
  assert.equal(judge(5_000, 30_000, 0, 20), "problem");
  assert.equal(judge(5_000, 30_000, 0, 0), "ok", "btrfs counts no files");
});

test("folders that are not there yet count where they will be made; nothing is made", async (t) => {
  const directory = scratch(t);
  const root = join(directory, "not", "yet");
  const exporters = await configured(t, {
    http: { type: "jumpstarter_driver_http.driver.HttpServer", config: { root_dir: root } },
  });
  const findings = await checkDisk(exporters, [{ path: directory, use: "leases" }]);
  assert.equal(findings.length, 1, "one for each file system");
  assert.ok(findings[0]?.text.startsWith(`${directory}, ${root}: `), findings[0]?.text);
  mkdirSync(join(directory, "not"));
  const fileInTheWay = join(directory, "file");
  writeFileSync(fileInTheWay, "");
  const [blocked] = await checkDisk([], [{ path: join(fileInTheWay, "x"), use: "leases" }]);
  assert.equal(blocked?.level, "warning");
});

test("memory and supply are told as the kernel tells them", async (t) => {
  const memory = async (available: number) => {
    const text = `MemTotal:         948280 kB\nMemFree:    1 kB\nMemAvailable:   ${available * 1024} kB\n`;
    return (await checkMemory(fakeHost(t, { "proc/meminfo": text }))).map(({ level }) => level);
  };
  assert.deepEqual(await memory(500), ["ok"]);
  assert.deepEqual(await memory(100), ["warning"]);
  assert.deepEqual(await memory(20), ["problem"]);
  assert.deepEqual(await checkMemory(fakeHost(t)), []);

  const pi = fakeHost(t, {
    "sys/class/hwmon/hwmon0/name": "cpu_thermal\n",
    "sys/class/hwmon/hwmon1/name": "rpi_volt\n",
  });
  pi.write("sys/class/hwmon/hwmon1/in0_lcrit_alarm", "0\n");
  assert.deepEqual(texts(await checkSupply(pi)), ["ok: no under-voltage"]);
  pi.write("sys/class/hwmon/hwmon1/in0_lcrit_alarm", "1\n");
  assert.equal((await checkSupply(pi))[0]?.level, "warning");
  assert.deepEqual(await checkSupply(fakeHost(t)), []);
});

test("programs that drivers start, and links that only udev makes", async (t) => {
  const needs = { programs: ["sh", "no-such-program"] };
  const exporters = await configured(t, { l: { type: "example.Lamp" } }, withComposite(lamp({ needs })));
  const nodes = [{ path: "/dev/serial/by-id/x", driver: "bench: l" }];
  const look = async (host = fakeHost(t)) =>
    texts(await checkSoftware(exporters, nodes, host, { PATH: "/usr/bin:/bin" })).slice(2);
  assert.deepEqual(await look(), [
    "ok: bench: l: sh is installed",
    "problem: bench: l: the program no-such-program is not installed",
    "warning: bench: l: names a link that udev makes, and udev does not run",
  ]);
  assert.equal((await look(fakeHost(t, { "run/udev/control": "" }))).length, 2);
});

test("when a token ends is read from it, whatever else it may be", () => {
  const token = (payload: string) => `e30.${Buffer.from(payload).toString("base64url")}.sig`;
  assert.equal(tokenExpiry(token('{"exp":1800000000}'))?.toISOString(), "2027-01-15T08:00:00.000Z");
  for (const other of ["", "abc", "a.b", "a.b.c.d", token("[]"), token("null"), token('{"exp":"soon"}'), token("{")]) {
    assert.equal(tokenExpiry(other), undefined, other);
  }
  assert.equal(tokenExpiry(token('{"exp":1e300}')), undefined);
});
