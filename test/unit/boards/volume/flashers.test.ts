import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { existsSync, readdirSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { PassThrough, Readable } from "node:stream";
import { after, before, describe, test, type TestContext } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import type { Entry } from "../../../../agent/driver/entry.ts";
import { createExporter } from "../../../../agent/session/exporter.ts";
import { piPico } from "../../../../boards/pi-pico/interface.ts";
import { serialPort } from "../../../../boards/serial/interface.ts";
import { stlinkMsd } from "../../../../boards/stlink-msd/interface.ts";
import { boardVolume, volumesForUs } from "../../../sim/board-volume.ts";
import { intelHex, uf2, uf2Content } from "../../../sim/firmware.ts";
import { missingLoops } from "../../../sim/loop.ts";
import { noPtys, plugCable } from "../../../sim/pty.ts";

const stlinkFiles = { "DETAILS.TXT": "# a board\r\nVersion: 0221\r\nBuild: Jan  2\r\n", "MBED.HTM": "<html>" };
const picoFiles = { "INFO_UF2.TXT": "UF2 Bootloader v2.0\r\nModel: Raspberry Pi RP2\r\nBoard-ID: RPI-RP2\r\n" };
const stlinkType = "jumpstarter_driver_stlink_msd.driver.StlinkMsdFlasher";
const picoType = "jumpstarter_driver_pi_pico.driver.PiPicoFlasher";

async function exporterOf(t: TestContext, entries: Record<string, Entry>) {
  const exporter = await createExporter({ name: "test", export: entries });
  t.after(() => exporter.close());
  const lend = (content: Buffer | string | Readable) =>
    exporter.resources.lend(content instanceof Readable ? content : Readable.from([Buffer.from(content)]), null);
  return { exporter, lend };
}

const stlink = async (t: TestContext, config: Record<string, unknown> = {}) => {
  const entry = { type: stlinkType, config: { verify_seconds: 0.2, ...config } };
  const { exporter, lend } = await exporterOf(t, { flasher: entry });
  const calls = exporter.calls("flasher", stlinkMsd);
  return { calls, flash: (content: Buffer | string, target?: string) => calls.flash(lend(content), target) };
};

before(() => volumesForUs({ after }));

const own = () => readdirSync(tmpdir()).filter((name) => name.startsWith("jmp-volume-"));

test("without a board: the words of the Python driver, and the agent has started", async (t) => {
  const { exporter, lend } = await exporterOf(t, {
    nucleo: { type: stlinkType },
    pico: { type: picoType },
  });
  const nucleo = exporter.calls("nucleo", stlinkMsd);
  const pico = exporter.calls("pico", piPico);
  const stlinkMissing = { code: "E_IO", message: /^No ST-LINK mass storage volume found\. Check that the board / };
  const picoMissing = {
    code: "E_IO",
    message: "No Pico BOOTSEL volume found. Hold BOOTSEL while plugging USB.",
  };
  await assert.rejects(nucleo.info(), stlinkMissing);
  await assert.rejects(nucleo.flash(lend("x")), stlinkMissing);
  await assert.rejects(nucleo.dump(lend("")), { code: "E_UNSUPPORTED", message: /^Reading flash via ST-LINK mass / });
  await assert.rejects(pico.bootloader_info(), picoMissing);
  await assert.rejects(pico.flash(lend(uf2(Buffer.alloc(9)))), picoMissing);
  await assert.rejects(pico.dump(lend("")), { code: "E_UNSUPPORTED", message: /^Dumping flash is not supported by / });
  await assert.rejects(pico.enter_bootloader(), { code: "E_UNSUPPORTED", message: /requires either GPIO children/ });
});

describe("volumes that are mounted", { skip: missingLoops }, () => {
  test("an ST-LINK programs what is copied to it", async (t) => {
    const copied: [string, Buffer][] = [];
    const board = boardVolume(t, "NOD_F411RE", stlinkFiles, (name, content, volume) => {
      copied.push([name, content]);
      volume.replug();
    });
    const { calls, flash } = await stlink(t);
    assert.deepEqual(await calls.info(), { Version: "0221", Build: "Jan  2", mount_point: board.folder });
    const firmware = randomBytes(100_000);
    await flash(firmware);
    await flash(intelHex(firmware), "App.HEX");
    assert.deepEqual(
      copied.map(([name, { length }]) => [name, length]),
      [
        ["firmware.bin", 100_000],
        ["App.HEX", intelHex(firmware).length],
      ],
    );
    assert.ok(copied[0]?.[1].equals(firmware));
  });

  test("what an ST-LINK could not program is no success", async (t) => {
    let text = "The interface firmware FAILED to reset/halt the target MCU\r\n";
    boardVolume(t, "NODE", stlinkFiles, (_name, _content, volume) => volume.replug({ "FAIL.TXT": text }));
    const { flash } = await stlink(t, { verify_seconds: 2 });
    const began = performance.now();
    await assert.rejects(flash("firmware"), {
      code: "E_FAILED",
      message: "the ST-LINK did not program the target: The interface firmware FAILED to reset/halt the target MCU",
    });
    assert.ok(performance.now() - began < 1_500, "it is told as soon as it is there");
    text = "";
    await assert.rejects(flash("firmware"), { code: "E_FAILED", message: /its FAIL.TXT is empty$/ });
  });

  test("an ST-LINK is found by the name of its volume, and never guessed", async (t) => {
    const [one, two] = [boardVolume(t, "NOD_one", stlinkFiles), boardVolume(t, "DIS_two", {})];
    const volumes = (calls: Awaited<ReturnType<typeof stlink>>["calls"]) => calls.info();
    const { calls } = await stlink(t);
    await assert.rejects(volumes(calls), (error: Error) => {
      assert.match(
        error.message,
        /^Multiple ST-LINK volumes found: .*, .*\. Set 'volume_name' in the config to select/,
      );
      return error.message.includes(one.folder) && error.message.includes(two.folder);
    });
    assert.equal((await volumes((await stlink(t, { volume_name: "dis_TWO" })).calls))["mount_point"], two.folder);
    await assert.rejects(volumes((await stlink(t, { volume_name: "other" })).calls), {
      code: "E_IO",
      message: /^ST-LINK volume 'other' not found\. Available: /,
    });
    // Named by its USB device, a volume of another one is not taken.
    await assert.rejects(volumes((await stlink(t, { path: "9-9" })).calls), { message: /^No ST-LINK mass storage/ });
    const plain = boardVolume(t, "just-a-name", {});
    assert.equal((await volumes((await stlink(t, { volume_name: "Just-A-Name" })).calls))["mount_point"], plain.folder);
  });

  test("firmware that no ST-LINK takes does not reach it", async (t) => {
    const board = boardVolume(t, "NOD_x", stlinkFiles, () => assert.fail("something was copied"));
    const { flash } = await stlink(t);
    const refused = (content: string | Buffer, target: string, message: RegExp) =>
      assert.rejects(flash(content, target), { code: "E_INVALID", message });
    await refused("x", "app.elf", /^Unsupported firmware format '\.elf'\. ST-LINK mass storage only accepts \.bin or/);
    await refused("x", "app", /^Unsupported firmware format 'app'\./);
    await refused("x", "../../escape.bin", /^Invalid target '\.\.\/\.\.\/escape\.bin': it must be a file name/);
    await refused("x", "/etc/app.bin", /^Invalid target/);
    await refused("", "a.bin", /^the firmware is empty/);
    await refused(":00000001FE\n", "a.hex", /^a\.hex is not Intel HEX: line 1 has a wrong checksum/);
    await refused(Buffer.alloc(5 * 2 ** 20), "a.bin", /^a\.bin has 5242880 bytes, and the whole volume/);
    assert.deepEqual(readdirSync(board.folder).sort(), ["DETAILS.TXT", "MBED.HTM", "lost+found"]);
  });

  test("a client that breaks off in the middle copies nothing", async (t) => {
    boardVolume(t, "NOD_x", stlinkFiles, () => assert.fail("something was copied"));
    const { exporter, lend } = await exporterOf(t, { flasher: { type: stlinkType, config: { verify_seconds: 0 } } });
    const source = new PassThrough();
    source.on("error", () => {}).write(Buffer.alloc(1000));
    setTimeout(() => source.destroy(new Error("gone")), 20);
    await assert.rejects(exporter.calls("flasher", stlinkMsd).flash(lend(source)));
    await sleep(100);
  });

  test("an ST-LINK that does not come back is told", async (t) => {
    boardVolume(t, "NOD_x", stlinkFiles, (_name, _content, volume) => volume.unplug());
    const aborter = new AbortController();
    const { exporter, lend } = await exporterOf(t, { flasher: { type: stlinkType, config: { verify_seconds: 0.3 } } });
    const flashed = exporter.calls("flasher", stlinkMsd, { signal: aborter.signal }).flash(lend("x"));
    setTimeout(() => aborter.abort(), 800);
    await assert.rejects(flashed, { name: "AbortError" });
  });

  test("a Pico takes UF2, and restarts", async (t) => {
    const copied: [string, Buffer][] = [];
    const board = boardVolume(t, "RPI-RP2", picoFiles, (name, content, volume) => {
      copied.push([name, content]);
      volume.unplug();
    });
    const { exporter, lend } = await exporterOf(t, { pico: { type: picoType } });
    const pico = exporter.calls("pico", piPico);
    await pico.enter_bootloader();
    assert.equal((await pico.bootloader_info())["Board-ID"], "RPI-RP2");
    const refused = async (content: Buffer, target: string | undefined, message: RegExp) =>
      assert.rejects(pico.flash(lend(content), target), { code: "E_INVALID", message });
    const firmware = randomBytes(10_000);
    await refused(firmware, undefined, /^Firmware\.uf2 is not UF2: its 10000 bytes are no whole blocks/);
    await refused(randomBytes(1024), "x", /^x\.uf2 is not UF2: block 0 has no magic numbers/);
    await refused(uf2(firmware).subarray(0, 1024), "x", /it was cut off$/);
    await refused(uf2(firmware, { family: 0xe48bff59 }), "x", /^x\.uf2 is not flashed: it is for RP2350 /);
    await refused(uf2(firmware), "../x", /^Invalid target '\.\.\/x\.uf2'/);
    assert.deepEqual(copied, []);
    await pico.flash(lend(uf2(firmware)), "app.UF2");
    assert.equal(copied[0]?.[0], "app.UF2");
    assert.ok(
      uf2Content(copied[0]?.[1] ?? Buffer.alloc(0))
        .subarray(0, firmware.length)
        .equals(firmware),
    );
    await assert.rejects(pico.bootloader_info(), { message: /^No Pico BOOTSEL volume found\. Hold/ });
    assert.ok(!existsSync(join(board.folder, "INFO_UF2.TXT")));
  });

  test("two boot loaders at once are one too many", async (t) => {
    boardVolume(t, "one", picoFiles);
    boardVolume(t, "two", { "INDEX.HTM": "" });
    const { exporter } = await exporterOf(t, { pico: { type: picoType } });
    await assert.rejects(exporter.calls("pico", piPico).bootloader_info(), {
      code: "E_IO",
      message: /^Multiple Pico BOOTSEL volumes found: .*\/(one|two), .*\/(one|two)\. Unplug extras\.$/,
    });
  });

  test("a Pico's pins are held and let go again, whatever happens", async (t) => {
    const said: string[] = [];
    // Whatever can be switched is a pin.
    const switched = { type: "jumpstarter_driver_power.driver.MockPower" };
    const { exporter } = await exporterOf(t, {
      pico: {
        type: picoType,
        config: { bootloader_wait_seconds: "0.2", gpio_reset_hold_seconds: 0.2 },
        children: { bootsel: switched, run: switched },
      },
    });
    exporter.logs.subscribe(({ message }) => message.startsWith("power ") && said.push(message));
    await assert.rejects(exporter.calls("pico", piPico).enter_bootloader(), {
      code: "E_IO",
      message: "No Pico BOOTSEL volume found after bootloader request.",
    });
    assert.deepEqual(said.splice(0), ["power on", "power on", "power off", "power off"]);
    const signal = AbortSignal.timeout(300);
    await assert.rejects(exporter.calls("pico", piPico, { signal }).enter_bootloader());
    assert.deepEqual(said, ["power on", "power on", "power off", "power off"], "cancelled while both were held");
  });

  test("the console in use is let go for the touch, and can be had again", { skip: noPtys }, async (t) => {
    const cable = await plugCable(t);
    const board = boardVolume(t, "RPI-RP2", picoFiles, (_name, _content, volume) => volume.unplug());
    board.unplug();
    const { exporter, lend } = await exporterOf(t, {
      pico: {
        type: picoType,
        children: { serial: { type: "jumpstarter_driver_pyserial.driver.PySerial", config: { url: cable.path } } },
      },
    });
    const serial = exporter.calls("pico.serial", serialPort);
    const console = await serial.connect();
    console.resume();
    let ended = false;
    console.once("end", () => {
      ended = true;
      board.replug();
    });
    await exporter.calls("pico", piPico).flash(lend(uf2(Buffer.alloc(2_000))));
    assert.ok(ended);
    const again = await serial.connect();
    cable.board.write("hello");
    const [first] = (await again.take(1).toArray()) as Buffer[];
    assert.equal(String(first), "hello");
  });

  test("nothing stays mounted", () => assert.deepEqual(own(), []));
});
