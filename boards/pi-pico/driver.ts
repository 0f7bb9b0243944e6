import { readFile, stat, type FileHandle } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import * as z from "zod";
import { defineDriver, type Call, type Finding } from "../../agent/driver/driver.ts";
import { AgentError, isSystemError, toAgentError } from "../../agent/driver/errors.ts";
import { unsupported } from "../../agent/driver/interface.ts";
import * as lax from "../../agent/driver/lax.ts";
import { fileChunks } from "../../agent/stream/files.ts";
import { Turns } from "../power/turns.ts";
import type { Fingerprint } from "../usb/match.ts";
import { copyInto, requireFileName, staged } from "../volume/copy.ts";
import { keyValues } from "../volume/protocol.ts";
import { inVolume, listVolumes, type Volume, type VolumeKind } from "../volume/volumes.ts";
import { requireWay, wayIntoBootloader } from "./bootloader.ts";
import { piPico } from "./interface.ts";
import { blockBytes, familyProblem, Uf2Check } from "./protocol.ts";

/** The boot ROMs (RP2040 data sheet, 2.8.4.1; RP2350 data sheet, 5.5.1). */
const prints: readonly Fingerprint[] = [
  { name: "RP2 Boot", vendorId: 0x2e8a, productId: 0x0003 },
  { name: "RP2350 Boot", vendorId: 0x2e8a, productId: 0x000f },
];

const isFile = async (path: string) => (await stat(path).catch(() => undefined))?.isFile() === true;

const kind: VolumeKind = {
  prints,
  marks: async (folder) => (await isFile(join(folder, "INFO_UF2.TXT"))) || (await isFile(join(folder, "INDEX.HTM"))),
};

/** The boot ROM restarts the board as soon as it has the last block. */
const restartTimeoutMs = 10_000;
/** A copy that failed because of it: the kernel tells that the device has gone a moment later. */
const goneTimeoutMs = 2_000;
const lookEveryMs = 100;

const seconds = (most: number) => lax.number().pipe(z.number().min(0).max(most));

const config = z.strictObject({
  bootloader_touch_baudrate: lax
    .int(50, 4_000_000)
    .prefault(1200)
    .describe("baud rate at which the firmware takes an opened port for a request"),
  bootloader_wait_seconds: seconds(120).prefault(5).describe("how long the volume may take to come"),
  gpio_reset_hold_seconds: seconds(30).prefault(0.1).describe("how long the pins are held"),
  serial: z.string().nullish().describe("serial number of the board's boot loader, where there are several"),
  path: z.string().nullish().describe("where it is plugged in: 1-1.2"),
});

export default defineDriver({
  types: ["jumpstarter_driver_pi_pico.driver.PiPicoFlasher"],
  summary: "Flashes UF2 firmware by copying it to a Pico's BOOTSEL disk, mounting it if nobody has.",
  implements: piPico,
  config,
  needs: () => ({ rights: ["disk", "mount"] }),
  async inspect(wanted): Promise<Finding[]> {
    // In normal life there is no such volume.
    const volumes = await listVolumes(kind, wanted);
    return volumes.map(({ text, device }) => ({ ok: true, text: `BOOTSEL volume at ${text}`, nodes: [device] }));
  },
  open(context) {
    const { config: configured, log } = context;
    const enter = wayIntoBootloader(context);
    const turns = context.sharedOnHost("pico volumes", () => new Turns());
    const list = () => listVolumes(kind, configured);

    const enterBootloader = async (call: Call): Promise<void> => {
      if ((await list()).length > 0) return;
      await requireWay(enter)(call);
      const deadline = performance.now() + configured.bootloader_wait_seconds * 1000;
      for (;;) {
        const volumes = await list();
        if (volumes.length > 0) return void theOnly(volumes);
        if (performance.now() > deadline) break;
        await sleep(lookEveryMs, undefined, { signal: call.signal });
      }
      throw new AgentError("E_IO", "No Pico BOOTSEL volume found after bootloader request.");
    };

    const info = (call: Call, volume: Volume) =>
      inVolume(volume, call, async (folder) =>
        keyValues(await readFile(join(folder, "INFO_UF2.TXT"), "utf8").catch(() => "")),
      );

    return {
      methods: {
        enter_bootloader: (call) => turns.take(call.signal, () => enterBootloader(call)),
        bootloader_info: async (call) => info(call, theOnly(await list())),
        async flash(call, source, target) {
          const given = target || "Firmware.uf2";
          const name = requireFileName(given.toLowerCase().endsWith(".uf2") ? given : `${given}.uf2`);
          await staged(call, source, async (image, bytes) => {
            const families = await checkUf2(image, bytes, name);
            await turns.take(call.signal, async () => {
              if (enter !== undefined) await enterBootloader(call);
              const volume = theOnly(await list());
              const problem = familyProblem((await info(call, volume))["Board-ID"], families);
              if (problem !== undefined) throw new AgentError("E_INVALID", `${name} is not flashed: ${problem}`);
              log.info(`copying ${name} (${bytes} bytes) to ${volume.text}`);
              await copyUntilItRestarts(call, volume, (folder) => copyInto(folder, name, image, bytes, call));
            });
          });
          log.info(`${name} is flashed, and the board has restarted`);
        },
        dump: unsupported(
          "Dumping flash is not supported by the Pi Pico UF2 driver. Use jumpstarter-driver-probe-rs (SWD), or picotool save.",
        ),
      },
    };

    /** The boot ROM may be faster than the end of the copy, whose last step then fails. */
    async function copyUntilItRestarts(call: Call, volume: Volume, copy: (folder: string) => Promise<void>) {
      let failure: unknown;
      try {
        await inVolume(volume, call, copy);
      } catch (error) {
        if (!isSystemError(error) || !["EIO", "ENODEV", "ENXIO", "ENOENT"].includes(error.code)) throw error;
        failure = error;
      }
      const isThere = async () =>
        (await list()).some(
          ({ device, usb }) => device === volume.device && usb?.deviceNumber === volume.usb?.deviceNumber,
        );
      const patienceMs = failure === undefined ? restartTimeoutMs : goneTimeoutMs;
      for (const deadline = performance.now() + patienceMs; await isThere();) {
        if (performance.now() > deadline) {
          if (failure !== undefined) throw toAgentError(failure);
          throw new AgentError(
            "E_FAILED",
            "the board has taken the firmware and not restarted: its boot loader has ignored it",
          );
        }
        await sleep(lookEveryMs, undefined, { signal: call.signal });
      }
    }
  },
});

/** @throws AgentError E_IO in the words of the Python driver */
function theOnly(volumes: readonly Volume[]): Volume {
  const [only, second] = volumes;
  if (only === undefined) {
    throw new AgentError("E_IO", "No Pico BOOTSEL volume found. Hold BOOTSEL while plugging USB.");
  }
  if (second === undefined) return only;
  const there = volumes.map(({ text }) => text).join(", ");
  throw new AgentError("E_IO", `Multiple Pico BOOTSEL volumes found: ${there}. Unplug extras.`);
}

/** @returns the families that it is for. @throws AgentError E_INVALID */
async function checkUf2(image: FileHandle, bytes: number, name: string): Promise<readonly (number | undefined)[]> {
  try {
    if (bytes % blockBytes !== 0) throw new Error(`its ${bytes} bytes are no whole blocks of ${blockBytes}`);
    const check = new Uf2Check();
    for await (const chunk of fileChunks(image)) check.add(chunk);
    return check.end();
  } catch (error) {
    throw new AgentError("E_INVALID", `${name} is not UF2: ${toAgentError(error).message}`);
  }
}
