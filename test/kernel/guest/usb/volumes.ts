import assert from "node:assert/strict";
import { createHash, randomBytes } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { Readable } from "node:stream";
import { after, test, type TestContext } from "node:test";
import type { Entry } from "../../../../agent/driver/entry.ts";
import type { ResourceHandle } from "../../../../agent/driver/resource.ts";
import { esp32 } from "../../../../boards/esp32/interface.ts";
import { piPico } from "../../../../boards/pi-pico/interface.ts";
import { serialConsole } from "../../../../boards/serial/interface.ts";
import { stlinkMsd } from "../../../../boards/stlink-msd/interface.ts";
import { uf2 } from "../../../sim/firmware.ts";
import { exporter } from "../lib/exporter.ts";
import { modprobe, waitFor } from "../lib/system.ts";
import { startLab } from "../lib/usb-lab.ts";

const lab = startLab({ after } as unknown as Pick<TestContext, "after">);
for (const name of ["usb_storage", "sd_mod", "vfat", "nls_cp437", "nls_ascii", "nls_iso8859_1", "cdc_acm"]) {
  await modprobe(name);
}

/** An emulated machine beside other work takes its time, and its kernel gives up a slow device after seconds. */
const patienceMs = 90_000;
const sha256 = (content: Uint8Array) => createHash("sha256").update(content).digest("hex");
const stlink = (config: Record<string, unknown> = {}): Entry => ({
  type: "jumpstarter_driver_stlink_msd.driver.StlinkMsdFlasher",
  config: { verify_seconds: 5, ...config },
});
const pico = (config: Record<string, unknown> = {}, children: Record<string, Entry> = {}): Entry => ({
  type: "jumpstarter_driver_pi_pico.driver.PiPicoFlasher",
  config,
  children,
});
const source = (content: Uint8Array) => Readable.from([Buffer.from(content)], { objectMode: false });

function nothingIsMounted(): void {
  assert.ok(!isMounted());
  assert.deepEqual(
    readdirSync(tmpdir()).filter((name) => name.startsWith("jmp-volume-")),
    [],
  );
}

interface Copied {
  readonly copied: readonly { readonly name: string; readonly bytes: number; readonly sha256: string }[];
}

const isMounted = () => readFileSync("/proc/self/mounts", "utf8").includes("jmp-volume-");

/** What an ST-LINK does with a file: it is away for a moment, and comes back. */
async function program(device: string, bytes: number, failure: string): Promise<Copied["copied"]> {
  const { copied } = await waitFor(
    "the file is complete",
    async () => {
      const state = await lab.state<Copied>(device);
      return state.copied[0]?.bytes === bytes ? state : undefined;
    },
    patienceMs,
  );
  await waitFor("the host is done", () => !isMounted(), patienceMs);
  await lab.unplug(device);
  await lab.change(device, { failure });
  await lab.plug(device);
  return copied;
}

test("an ST-LINK that nobody has mounted", async (t) => {
  const path = await lab.plug("nucleo1");
  const { node } = await exporter(t, {
    any: stlink(),
    other: stlink({ path: "9-9" }),
    named: stlink({ volume_name: "nod_F411re" }),
    one: stlink({ path }),
    two: stlink({ serial: "0669FF2" }),
  });
  const calls = (name: string) => node(name).as(stlinkMsd);
  const info = await waitFor("the disk is there", () => calls("any").info());
  assert.equal(info["Version"], "0221");
  assert.match(info["mount_point"] ?? "", /^\/dev\/sd[a-z]$/);
  assert.equal((await calls("named").info())["Version"], "0221", "by the name in its file system");
  await assert.rejects(calls("other").info(), { message: /No ST-LINK mass storage volume found/ });

  const flash = (content: Uint8Array, driver = "any") =>
    node(driver).lendSource(source(content), (handle: ResourceHandle) => calls(driver).flash(handle));
  const firmware = randomBytes(150_000);
  const [, copied] = await Promise.all([flash(firmware), program("nucleo1", firmware.length, "")]);
  assert.deepEqual(copied, [{ name: "FIRMWARE.BIN", bytes: firmware.length, sha256: sha256(firmware) }]);
  nothingIsMounted();

  // One that restarts in the middle of a copy gets it once more. An emulated machine takes its time for each sector.
  const small = firmware.subarray(0, 20_000);
  await lab.change("nucleo1", { refuses: true });
  const restart = async () => {
    await waitFor("it has refused", async () => (await lab.state<{ refused: number }>("nucleo1")).refused > 0);
    await waitFor("the host has given up", () => !isMounted(), patienceMs);
    await lab.unplug("nucleo1");
    await lab.change("nucleo1", { refuses: false });
    await lab.plug("nucleo1");
    await program("nucleo1", small.length, "");
  };
  await Promise.all([flash(small), restart()]);

  const why = "The interface firmware FAILED to reset/halt the target MCU\r\n";
  await Promise.all([
    assert.rejects(flash(small), {
      message: /the ST-LINK did not program the target: The interface firmware FAILED/,
    }),
    program("nucleo1", small.length, why),
  ]);
  nothingIsMounted();

  await lab.plug("nucleo2");
  await waitFor("the second is there", async () => {
    await assert.rejects(calls("any").info(), { message: /Multiple ST-LINK volumes found: \/dev\/sd.*, \/dev\/sd/ });
    return true;
  });
  const [one, two] = [calls("one"), calls("two")];
  assert.notEqual((await one.info())["mount_point"], (await two.info())["mount_point"]);
  await lab.unplug("nucleo1");
  await lab.unplug("nucleo2");
});

test("a Pico: from its serial port to its boot loader, and back", async (t) => {
  await lab.plug("application");
  const serial: Entry = {
    type: "jumpstarter_driver_pyserial.driver.PySerial",
    config: { url: "usb://2e8a:000a?serial=PICO1" },
  };
  const { node } = await exporter(t, { pico: pico({ bootloader_wait_seconds: 90 }, { serial }) });
  const calls = node("pico").as(piPico);
  const console = await waitFor("the port", () => node("pico.serial").as(serialConsole).connect());
  const ended = console.resume().toArray();
  const firmware = Buffer.alloc(8_192, "firmware ");
  const flashing = node("pico").lendSource(source(uf2(firmware)), (handle) => calls.flash(handle));
  const touched = waitFor(
    "the touch",
    async () => (await lab.state<{ isTouched: boolean }>("application")).isTouched,
    patienceMs,
  );
  await Promise.race([flashing, touched]);
  await ended.catch(() => {});
  await lab.unplug("application");
  await lab.plug("bootrom");
  interface Rom {
    readonly isComplete: boolean;
    readonly sha256: string;
  }
  const isComplete = waitFor("all blocks", async () => (await lab.state<Rom>("bootrom")).isComplete, patienceMs);
  await Promise.race([flashing, isComplete]);
  const rom = await lab.state<Rom>("bootrom");
  await lab.unplug("bootrom");
  await lab.plug("application");
  await flashing;
  assert.equal(rom.sha256, sha256(firmware));
  nothingIsMounted();
  // The console can be had again.
  const again = await waitFor("the port again", () => node("pico.serial").as(serialConsole).connect());
  again.write("hello");
  const [first] = (await again.take(1).toArray()) as Buffer[];
  assert.equal(String(first), "hello");
  await lab.unplug("application");
});

test("the lines of an ESP32 are set one after the other, through one opening of its port", async (t) => {
  await lab.plug("application");
  const { node } = await exporter(t, {
    esp32: {
      type: "jumpstarter_driver_esp32.driver.Esp32Flasher",
      children: {
        serial: {
          type: "jumpstarter_driver_pyserial.driver.PySerial",
          config: { url: "usb://2e8a:000a?serial=PICO1" },
        },
      },
    },
  });
  const calls = node("esp32").as(esp32);
  await waitFor("the port", () => node("esp32.serial").as(serialConsole).connect());
  const told = async () => (await lab.state<{ lines: string[] }>("application")).lines;
  const after = async (work: () => Promise<unknown>) => {
    const before = (await told()).length;
    await work();
    return (await told()).slice(before);
  };
  // The console has both; in reset and in the boot loader's way there is one of them.
  assert.deepEqual(await after(() => calls.hard_reset()), ["RTS", ""]);
  assert.deepEqual(await after(() => calls.enter_bootloader()), ["RTS", "DTR RTS", "DTR", ""]);
  await lab.unplug("application");
});

test("a boot loader that takes the file and does nothing", async (t) => {
  await lab.plug("deaf");
  await lab.change("deaf", { deaf: true });
  const { node } = await exporter(t, { pico: pico() });
  const calls = node("pico").as(piPico);
  const info = await waitFor("the disk is there", () => calls.bootloader_info());
  assert.equal(info["Board-ID"], "RPI-RP2");
  const flashing = node("pico").lendSource(source(uf2(Buffer.alloc(2_000))), (handle) => calls.flash(handle));
  await assert.rejects(flashing, { message: /its boot loader has ignored it/ });
  nothingIsMounted();
  await lab.unplug("deaf");
});
