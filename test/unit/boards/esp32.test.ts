import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { chmodSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { PassThrough, Readable } from "node:stream";
import { describe, test, type TestContext } from "node:test";
import { createExporter } from "../../../agent/session/exporter.ts";
import { esp32 } from "../../../boards/esp32/interface.ts";
import {
  chipInfo,
  failureOf,
  majorVersion,
  parseAddress,
  parseRegion,
  percentOf,
  pythonInt,
  saysVerified,
  wordsFor,
} from "../../../boards/esp32/protocol.ts";
import { serialPort } from "../../../boards/serial/interface.ts";
import { scratch } from "../../sim/agent.ts";
import { simulateEsp32 } from "../../sim/esp32.ts";
import { esptool, noEsptool } from "../../sim/esptool.ts";
import { noPtys, plugCable } from "../../sim/pty.ts";
import { eventually } from "../../sim/rig.ts";

test("addresses as Python reads them", () => {
  assert.deepEqual(
    ["0x1000", "4096", "0b11", "0o17", "0", "00", " 1_000 ", "0xdead_beef", "+5"].map(pythonInt),
    [4096, 4096, 3, 15, 0, 0, 1000, 0xdeadbeef, 5],
  );
  for (const text of ["", "x", "010", "1.5", "0x", "1e3", "-1", "1__0x", "0xg", "1 2"]) {
    assert.throws(() => pythonInt(text), { message: `invalid literal for int() with base 0: '${text}'` }, text);
  }
  assert.equal(parseAddress(undefined), 0);
  assert.equal(parseAddress(""), 0);
  assert.throws(() => parseAddress("0x100000000"), /there is no address/);
  assert.deepEqual(parseRegion(null), { address: 0, bytes: 0x400000 });
  assert.deepEqual(parseRegion("0x8000"), { address: 0x8000, bytes: 0x400000 });
  assert.deepEqual(parseRegion("0x8000:0xc00"), { address: 0x8000, bytes: 0xc00 });
  for (const text of ["1:2:3", "1:0", "0xffffffff:2", ":5x"]) assert.throws(() => parseRegion(text), Error, text);
});

test("what both releases of esptool print", () => {
  assert.equal(majorVersion("esptool v5.6.0\n5.6.0\n"), 5);
  assert.equal(majorVersion("esptool.py v4.4\n4.4\n"), 4);
  assert.equal(majorVersion("4.7.0\n"), 4);
  assert.equal(majorVersion("usage: something"), undefined);
  assert.deepEqual([wordsFor(4)("write_flash"), wordsFor(5)("write_flash")], ["write_flash", "write-flash"]);
  const old =
    "Chip is ESP32-D0WD-V3 (revision v3.1)\nFeatures: WiFi, BT, Dual Core\nCrystal is 40MHz\nMAC: 24:0A:C4:00:01:10\n";
  assert.deepEqual(chipInfo(old), {
    chip: "ESP32-D0WD-V3 (revision v3.1)",
    features: "WiFi, BT, Dual Core",
    mac: "24:0a:c4:00:01:10",
  });
  assert.throws(() => chipInfo("Chip is ESP32\nFeatures: x\nMAC: 24:0A"), /does not say the MAC address/);
  assert.equal(percentOf("Writing at 0x00010000... (37 %)"), 37);
  assert.equal(percentOf("Writing at 0x00014000 ━━━╸    81.9% 16.00kB/19.53kB [0s] "), 81);
  assert.equal(percentOf("Reading from 0x00014e20 ━━━━ 100.0% 19.53kB/19.53kB [0s] "), 100);
  assert.equal(percentOf("Chip is ESP32"), undefined);
  assert.ok(saysVerified("Verifying written data...\nHash of data verified.\n"));
  assert.equal(failureOf("x\nA fatal error occurred: No serial data received.\n"), "No serial data received.");
});

/** A chip behind a cable, with its driver and its console. */
async function setUp(t: TestContext, config: Record<string, unknown> = {}) {
  const cable = await plugCable(t);
  const chip = simulateEsp32(cable.board);
  const exporter = await createExporter({
    name: "test",
    export: {
      flasher: {
        type: "jumpstarter_driver_esp32.driver.Esp32Flasher",
        config: { esptool, ...config },
        children: { serial: { type: "jumpstarter_driver_pyserial.driver.PySerial", config: { url: cable.path } } },
      },
    },
  });
  t.after(() => exporter.close());
  const said: string[] = [];
  exporter.logs.subscribe(({ message }) => said.push(message));
  return {
    cable,
    chip,
    exporter,
    said,
    calls: (signal?: AbortSignal) => exporter.calls("flasher", esp32, signal === undefined ? {} : { signal }),
    lend: (content: Buffer) => exporter.resources.lend(Readable.from([content]), null),
    serial: exporter.calls("flasher.serial", serialPort),
  };
}

/** Processes that have this in their command line. */
function processesWith(word: string): string[] {
  return readdirSync("/proc").filter((pid) => {
    if (!/^[0-9]+$/.test(pid) || Number(pid) === process.pid) return false;
    try {
      const line = readFileSync(`/proc/${pid}/cmdline`, "latin1");
      return line.includes(word) && line.includes("esptool");
    } catch {
      return false;
    }
  });
}

describe("the real esptool and a chip that speaks its protocol", { skip: noPtys || noEsptool }, () => {
  test("flash, read back, erase; the console is let go and can be had again", async (t) => {
    const { chip, cable, calls, lend, exporter, serial, said } = await setUp(t);
    const flasher = calls();
    const console = await serial.connect();
    console.resume();
    let ended = false;
    console.once("end", () => {
      ended = true;
      assert.deepEqual(chip.commands, [], "the console is closed before esptool speaks");
    });
    assert.deepEqual(await flasher.get_chip_info(), {
      chip: "ESP32-D0WDQ6 (revision v0.0)",
      features: "Wi-Fi, BT, Dual Core + LP Core, Coding Scheme None",
      mac: "24:0a:33:44:55:66",
    });
    assert.ok(ended);

    const firmware = randomBytes(20_000);
    await flasher.flash(lend(firmware), "0x10000");
    assert.ok(chip.flash.subarray(0x10000, 0x10000 + firmware.length).equals(firmware));
    assert.ok(said.includes("Writing: 100 %"), said.join("\n"));
    assert.ok(said.includes("20000 bytes at 0x10000 are verified"));

    // Its padding to four bytes, and compression, are esptool's.
    const text = Buffer.from("text that is easily compressed. ".repeat(500) + "!");
    await flasher.flash(lend(text));
    assert.ok(chip.flash.subarray(0, text.length).equals(text));
    assert.ok(chip.commands.includes("FLASH_DEFL_DATA"));

    const dump = new PassThrough();
    const read = dump.toArray();
    await flasher.dump(exporter.resources.lend(dump, null), "0x10000:20000");
    assert.ok(Buffer.concat((await read) as Buffer[]).equals(firmware));

    await flasher.erase();
    assert.ok(chip.flash.every((byte) => byte === 0xff));

    const again = await serial.connect();
    cable.board.write("hello");
    const [first] = (await again.take(1).toArray()) as Buffer[];
    assert.equal(String(first), "hello");
  });

  test("flash that is not what was written is no success", async (t) => {
    const { chip, calls, lend } = await setUp(t);
    chip.spoils = true;
    await assert.rejects(calls().flash(lend(randomBytes(5_000))), {
      code: "E_FAILED",
      message: /^esptool failed: .*(MD5|verif|not match)/i,
    });
  });

  test("a call that is given up ends esptool, and the port is free", async (t) => {
    const { chip, cable, calls, lend, serial } = await setUp(t);
    chip.hangsAt = "FLASH_DATA";
    const aborter = new AbortController();
    const flashing = calls(aborter.signal).flash(lend(randomBytes(5_000)));
    await eventually("it writes", () => chip.commands.includes("FLASH_DATA"));
    assert.equal((await serial.status()).open, false, "esptool has it for itself");
    const attached = serial.connect();
    assert.equal(processesWith(cable.path).length, 1);
    aborter.abort();
    await assert.rejects(flashing);
    assert.deepEqual(processesWith(cable.path), []);
    (await attached).destroy();
  });

  test("a chip that says nothing costs no more than the time that is configured", async (t) => {
    const { chip, cable, calls } = await setUp(t, { timeout_seconds: 1.5 });
    chip.silent = true;
    await assert.rejects(calls().get_chip_info(), { code: "E_TIMEOUT", message: /was not done in 1\.5 s/ });
    assert.deepEqual(processesWith(cable.path), []);
  });

  test("a cable that is pulled out in the middle", async (t) => {
    const { chip, cable, calls, lend } = await setUp(t);
    chip.hangsAt = "FLASH_DATA";
    const flashing = calls().flash(lend(randomBytes(5_000)));
    await Promise.all([
      assert.rejects(flashing, { code: "E_DEVICE_OFFLINE", message: /has gone while esptool used it$/ }),
      eventually("it writes", () => chip.commands.includes("FLASH_DATA")).then(() => cable.unplug()),
    ]);
    await assert.rejects(calls().erase(), { code: "E_DEVICE_OFFLINE" });
  });
});

test("arguments are refused before anything is started", async (t) => {
  const exporter = await createExporter({
    name: "test",
    export: { flasher: { type: "jumpstarter_driver_esp32.driver.Esp32Flasher", config: { esptool: "/nowhere" } } },
  });
  t.after(() => exporter.close());
  const flasher = exporter.calls("flasher", esp32);
  const handle = exporter.resources.lend(Readable.from([Buffer.from("x")]), null);
  await assert.rejects(flasher.flash(handle, "boot"), {
    code: "E_INVALID",
    message: "invalid literal for int() with base 0: 'boot'",
  });
  await assert.rejects(flasher.dump(handle, "0:--help"), { code: "E_INVALID" });
  await assert.rejects(flasher.erase(), { code: "E_FAILED", message: /^'serial'/ });
});

test("without esptool, or with something else of this name, its driver alone is offline", async (t) => {
  const folder = scratch(t);
  const other = join(folder, "esptool");
  writeFileSync(other, "#!/bin/sh\necho something else\n");
  chmodSync(other, 0o755);
  const flasher = (program: string) => ({
    type: "jumpstarter_driver_esp32.driver.Esp32Flasher",
    config: { esptool: program },
    children: { serial: { type: "jumpstarter_driver_pyserial.driver.PySerial", config: { url: "loop://" } } },
  });
  const exporter = await createExporter({
    name: "test",
    export: { missing: flasher(join(folder, "nothing")), other: flasher(other) },
  });
  t.after(() => exporter.close());
  await assert.rejects(exporter.calls("missing", esp32).erase(), {
    code: "E_DEVICE_OFFLINE",
    message: /nothing is not installed on the exporter's host \(apt install esptool/,
  });
  await assert.rejects(exporter.calls("other", esp32).erase(), { code: "E_DEVICE_OFFLINE", message: /is no esptool$/ });
  await exporter.calls("missing", esp32).hard_reset();
  await exporter.calls("missing", esp32).enter_bootloader();
});
