import { constants } from "node:fs";
import type { FileHandle } from "node:fs/promises";
import * as z from "zod";
import { defineDriver, type Call } from "../../agent/driver/driver.ts";
import { AgentError, DeviceOffline, isSystemError, toAgentError } from "../../agent/driver/errors.ts";
import * as lax from "../../agent/driver/lax.ts";
import { decoded } from "../../agent/stream/codecs.ts";
import { openNamelessFile, streamIntoFile } from "../../agent/stream/files.ts";
import { anySignal } from "../../agent/sys/any-signal.ts";
import { englishEnvironment, runProgram } from "../../agent/sys/program.ts";
import { Turns } from "../power/turns.ts";
import { ConfinedDirectory } from "../storage/store/confined.ts";
import { parsePath } from "../storage/store/path.ts";
import { fastboot, findBoard, whyNot } from "./fastboot.ts";
import { rideSX } from "./interface.ts";
import { bootToFastboot, compressionOf, isPartition, referenceProblem, type Compression } from "./protocol.ts";
import { harnessOf, runScript } from "./script.ts";

const seconds = (most = 86_400) => lax.number().pipe(z.number().positive().max(most));

/** Of both drivers. */
export const harnessConfig = {
  command_timeout: seconds(600).prefault(10).describe("how long the harness may take to acknowledge a command"),
  pause_factor: lax
    .number()
    .pipe(z.number().min(0).max(100))
    .prefault(1)
    .describe("of the pauses between commands, for boards that need longer ones"),
};

/** What the script gets of that. */
export function pace({ command_timeout, pause_factor }: { command_timeout: number; pause_factor: number }) {
  return { timeoutS: command_timeout, pauseFactor: pause_factor };
}

export default defineDriver({
  types: ["jumpstarter_driver_ridesx.driver.RideSXDriver"],
  summary: "Flashes a Qualcomm RideSX board with fastboot, led there by its test harness.",
  implements: rideSX,
  config: z.strictObject({
    decompression_timeout: seconds().prefault(900),
    flash_timeout: seconds().prefault(1_800).describe("per partition"),
    continue_timeout: seconds().prefault(1_200),
    erase_timeout: seconds().prefault(120),
    storage_dir: z.string().min(1).default("/var/lib/jumpstarter/ridesx").describe("where clients put images"),
    fls_version: z.string().nullish().describe("ignored: the fls of the host is used"),
    fls_allow_custom_binaries: lax.boolean().prefault(false).describe("ignored: nothing is downloaded to be run"),
    fls_custom_binary_url: z.string().nullish().describe("ignored: nothing is downloaded to be run"),
    fastboot_serial: z
      .string()
      .regex(/^[A-Za-z0-9][\w.:-]*$/, "must be a serial number, or tcp:HOST:PORT")
      .nullish()
      .describe("the board among several in fastboot mode; or tcp:HOST:PORT"),
    ...harnessConfig,
  }),
  requires: { serial: "'serial' instance is required" },
  children: ({ config }) => ({
    storage: {
      type: "jumpstarter_driver_opendal.driver.Opendal",
      config: { scheme: "fs", kwargs: { root: config.storage_dir }, remove_created_on_close: true },
    },
  }),
  needs: ({ storage_dir }) => ({ programs: ["fastboot"], directories: [storage_dir], rights: ["usb"] }),
  open(context) {
    const { config, log } = context;
    const { storage_dir: folder } = config;
    const scripts = harnessOf(context).turns;
    const flashes = new Turns();
    const wanted = config.fastboot_serial ?? undefined;
    if (config.fls_custom_binary_url || config.fls_version) {
      log.warn("fls_version and fls_custom_binary_url are ignored: the fls of this host is used");
    }

    const requireBoard = (device: string) => {
      if (wanted === undefined ? !/^(tcp|udp):/.test(device) : device === wanted) return;
      throw new AgentError("E_INVALID", `fastboot device ${device} is not this board's`);
    };

    /** An image of the store by its name, decompressed if its name says that it must be. */
    const image = async ({ signal, log: callLog }: Call, name: string): Promise<FileHandle> => {
      const file = await openImage(folder, name);
      const compression = compressionOf(name);
      if (compression === null) return file;
      try {
        callLog.info(`decompressing ${name}`);
        return await decompressed(
          file,
          compression,
          folder,
          anySignal([signal, AbortSignal.timeout(config.decompression_timeout * 1000)]),
        );
      } catch (error) {
        signal.throwIfAborted();
        const { code, message } = toAgentError(error);
        throw code === "E_TIMEOUT"
          ? new AgentError("E_TIMEOUT", `decompression timeout for ${name}`)
          : new AgentError("E_FAILED", `failed to decompress ${name}: ${message}`);
      } finally {
        await file.close();
      }
    };

    const flash = async (call: Call, device: string, partition: string, name: string): Promise<void> => {
      const file = await image(call, name);
      try {
        call.log.info(`Flashing ${partition}: ${name}`);
        // By its handle: nobody can put another file in its place.
        const path = `/proc/${process.pid}/fd/${file.fd}`;
        const result = await fastboot(call, ["-s", device, "flash", partition, path], config.flash_timeout);
        if (result.code !== 0) throw new AgentError("E_FAILED", `Failed to flash ${partition}: ${whyNot(result)}`);
        call.log.info(`Successfully flashed ${partition}`);
      } catch (error) {
        throw timedOut(error, `timeout while flashing ${partition}`);
      } finally {
        await file.close();
      }
    };

    return {
      methods: {
        async detect_fastboot_device(call, attempts, delayS) {
          const device = await findBoard(call, { attempts, delayS, wanted });
          return device === undefined
            ? { status: "no_device_found", device_id: null }
            : { status: "device_found", device_id: device };
        },
        async flash_with_fastboot(call, device, partitions) {
          const wants = Object.entries(partitions);
          if (wants.length === 0) throw new AgentError("E_INVALID", "At least one partition must be provided");
          requireBoard(device);
          for (const [partition, name] of wants) {
            requirePartition(partition);
            // All of them, before the first one is written.
            await (await openImage(folder, name)).close();
          }
          await flashes.take(call.signal, async () => {
            for (const [partition, name] of wants) await flash(call, device, partition, name);
            const result = await fastboot(call, ["-s", device, "continue"], config.continue_timeout);
            if (result.code !== 0) call.log.warn(`Fastboot continue failed: ${whyNot(result)}`);
          });
        },
        async flash_oci_image(call, url, partitions, username, password) {
          const problem = referenceProblem(url);
          if (problem !== undefined) throw new AgentError("E_INVALID", problem);
          if (Boolean(username) !== Boolean(password)) {
            throw new AgentError("E_INVALID", "OCI authentication requires both --username and --password");
          }
          const targets = Object.entries(partitions ?? {}).sort(([a], [b]) => (a < b ? -1 : 1));
          const args = ["fastboot", url];
          for (const [partition, name] of targets) {
            requirePartition(partition);
            if (name.trim() === "") {
              throw new AgentError(
                "E_INVALID",
                `Partition '${partition}' has an empty filename. Each partition must have a non-empty filename.`,
              );
            }
            args.push("-t", `${partition}:${name}`);
          }
          args.push("--timeout", `${Math.ceil(config.flash_timeout)}`);
          const env = username && password ? { FLS_REGISTRY_USERNAME: username, FLS_REGISTRY_PASSWORD: password } : {};
          const hide = (text: string) => (password ? text.replaceAll(password, "***") : text);
          return flashes.take(call.signal, async () => {
            call.log.info(`Running FLS fastboot: ${url}`);
            try {
              const { code, stdout, stderr } = await runProgram(["fls", ...args], {
                env: englishEnvironment(env),
                timeoutMs: config.flash_timeout * 1000,
                signal: call.signal,
                onLine: (line) => call.log.info(`FLS: ${hide(line)}`),
              });
              const output = hide(stdout.trim() === "" ? stderr : stdout);
              if (code === 0) return { status: "success", output };
              throw new AgentError("E_FAILED", `FLS fastboot failed: ${hide(stderr.trim() || stdout.trim())}`);
            } catch (error) {
              if (error instanceof DeviceOffline)
                throw new AgentError("E_FAILED", "FLS command not found", { cause: error });
              throw timedOut(error, "FLS fastboot auto-detection timeout");
            }
          });
        },
        async erase_partition(call, device, partition) {
          if (partition.trim() === "") throw new AgentError("E_INVALID", "Partition name cannot be empty");
          requireBoard(device);
          requirePartition(partition);
          return flashes.take(call.signal, async () => {
            try {
              const result = await fastboot(call, ["-s", device, "erase", partition], config.erase_timeout);
              if (result.code === 0) return { status: "success", partition, output: result.stdout };
              throw new AgentError("E_FAILED", `Failed to erase partition '${partition}': ${whyNot(result)}`);
            } catch (error) {
              throw timedOut(error, `Timeout while erasing partition '${partition}'`);
            }
          });
        },
        async boot_to_fastboot(call) {
          const serial = context.children.get("serial");
          if (serial === undefined) throw new AgentError("E_CONFIG", "'serial' instance is required");
          const script = { serial, steps: bootToFastboot, prompted: true, ...pace(config) };
          await scripts.take(call.signal, () => runScript(call, script));
          call.log.info("device should now be in fastboot mode");
        },
      },
    };
  },
});

function requirePartition(name: string): void {
  if (isPartition(name)) return;
  throw new AgentError("E_INVALID", `'${name}' is no name of a partition`);
}

/** @throws AgentError E_INVALID if the name leads out of the store; E_IO if there is no such file */
async function openImage(folder: string, name: string): Promise<FileHandle> {
  try {
    const images = await ConfinedDirectory.open(folder);
    return await images.with(parsePath(name).segments, (pinned) => pinned.openFile(constants.O_RDONLY));
  } catch (error) {
    if (!isSystemError(error) || error.code !== "ENOENT") throw error;
    throw new AgentError("E_IO", `Image not found in storage: ${name}`);
  }
}

/** @returns a file without a name, beside the images: they may be larger than what is temporary */
async function decompressed(
  file: FileHandle,
  compression: Exclude<Compression, null>,
  folder: string,
  signal: AbortSignal,
): Promise<FileHandle> {
  const plain = await openNamelessFile(folder);
  try {
    const packed = file.createReadStream({ start: 0, autoClose: false });
    const bytes = await streamIntoFile(decoded(packed, compression), plain, { signal });
    if (bytes === 0) throw new Error("output file is missing or empty");
    return plain;
  } catch (error) {
    await plain.close();
    throw error;
  }
}

/** The Python driver's words for what took too long. */
function timedOut(error: unknown, text: string): unknown {
  return toAgentError(error).code === "E_TIMEOUT" ? new AgentError("E_TIMEOUT", text, { cause: error }) : error;
}
