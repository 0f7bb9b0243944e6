// The real Python clients drive an ADB server, an Android emulator (a double) and an iSCSI target.
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { startAdbDevice } from "../sim/adb-device.ts";
import { adbHome, missingAdb } from "../sim/adb.ts";
import { freePort, scratch, startAgent } from "../sim/agent.ts";
import { emulatorDouble } from "../sim/android-emulator.ts";
import { clientEnv, clientProgram, missingClient, run } from "../sim/python-client.ts";

const version = "0.9.0";
adbHome();

describe(`Python client ${version}`, { skip: missingClient(version) || missingAdb() }, () => {
  test("an ADB server, an Android emulator and an iSCSI target", async (t) => {
    const device = await startAdbDevice(t);
    device.answers.set("getprop sys.boot_completed", "1\n");
    const silent = await startAdbDevice(t, { silent: true });
    const double = await emulatorDouble(t);
    await startAdbDevice(t, { port: double.consolePort + 1 });
    const [port, nobody] = [await freePort(), await freePort()];
    const root = scratch(t);
    const adb = (config: Record<string, unknown>) => ({ type: "jumpstarter_driver_adb.driver.AdbServer", config });
    const phone = (config: Record<string, unknown>) => ({
      type: "jumpstarter_driver_androidemulator.driver.AndroidEmulator",
      config: {
        emulator_path: double.program,
        console_port: double.consolePort,
        adb_server_port: double.adbServerPort,
        ...config,
      },
    });
    const disks = (config: Record<string, unknown>) => ({
      type: "jumpstarter_driver_iscsi.driver.ISCSI",
      config: { root_dir: root, host: "127.0.0.1", target_name: "lab", ...config },
    });
    const agent = await startAgent(t, {
      adb: adb({ port, connect_timeout: 0.5 }),
      missing: adb({ adb_path: "/nowhere/adb" }),
      phone: phone({ avd_name: "pixel" }),
      stranger: phone({ avd_name: "unknown" }),
      disks: disks({ block_device_allowlist: ["/dev/null"] }),
      strict: disks({}),
    });
    const at = (port: number) => `127.0.0.1:${port}`;
    const { code, stdout, stderr } = await run(
      clientProgram(version, "python"),
      [
        "test/conformance/drive_android.py",
        ["adb", port, at(device.port), at(silent.port), at(nobody)].join(),
        ["emulator", double.consolePort].join(),
        ["iscsi", root].join(),
      ],
      { env: clientEnv(agent.socketPath) },
    );
    assert.equal(code, 0, `${stdout}\n${stderr}\nagent:\n${agent.output()}`);
    for (const section of ["adb", "emulator", "iscsi"]) assert.match(stdout, new RegExp(`passed ${section}`));
    const starts = double.starts().map(({ words }) => [words[1], words.includes("-no-window")]);
    assert.deepEqual(starts, [
      ["pixel", false],
      ["pixel", false],
      ["unknown", true],
    ]);

    // `j adb` is the local adb in a tunnel for them, and the driver's methods for us.
    const env = clientEnv(agent.socketPath);
    const theirs = await run(clientProgram(version, "j"), ["adb", "devices", "-l"], { env });
    const ours = await run(process.execPath, ["dist/j.js", "adb", "list-devices"], { env });
    assert.equal(theirs.stdout, "List of devices attached\n\n", theirs.stderr);
    assert.deepEqual([ours.code, ours.stdout.trim()], [0, theirs.stdout.trim()], ours.stderr);
    assert.equal((await run(process.execPath, ["dist/j.js", "disks", "get-port"], { env })).stdout, "3260\n");
    await agent.stop();
    const gone = await run("adb", ["-P", `${port}`, "kill-server"]);
    assert.match(gone.stderr, /Connection refused|cannot connect/, "no ADB server is left");
  });
});
