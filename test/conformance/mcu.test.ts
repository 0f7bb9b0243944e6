// The real Python clients flash microcontrollers: volumes that boards show, an ESP32 by the real esptool, a board by the real fastboot,
// and a machine in a double of Renode.
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { gzipSync } from "node:zlib";
import { scratch, startAgent } from "../sim/agent.ts";
import { boardVolume, volumesForUs } from "../sim/board-volume.ts";
import { simulateEsp32 } from "../sim/esp32.ts";
import { esptool, noEsptool } from "../sim/esptool.ts";
import { startFastbootBoard } from "../sim/fastboot.ts";
import { intelHex, uf2, uf2Content } from "../sim/firmware.ts";
import { missingLoops } from "../sim/loop.ts";
import { noPtys, plugCable } from "../sim/pty.ts";
import { clientEnv, clientProgram, missingClient, run } from "../sim/python-client.ts";
import { renodeDouble } from "../sim/renode.ts";
import { simulateRideSX } from "../sim/ridesx.ts";

const version = "0.9.0";
const skip = missingClient(version) || noPtys || noEsptool || missingLoops;
const serialOn = (url: string) => ({ type: "jumpstarter_driver_pyserial.driver.PySerial", config: { url } });

test(`Python client ${version}: flashers of microcontrollers`, { skip }, async (t) => {
  const folder = scratch(t);
  const firmware = randomBytes(30_000);
  const files: Record<string, string | Buffer> = {
    "app.bin": firmware,
    "bad.bin": "bad",
    "app.hex": intelHex(firmware),
    "app.uf2": uf2(firmware),
    "app.elf": Buffer.from("\x7fELF", "latin1"),
    "system.img.gz": gzipSync(firmware),
  };
  for (const [name, content] of Object.entries(files)) writeFileSync(join(folder, name), content);

  await volumesForUs(t);
  const stlinked: Buffer[] = [];
  const details = { "DETAILS.TXT": "# a board\r\nVersion: 0221\r\n" };
  boardVolume(t, "NOD_F411RE", details, (_name, content, volume) => {
    stlinked.push(content);
    const failed = content.toString() === "bad";
    volume.replug({ "FAIL.TXT": failed ? "The target refused\r\n" : undefined });
  });
  const uf2s: Buffer[] = [];
  const bootloader = { "INFO_UF2.TXT": "UF2 Bootloader v2.0\r\nBoard-ID: RPI-RP2\r\n" };
  boardVolume(t, "RPI-RP2", bootloader, (_name, content, volume) => {
    uf2s.push(content);
    volume.unplug();
  });
  const [espCable, rideCable] = [await plugCable(t), await plugCable(t)];
  const chip = simulateEsp32(espCable.board);
  const harness = simulateRideSX(rideCable.board);
  const fastboot = await startFastbootBoard(t);
  const renode = renodeDouble(t);

  const stlink = (config: Record<string, unknown>) => ({
    type: "jumpstarter_driver_stlink_msd.driver.StlinkMsdFlasher",
    config: { verify_seconds: 1, ...config },
  });
  const simulated = (config: Record<string, unknown>) => ({
    type: "jumpstarter_driver_renode.driver.Renode",
    config: { platform: "platforms/x.repl", ...config },
  });
  const agent = await startAgent(
    t,
    {
      nucleo: stlink({}),
      other: stlink({ volume_name: "NOD_OTHER" }),
      pico: { type: "jumpstarter_driver_pi_pico.driver.PiPicoFlasher" },
      esp32: {
        type: "jumpstarter_driver_esp32.driver.Esp32Flasher",
        config: { esptool },
        children: { serial: { ref: "console" } },
      },
      console: serialOn(espCable.path),
      ridesx: {
        type: "jumpstarter_driver_ridesx.driver.RideSXDriver",
        config: { storage_dir: join(folder, "images"), fastboot_serial: fastboot.serial, pause_factor: 0 },
        children: { serial: serialOn(rideCable.path) },
      },
      ridesx_power: {
        type: "jumpstarter_driver_ridesx.driver.RideSXPowerDriver",
        config: { pause_factor: 0 },
        children: { serial: { ref: "ridesx.serial" } },
      },
      renode: simulated({ allow_raw_monitor: true }),
      closed: simulated({}),
    },
    { env: renode.env },
  );

  const words = ["test/conformance/drive_mcu.py", folder, fastboot.serial];
  const { code, stdout, stderr } = await run(clientProgram(version, "python"), words, {
    env: clientEnv(agent.socketPath),
  });
  assert.equal(code, 0, `${stdout}\n${stderr}\nagent:\n${agent.output()}`);
  assert.match(stdout, /passed/);

  assert.ok(
    chip.flash.every((byte) => byte === 0xff),
    "erased at last",
  );
  // Our `j` has the words of theirs.
  const ours = (...args: string[]) =>
    run(process.execPath, ["dist/j.js", ...args], { env: clientEnv(agent.socketPath) });
  const flashed = await ours("esp32", "flash", join(folder, "app.elf"), "-a", "0x2000");
  assert.equal(flashed.code, 0, flashed.stderr);
  assert.equal(chip.flash.toString("latin1", 0x2001, 0x2004), "ELF");
  const escaped = await ours("pico", "flash", join(folder, "app.uf2"), "--name", "../x");
  assert.match(escaped.stderr, /Invalid target '..\/x.uf2'/);
  const help = await ours("esp32", "--help");
  for (const word of ["flash", "dump", "chip-info", "erase", "reset", "bootloader"]) {
    assert.match(help.stdout, new RegExp(`^ +${word} `, "m"));
  }
  const asked = await ours("closed", "monitor", "version");
  assert.match(asked.stderr, /raw monitor access is disabled/);

  assert.deepEqual(
    stlinked.map(({ length }) => length),
    [firmware.length, intelHex(firmware).length, 3],
  );
  assert.ok(stlinked[0]?.equals(firmware));
  assert.ok(
    uf2Content(uf2s[0] ?? Buffer.alloc(0))
      .subarray(0, firmware.length)
      .equals(firmware),
  );
  assert.ok(chip.commands.includes("READ_FLASH"));
  assert.ok(fastboot.partitions.get("boot_a")?.equals(firmware));
  assert.ok(fastboot.partitions.get("system_a")?.equals(firmware));
  // Maps have no order on their way.
  assert.deepEqual(fastboot.commands.splice(0, 2).sort(), ["flash:boot_a", "flash:system_a"]);
  assert.deepEqual(fastboot.commands, ["continue", "erase:userdata"]);
  assert.ok(harness.commands.includes("ttl outputBit 2 1"));
  assert.ok(renode.commands().includes("start"));
});
