import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { spawnSync } from "node:child_process";
import { chmodSync, existsSync, mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { delimiter, join } from "node:path";
import { describe, test, type TestContext } from "node:test";
import { gzipSync } from "node:zlib";
import type { Entry } from "../../../agent/driver/entry.ts";
import { createExporter } from "../../../agent/session/exporter.ts";
import { rideSX, rideSXPower } from "../../../boards/ridesx/interface.ts";
import {
  bootToFastboot,
  compressionOf,
  isAcknowledged,
  isPartition,
  parseDevices,
  referenceProblem,
  refusal,
} from "../../../boards/ridesx/protocol.ts";
import { scratch } from "../../sim/agent.ts";
import { startFastbootBoard } from "../../sim/fastboot.ts";
import { noPtys, plugCable, type Cable } from "../../sim/pty.ts";
import { eventually } from "../../sim/rig.ts";
import { simulateRideSX } from "../../sim/ridesx.ts";

const noFastboot = spawnSync("fastboot", ["--version"]).error === undefined ? false : "fastboot is not installed";
const driverType = (name: string) => `jumpstarter_driver_ridesx.driver.${name}`;

test("what fastboot prints", () => {
  const listing =
    "1234abcd               fastboot usb:1-1.4\r\n" +
    "tcp:10.0.0.1:5554\tfastbootd\n" +
    "????????????\tno permissions (user in plugdev group; are your udev rules wrong?)\n\n";
  assert.deepEqual(parseDevices(listing), {
    devices: ["1234abcd", "tcp:10.0.0.1:5554"],
    problems: ["????????????\tno permissions (user in plugdev group; are your udev rules wrong?)"],
  });
  assert.deepEqual(parseDevices("????????????  fastboot usb:1-1\n").devices, []);
  const output =
    "Sending 'x' (4 KB)   OKAY [  0.1s]\nWriting 'x'    FAILED (remote: 'no such partition')\nfastboot: error: Command failed\n";
  assert.equal(refusal(output), "FAILED (remote: 'no such partition')");
  assert.equal(refusal("fastboot: error: cannot load '/x'"), "cannot load '/x'");
  assert.equal(refusal("all is well"), undefined);
});

test("names and references", () => {
  for (const name of ["boot_a", "super", "system:raw", "0"]) assert.ok(isPartition(name), name);
  for (const name of ["", "-w", "a b", "a/b", "a\nb", "ä", ".."]) assert.ok(!isPartition(name), name);
  assert.equal(referenceProblem("oci://quay.example/x:1"), undefined);
  assert.match(
    referenceProblem("quay.example/x:1") ?? "",
    /^OCI URL must start with oci:\/\/, got: quay\.example\/x:1$/,
  );
  assert.match(referenceProblem("boot_a:/x.img") ?? "", /is a partition:path mapping.*\n.*flash -t boot_a:\/x\.img/);
  assert.notEqual(referenceProblem("oci://"), undefined);
  assert.notEqual(referenceProblem("oci://a --help"), undefined);
  assert.deepEqual(["a.gz", "a.gzip", "a.xz", "a.img", "gz"].map(compressionOf), ["gzip", "gzip", "xz", null, null]);
  assert.ok(isAcknowledged("x\r\nok\r\n", false));
  assert.ok(!isAcknowledged("x\r\nok\r\n", true));
  assert.ok(isAcknowledged("x\r\nok\r\nCMD >> ", true));
  assert.equal(bootToFastboot.length, 13);
});

/** A board whose console is this cable. */
async function setUp(t: TestContext, cable: Cable | undefined, config: Record<string, unknown> = {}) {
  const folder = join(scratch(t), "images");
  const url = cable?.path ?? "loop://";
  const serial: Entry = { type: "jumpstarter_driver_pyserial.driver.PySerial", config: { url } };
  const pace = { pause_factor: 0, command_timeout: 0.5 };
  const exporter = await createExporter({
    name: "test",
    export: {
      board: {
        type: driverType("RideSXDriver"),
        config: { storage_dir: folder, ...pace, ...config },
        children: { serial },
      },
      power: { type: driverType("RideSXPowerDriver"), config: pace, children: { serial: { ref: "board.serial" } } },
    },
  });
  t.after(() => exporter.close());
  mkdirSync(folder, { recursive: true });
  return {
    folder,
    exporter,
    calls: (signal?: AbortSignal) => exporter.calls("board", rideSX, signal === undefined ? {} : { signal }),
    power: exporter.calls("power", rideSXPower),
  };
}

test("without a serial child the configuration is wrong", async () => {
  await assert.rejects(createExporter({ name: "test", export: { board: { type: driverType("RideSXDriver") } } }), {
    message: /'serial' instance is required/,
  });
});

describe("the test harness", { skip: noPtys }, () => {
  test("power and the way into fastboot", async (t) => {
    const cable = await plugCable(t);
    const harness = simulateRideSX(cable.board);
    const { calls, power } = await setUp(t, cable);
    await power.on();
    assert.deepEqual(harness.commands.splice(0), ["devicePower 1", "usbDevicePower 1", "gpio vbusdis1 0"]);
    await power.cycle(0);
    assert.deepEqual(harness.commands.splice(0), [
      ...["gpio vbusdis1 0", "usbDevicePower 1", "devicePower 0"],
      ...["devicePower 1", "usbDevicePower 1", "gpio vbusdis1 0"],
    ]);
    await assert.rejects(power.rescue(), { code: "E_UNSUPPORTED", message: "Rescue mode not available for RideSX" });
    await Promise.all([calls().boot_to_fastboot(), power.off()]);
    assert.deepEqual(harness.commands.splice(0), [
      ...bootToFastboot.map(([command]) => command),
      ...["gpio vbusdis1 0", "usbDevicePower 1", "devicePower 0"],
    ]);
  });

  test("a harness that does not acknowledge is told of in the time that is configured", async (t) => {
    const cable = await plugCable(t);
    const harness = simulateRideSX(cable.board);
    const { calls, power } = await setUp(t, cable);
    harness.answer = () => "error 5\r\nCMD >> ";
    await assert.rejects(power.on(), {
      code: "E_TIMEOUT",
      message: /^no 'ok' after 'devicePower 1' in 0\.5 s; the harness said "devicePower 1\\r\\nerror 5/,
    });
    harness.answer = () => "ok\r\n";
    await assert.rejects(calls().boot_to_fastboot(), { code: "E_TIMEOUT" });
    harness.answer = () => undefined;
    await assert.rejects(power.off(), { code: "E_TIMEOUT" });
    // What it said to one command is no answer to the next.
    harness.answer = (command) => (command === "devicePower 1" ? "ok\r\n" : undefined);
    await assert.rejects(power.on(), { code: "E_TIMEOUT", message: /^no 'ok' after 'usbDevicePower 1'/ });
    harness.commands.splice(0);
    const heard = eventually("it was told", () => harness.commands.length > 0);
    await Promise.all([
      assert.rejects(power.off(), { code: "E_DEVICE_OFFLINE", message: /ttyUSB0 is gone: / }),
      heard.then(() => cable.unplug()),
    ]);
  });
});

describe("the real fastboot and a board that speaks its protocol", { skip: noFastboot }, () => {
  test("detect, flash, erase", async (t) => {
    const board = await startFastbootBoard(t);
    const { calls, folder } = await setUp(t, undefined, { fastboot_serial: board.serial });
    const found = { status: "device_found", device_id: board.serial };
    assert.deepEqual(await calls().detect_fastboot_device(1, 0), found);
    const [boot, system] = [randomBytes(300_000), randomBytes(70_000)];
    writeFileSync(join(folder, "boot.img"), boot);
    writeFileSync(join(folder, "system.img.gz"), gzipSync(system));
    await calls().flash_with_fastboot(board.serial, { boot_a: "boot.img", system_a: "system.img.gz" });
    assert.ok(board.partitions.get("boot_a")?.equals(boot));
    assert.ok(board.partitions.get("system_a")?.equals(system));
    assert.deepEqual(board.commands.splice(0), ["flash:boot_a", "flash:system_a", "continue"]);
    assert.deepEqual(readdirSync(folder).sort(), ["boot.img", "system.img.gz"], "nothing stays beside the images");
    const erased = await calls().erase_partition(board.serial, "userdata");
    assert.deepEqual([erased.status, erased.partition], ["success", "userdata"]);
    assert.deepEqual(board.commands.splice(0), ["erase:userdata"]);
  });

  test("what the board refuses is told in its words", async (t) => {
    const board = await startFastbootBoard(t);
    const { calls, folder } = await setUp(t, undefined, { fastboot_serial: board.serial });
    writeFileSync(join(folder, "x"), "x");
    board.refuses.set("flash:", "no such partition");
    await assert.rejects(calls().flash_with_fastboot(board.serial, { nowhere: "x" }), {
      code: "E_FAILED",
      message: "Failed to flash nowhere: FAILED (remote: 'no such partition')",
    });
    assert.deepEqual(board.commands, [], "and the board is not sent on");
    board.refuses.set("erase:", "locked");
    await assert.rejects(calls().erase_partition(board.serial, "x"), {
      code: "E_FAILED",
      message: "Failed to erase partition 'x': FAILED (remote: 'locked')",
    });
    board.refuses.clear();
    board.refuses.set("continue", "no");
    await calls().flash_with_fastboot(board.serial, { x: "x" });
  });

  test("a board that hangs costs the time that is configured, and one that is given up none", async (t) => {
    const board = await startFastbootBoard(t);
    const { calls, folder } = await setUp(t, undefined, { fastboot_serial: board.serial, flash_timeout: 0.5 });
    writeFileSync(join(folder, "x"), "x");
    board.hangsAt = "flash:";
    await assert.rejects(calls().flash_with_fastboot(board.serial, { a: "x" }), {
      code: "E_TIMEOUT",
      message: "timeout while flashing a",
    });
    board.hangsAt = "erase:";
    await assert.rejects(calls(AbortSignal.timeout(200)).erase_partition(board.serial, "a"));
  });

  test("arguments that lead elsewhere are refused before anything is flashed", async (t) => {
    const board = await startFastbootBoard(t);
    const { calls, folder } = await setUp(t, undefined, { fastboot_serial: board.serial });
    writeFileSync(join(folder, "x"), "x");
    writeFileSync(join(folder, "..", "secret"), "x");
    symlinkSync("../secret", join(folder, "link"));
    const flash = (partitions: Record<string, string>, device = board.serial) =>
      calls().flash_with_fastboot(device, partitions);
    await assert.rejects(flash({}), { code: "E_INVALID", message: "At least one partition must be provided" });
    await assert.rejects(flash({ a: "x", b: "missing" }), {
      code: "E_IO",
      message: "Image not found in storage: missing",
    });
    for (const name of ["../secret", "link", "a/../../secret"]) {
      await assert.rejects(flash({ a: "x", b: name }), { code: "E_INVALID" }, name);
    }
    // As in a store: what looks absolute is below its root.
    await assert.rejects(flash({ a: "/etc/passwd" }), { code: "E_IO" });
    await assert.rejects(flash({ "-w": "x" }), { code: "E_INVALID" });
    await assert.rejects(flash({ a: "x" }, "tcp:127.0.0.1:1"), { code: "E_INVALID", message: /is not this board's$/ });
    await assert.rejects(flash({ a: "x" }, "--help"), { code: "E_INVALID" });
    await assert.rejects(calls().erase_partition(board.serial, " "), { message: "Partition name cannot be empty" });
    await assert.rejects(calls().erase_partition(board.serial, "-w"), { code: "E_INVALID" });
    assert.deepEqual(board.commands, []);
    writeFileSync(join(folder, "bad.gz"), "no gzip");
    await assert.rejects(flash({ a: "bad.gz" }), { code: "E_FAILED", message: /^failed to decompress bad\.gz: / });
  });

  test("no board", async (t) => {
    const { calls } = await setUp(t, undefined, { fastboot_serial: "tcp:127.0.0.1:1" });
    assert.deepEqual(await calls().detect_fastboot_device(2, 0), { status: "no_device_found", device_id: null });
  });
});

/** Programs of these names come before those of the host. */
function programs(t: TestContext, scripts: Record<string, string>): void {
  const folder = scratch(t);
  for (const [name, text] of Object.entries(scripts)) {
    writeFileSync(join(folder, name), `#!/bin/sh\n${text}\n`);
    chmodSync(join(folder, name), 0o755);
  }
  const before = process.env["PATH"];
  process.env["PATH"] = `${folder}${delimiter}${before}`;
  t.after(() => (process.env["PATH"] = before));
}

describe("doubles of programs", () => {
  test("several boards in fastboot mode are not guessed among", async (t) => {
    programs(t, { fastboot: "printf 'one  fastboot usb:1-1\\ntwo  fastboot usb:1-2\\n'" });
    const any = await setUp(t, undefined);
    await assert.rejects(any.calls().detect_fastboot_device(1, 0), {
      message: "found multiple fastboot devices; specify fastboot_serial: one and two",
    });
    const two = await setUp(t, undefined, { fastboot_serial: "two" });
    assert.equal((await two.calls().detect_fastboot_device(1, 0)).device_id, "two");
    await assert.rejects(two.calls().erase_partition("one", "x"), { message: /is not this board's/ });
    const none = await setUp(t, undefined, { fastboot_serial: "three" });
    assert.equal((await none.calls().detect_fastboot_device(1, 0)).status, "no_device_found");
  });

  test("fls gets its secrets by its environment, and nobody else gets them", async (t) => {
    const said = 'echo "$@ as $FLS_REGISTRY_USERNAME with $FLS_REGISTRY_PASSWORD"';
    programs(t, { fls: said });
    const { calls, exporter } = await setUp(t, undefined, { flash_timeout: 60 });
    const log: string[] = [];
    exporter.logs.subscribe(({ message }) => log.push(message));
    const url = "oci://registry.example/image:1";
    const done = await calls().flash_oci_image(url, { b: "b.img", a: "a.img" }, "somebody", "hunter2");
    const output = `fastboot ${url} -t a:a.img -t b:b.img --timeout 60 as somebody with ***`;
    assert.deepEqual(done, { status: "success", output: `${output}\n` });
    assert.ok(!log.join("\n").includes("hunter2"));
    assert.ok(log.includes(`FLS: ${output}`));
    await assert.rejects(calls().flash_oci_image(url, null, "somebody"), {
      code: "E_INVALID",
      message: "OCI authentication requires both --username and --password",
    });
    await assert.rejects(calls().flash_oci_image(url, { a: " " }), { message: /^Partition 'a' has an empty filename/ });
    await assert.rejects(calls().flash_oci_image("--help"), { code: "E_INVALID" });
    programs(t, { fls: `${said} >&2; exit 3` });
    await assert.rejects(calls().flash_oci_image(url, null, "u", "hunter2"), {
      code: "E_FAILED",
      message: `FLS fastboot failed: fastboot ${url} --timeout 60 as u with ***`,
    });
  });

  test("a call that is given up has ended when its programs have", async (t) => {
    const file = join(scratch(t), "pid");
    programs(t, {
      fls: `trap 'sleep 0.3; exit' TERM\necho $$ > ${file}.new; mv ${file}.new ${file}\nwhile :; do sleep 0.05; done`,
    });
    const { calls } = await setUp(t, undefined);
    const aborter = new AbortController();
    const flashing = calls(aborter.signal).flash_oci_image("oci://x/y");
    await eventually("it runs", () => existsSync(file));
    aborter.abort();
    await assert.rejects(flashing);
    assert.ok(!existsSync(`/proc/${readFileSync(file, "utf8").trim()}`));
  });

  test("programs that are not there", async (t) => {
    const before = process.env["PATH"];
    process.env["PATH"] = scratch(t);
    t.after(() => (process.env["PATH"] = before));
    const { calls } = await setUp(t, undefined);
    await assert.rejects(calls().detect_fastboot_device(1, 0), {
      code: "E_FAILED",
      message: "fastboot command not found",
    });
    await assert.rejects(calls().flash_oci_image("oci://x/y"), { code: "E_FAILED", message: "FLS command not found" });
  });
});
