import { readFile, stat, type FileHandle } from "node:fs/promises";
import { basename, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import * as z from "zod";
import { defineDriver, type Call, type Finding } from "../../agent/driver/driver.ts";
import { AgentError, DeviceOffline, isSystemError, toAgentError } from "../../agent/driver/errors.ts";
import { unsupported } from "../../agent/driver/interface.ts";
import * as lax from "../../agent/driver/lax.ts";
import { fileChunks } from "../../agent/stream/files.ts";
import { Turns } from "../power/turns.ts";
import { suggestUsb } from "../usb/find.ts";
import type { Fingerprint } from "../usb/match.ts";
import { copyInto, requireFileName, staged } from "../volume/copy.ts";
import { keyValues } from "../volume/protocol.ts";
import { inVolume, labelOf, listVolumes, mountedDevices, type Volume, type VolumeKind } from "../volume/volumes.ts";
import { stlinkMsd } from "./interface.ts";
import { extensionOf, firmwareExtensions, IntelHexCheck } from "./protocol.ts";

const vendorId = 0x0483;
/** ST-LINK/V2-1 and V3 in their shapes with a disk (libusb table of the open stlink tools, st-link.rules). */
const products: readonly (readonly [number, string])[] = [
  [0x374b, "ST-LINK/V2-1"],
  [0x374a, "ST-LINK/V2-1"],
  [0x3742, "ST-LINK/V2-1"],
  [0x3752, "ST-LINK/V2-1"],
  [0x374e, "STLINK-V3"],
  [0x374f, "STLINK-V3"],
  [0x3753, "STLINK-V3"],
  [0x3754, "STLINK-V3"],
];
const prints: readonly Fingerprint[] = products.map(([productId, name]) => ({ name, vendorId, productId }));

const isFile = async (path: string) => (await stat(path).catch(() => undefined))?.isFile() === true;

const kind: VolumeKind = {
  prints,
  async marks(folder) {
    if (/^(NOD_|DIS_|NUCLEO)/i.test(basename(folder))) return true;
    return (await isFile(join(folder, "MBED.HTM"))) || (await isFile(join(folder, "DETAILS.TXT")));
  },
};

const none =
  "No ST-LINK mass storage volume found. Check that the board is connected and the ST-LINK USB drive is mounted.";

/** A board that has programmed its target plugs its disk out and in. */
const returnTimeoutMs = 10_000;
const lookEveryMs = 100;
/** A board that restarts before the copy is complete gets it once more. */
const attempts = 2;
/** FAIL.TXT says one line. */
const longestReason = 500;

const config = z.strictObject({
  volume_name: z
    .string()
    .min(1)
    .nullish()
    .describe("name of the volume, which is that of the folder it is mounted on (case does not matter)"),
  serial: z.string().nullish().describe("serial number of the ST-LINK, where there are several"),
  path: z.string().nullish().describe("where it is plugged in: 1-1.2"),
  verify_seconds: lax
    .number()
    .pipe(z.number().min(0).max(60))
    .prefault(3)
    .describe("how long the ST-LINK may take to say in FAIL.TXT that it could not program the target"),
});
type Config = z.output<typeof config>;

export default defineDriver({
  types: ["jumpstarter_driver_stlink_msd.driver.StlinkMsdFlasher"],
  summary:
    "Flashes STM32 Nucleo and Discovery boards by copying firmware to the ST-LINK's disk, mounting it if nobody has.",
  implements: stlinkMsd,
  config,
  needs: () => ({ rights: ["disk", "mount"] }),
  async inspect(configured): Promise<Finding[]> {
    try {
      const { text, device } = await findVolume(configured);
      return [{ ok: true, text: `ST-LINK volume at ${text}`, nodes: [device] }];
    } catch (error) {
      return [{ ok: false, text: toAgentError(error).message }];
    }
  },
  suggest: () =>
    suggestUsb(prints, (_match, wanted) => [
      {
        name: "flasher",
        entry: { type: "jumpstarter_driver_stlink_msd.driver.StlinkMsdFlasher", config: { ...wanted } },
      },
    ]),
  open({ config: configured, log, ...context }) {
    const turns = context.sharedOnHost("stlink volumes", () => new Turns());
    return {
      methods: {
        async info(call) {
          const volume = await findVolume(configured);
          return inVolume(volume, call, async (folder) => {
            const text = await readFile(join(folder, "DETAILS.TXT"), "utf8").catch(() => "");
            return { ...keyValues(text), mount_point: volume.folder ?? volume.device };
          });
        },
        async flash(call, source, target) {
          await findVolume(configured);
          const name = target || "firmware.bin";
          const extension = extensionOf(name);
          if (!firmwareExtensions.includes(extension)) throw unsupportedFormat(extension || name);
          requireFileName(name);
          await staged(call, source, async (image, bytes) => {
            if (extension === ".hex") await checkHex(image, name);
            await turns.take(call.signal, async () => {
              for (let attempt = 1; ; attempt += 1) {
                const volume = await findVolume(configured);
                log.info(`copying ${name} (${bytes} bytes) to ${volume.text}`);
                const copied = await inVolume(volume, call, async (folder) => {
                  const old = await failureIn(folder);
                  return { old, error: await goesAway(copyInto(folder, name, image, bytes, call)) };
                });
                await requireProgrammed(call, configured, volume, copied.old);
                if (copied.error === undefined) break;
                // It may have had everything, but nobody knows.
                const { message } = toAgentError(copied.error);
                if (attempt === attempts)
                  throw new AgentError("E_IO", `the ST-LINK went away during the copy: ${message}`);
                log.warn(`the ST-LINK went away during the copy, which is done once more: ${message}`);
              }
            });
          });
          log.info(`${name} is programmed`);
        },
        dump: unsupported(
          "Reading flash via ST-LINK mass storage is not supported. Use probe-rs or STM32CubeProgrammer for flash readback.",
        ),
      },
    };
  },
});

/** @throws AgentError E_IO in the words of the Python driver if there is none, or several */
async function findVolume({ volume_name: name, ...wanted }: Config): Promise<Volume> {
  const volumes = await listVolumes(kind, wanted);
  if (typeof name === "string") {
    const isMeant = (text: string | undefined) => text?.toUpperCase() === name.toUpperCase();
    for (const volume of volumes) {
      if (isMeant(volume.folder === undefined ? await labelOf(volume) : basename(volume.folder))) return volume;
    }
    // By its name alone, whatever lies in it.
    const named = (await mountedDevices()).find(({ folder }) => isMeant(basename(folder)));
    if (named !== undefined) {
      return { device: `/dev/${named.device}`, folder: named.folder, usb: undefined, text: named.folder };
    }
  }
  const [only, second] = volumes;
  if (only === undefined) throw new AgentError("E_IO", none);
  const there = volumes.map(({ text }) => text).join(", ");
  if (typeof name === "string") {
    throw new AgentError("E_IO", `ST-LINK volume '${name}' not found. Available: ${there}`);
  }
  if (second === undefined) return only;
  throw new AgentError(
    "E_IO",
    `Multiple ST-LINK volumes found: ${there}. Set 'volume_name' in the config to select one.`,
  );
}

function unsupportedFormat(format: string): AgentError {
  return new AgentError(
    "E_INVALID",
    `Unsupported firmware format '${format}'. ST-LINK mass storage only accepts .bin or .hex files. ` +
      "Convert ELF files with: arm-none-eabi-objcopy -O binary input.elf output.bin",
  );
}

/** @throws AgentError E_INVALID */
async function checkHex(image: FileHandle, name: string): Promise<void> {
  const check = new IntelHexCheck();
  try {
    for await (const chunk of fileChunks(image)) check.add(chunk.toString("latin1"));
    check.end();
  } catch (error) {
    throw new AgentError("E_INVALID", `${name} is not Intel HEX: ${toAgentError(error).message}`);
  }
}

/**
 * Waits for the ST-LINK's word: it plugs its disk out and in when it is done, and puts FAIL.TXT there if it could not program the target.
 * @param old what was there before the copy: of an earlier flash
 * @throws AgentError E_FAILED with what FAIL.TXT says; DeviceOffline if the disk does not come back
 */
async function requireProgrammed(
  { signal }: Call,
  configured: Config,
  before: Volume,
  old: Failure | undefined,
): Promise<void> {
  const now = () => performance.now();
  const settledAt = now() + configured.verify_seconds * 1000;
  const backUntil = settledAt + returnTimeoutMs;
  let current: Volume | undefined;
  for (let wasAway = false; ; await sleep(lookEveryMs, undefined, { signal })) {
    current = await findVolume(configured).catch(() => undefined);
    wasAway ||= current === undefined;
    if (current === undefined ? now() > backUntil : now() > settledAt) break;
    if (current === undefined) continue;
    if (wasAway || current.usb?.deviceNumber !== before.usb?.deviceNumber) break;
    const failure = current.folder === undefined ? undefined : await failureIn(current.folder);
    if (failure !== undefined && failure.modifiedMs !== old?.modifiedMs) break;
  }
  if (current === undefined)
    throw new DeviceOffline("the ST-LINK volume has not come back after the firmware was copied");
  const failure = await inVolume(current, { signal }, failureIn);
  if (failure !== undefined)
    throw new AgentError("E_FAILED", `the ST-LINK did not program the target: ${failure.text}`);
}

/** @returns the system's error if the device has gone meanwhile. Rejects with any other */
async function goesAway(copy: Promise<void>): Promise<Error | undefined> {
  try {
    await copy;
    return undefined;
  } catch (error) {
    if (isSystemError(error) && ["EIO", "ENODEV", "ENXIO"].includes(error.code)) return error;
    throw error;
  }
}

interface Failure {
  readonly text: string;
  readonly modifiedMs: number;
}

async function failureIn(folder: string): Promise<Failure | undefined> {
  const path = join(folder, "FAIL.TXT");
  const found = await stat(path).catch(() => undefined);
  if (found?.isFile() !== true) return undefined;
  const text = await readFile(path, "latin1").catch(() => "");
  const line = text.replace(/\s+/g, " ").trim().slice(0, longestReason);
  return { text: line || "its FAIL.TXT is empty", modifiedMs: found.mtimeMs };
}
