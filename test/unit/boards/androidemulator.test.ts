import assert from "node:assert/strict";
import { test, type TestContext } from "node:test";
import { createExporter } from "../../../agent/session/exporter.ts";
import { adb } from "../../../boards/adb/interface.ts";
import { Emulator } from "../../../boards/androidemulator/emulator.ts";
import { androidEmulator } from "../../../boards/androidemulator/interface.ts";
import { emulatorArguments, readLogLine } from "../../../boards/androidemulator/protocol.ts";
import { power } from "../../../boards/power/interface.ts";
import { startAdbDevice } from "../../sim/adb-device.ts";
import { adbHome, missingAdb } from "../../sim/adb.ts";
import { emulatorDouble } from "../../sim/android-emulator.ts";
import { eventually } from "../../sim/rig.ts";

const type = "jumpstarter_driver_androidemulator.driver.AndroidEmulator";
const skip = missingAdb();
adbHome();

async function phone(t: TestContext, config: Record<string, unknown> = {}) {
  const double = await emulatorDouble(t);
  const exporter = await createExporter({
    name: "test",
    export: {
      phone: {
        type,
        config: {
          avd_name: "pixel",
          emulator_path: double.program,
          console_port: double.consolePort,
          adb_server_port: double.adbServerPort,
          ...config,
        },
      },
    },
  });
  t.after(() => exporter.close());
  const log: { severity: string; message: string }[] = [];
  exporter.logs.subscribe(({ severity, message }) => log.push({ severity, message }));
  return {
    double,
    exporter,
    log,
    root: exporter.calls("phone", androidEmulator),
    power: exporter.calls("phone.power", power),
    adb: exporter.calls("phone.adb", adb),
  };
}

const isAlive = (pid: number | undefined) => {
  try {
    return pid !== undefined && process.kill(pid, 0);
  } catch {
    return false;
  }
};

test(
  "it starts with the known words, is a device of its ADB server, and ends when it is asked",
  { skip },
  async (t) => {
    const { double, log, ...drivers } = await phone(t);
    await startAdbDevice(t, { port: double.consolePort + 1 });
    await drivers.power.on();
    const [first] = double.starts();
    assert.equal(
      first?.words.join(" "),
      `-avd pixel -port ${double.consolePort} -no-audio -no-boot-anim -skip-adb-auth -no-window`,
    );
    assert.equal(first.adbServerPort, double.adbServerPort);
    const name = `emulator-${double.consolePort}`;
    await eventually("it is listed", async () => (await drivers.adb.list_devices()).includes(name));
    await drivers.power.on();
    assert.equal(double.starts().length, 1, "on already");
    for await (const reading of drivers.power.read()) assert.deepEqual(reading, { voltage: 0, current: 0 });

    await drivers.power.off();
    assert.equal(isAlive(first.pid), false);
    const said = (severity: string, message: string) =>
      assert.ok(
        log.some((record) => record.severity === severity && record.message === message),
        `${severity} ${message}: ${JSON.stringify(log)}`,
      );
    said("INFO", "Emulator shut down gracefully");
    said("WARNING", "Emulator already running, ignoring");
    said("INFO", "Android emulator version 35.1.4.0 (double)");
    said("WARNING", "cannot add library vulkan-1");
    said("ERROR", "emulator: double speaks on stderr");
    await drivers.power.off();
    said("WARNING", "Emulator not running, ignoring");
  },
);

test("a window is for one lease", { skip }, async (t) => {
  const { double, exporter, root, power } = await phone(t);
  await root.set_headless(false);
  await power.on();
  await exporter.tree.release();
  assert.equal(isAlive(double.starts()[0]?.pid), false, "the lease's end switches it off");
  await power.on();
  const windows = double.starts().map(({ words }) => !words.includes("-no-window"));
  assert.deepEqual(windows, [true, false]);
});

test("one that does not end when it is asked is killed", { skip }, async (t) => {
  const double = await emulatorDouble(t);
  const warnings: string[] = [];
  const emulator = new Emulator({
    program: double.program,
    avd: "deaf",
    consolePort: double.consolePort,
    adbPort: double.adbServerPort,
    headless: true,
    log: { debug() {}, info() {}, warn: (message) => warnings.push(message), error() {} },
    limits: { askMs: 300, endMs: 300 },
  });
  t.after(() => emulator.close());
  await emulator.on(new AbortController().signal);
  await emulator.off();
  assert.equal(isAlive(double.starts()[0]?.pid), false);
  assert.match(warnings.join(), /Graceful shutdown failed, killing process/);
});

test("a crash is noticed: it is told, and the next start works", { skip }, async (t) => {
  const { double, log, power } = await phone(t);
  await power.on();
  await double.crash();
  await eventually("it is told", () => log.some(({ message }) => message.includes("has ended by itself (SIGABRT)")));
  await power.on();
  assert.equal(double.starts().length, 2);
  await power.off();
});

test("an emulator that does not start is an error with its words", { skip }, async (t) => {
  const { power } = await phone(t, { avd_name: "unknown" });
  await assert.rejects(power.on(), { code: "E_FAILED", message: /exit status 1.*PANIC: Unknown AVD name \[unknown\]/ });
  await power.off();
});

test("a console that somebody else has is an error, and nobody is killed", { skip }, async (t) => {
  const { double, power } = await phone(t);
  await startAdbDevice(t, { port: double.consolePort, silent: true });
  await assert.rejects(power.on(), { message: /something else listens on the console port/ });
  await power.off();
  assert.deepEqual(double.starts(), []);
});

test("without the emulator its drivers are offline; the ADB server works", { skip }, async (t) => {
  const { root, power, adb } = await phone(t, { emulator_path: "/nowhere/emulator" });
  const message = "Android emulator executable not found: /nowhere/emulator";
  await assert.rejects(power.on(), { code: "E_DEVICE_OFFLINE", message });
  await assert.rejects(root.set_headless(true), { code: "E_DEVICE_OFFLINE", message });
  assert.match(await adb.list_devices(), /List/);
});

test("configurations that cannot work are refused", async () => {
  const refused = (config: Record<string, unknown>, message: RegExp) =>
    assert.rejects(createExporter({ name: "test", export: { phone: { type, config } } }), message);
  await refused({}, /avd_name/);
  await refused({ avd_name: "x", console_port: 0 }, /Invalid console_port: 0/);
  await refused({ avd_name: "x", adb_server_port: 70_000 }, /Invalid adb_server_port: 70000/);
});

test("words and log lines", () => {
  const words = emulatorArguments({ avd: "a b", consolePort: 5554, headless: false });
  assert.deepEqual(words, ["-avd", "a b", "-port", "5554", "-no-audio", "-no-boot-anim", "-skip-adb-auth"]);
  assert.deepEqual(readLogLine("FATAL   | no | way", "stdout"), { level: "error", text: "no | way" });
  assert.deepEqual(readLogLine("warning | x", "stdout"), { level: "warn", text: "x" });
  assert.deepEqual(readLogLine("USER_INFO | x", "stdout"), { level: "info", text: "x" });
  assert.deepEqual(readLogLine(" plain ", "stdout"), { level: "info", text: "plain" });
  assert.deepEqual(readLogLine("INFO | x", "stderr"), { level: "error", text: "INFO | x" });
});
