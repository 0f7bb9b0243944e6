import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { readFile } from "node:fs/promises";
import type { Duplex } from "node:stream";
import { pipeline } from "node:stream/promises";
import { setTimeout as sleep } from "node:timers/promises";
import { power } from "../../../../boards/power/interface.ts";
import { serialConsole } from "../../../../boards/serial/interface.ts";
import { opendal } from "../../../../boards/storage/interface.ts";
import { ubootConsole } from "../../../../boards/uboot/interface.ts";
import { Bootloader } from "../../../../bundles/flash/bootloader.ts";
import { ConsoleDialog } from "../../../../bundles/flash/console.ts";
import type { FlashDevices } from "../../../../bundles/flash/devices.ts";
import { flash } from "../../../../bundles/flash/flash.ts";
import { openImageSource } from "../../../../bundles/flash/image-source.ts";
import { timelineText } from "../../../../bundles/flash/receipt.ts";
import { flasher } from "../../../../bundles/flasher/interface.ts";
import { parseManifest } from "../../../../bundles/manifest.ts";
import { http } from "../../../../net/http/interface.ts";
import { tftp } from "../../../../net/tftp/interface.ts";
import type { RemoteNode } from "../../../client/node.ts";
import { AgentError } from "../../../driver/errors.ts";
import type { FlashReport } from "../../../driver/receipt.ts";
import { showSteps } from "../../flash-steps.ts";
import { command, type Commands, type Run } from "../command.ts";
import { runConsole } from "../console.ts";

/** How long a board is without power before it is switched on. */
const offMs = 2_000;

const consoleDebug = { kind: "flag", help: "Show what the board says on its console" } as const;

export const commands: Commands = {
  flash: command({
    help: `Flash image(s) to DUT

The board is netbooted into the flasher's small system, the disk is written and read back. This is the agent's own
flash over a local image file; URLs are the Python client's.

  j flasher flash image.raw.xz                      # default target of the bundle
  j flasher flash image.raw.xz --target emmc        # another target, or a device of the board
  j flasher flash -t rootfs:root.img -t boot:b.img  # partitions by label`,
    args: { file: { optional: true, help: "Local image: raw, gzip, xz, bzip2 or zstd" } },
    options: {
      target: { kind: "text", help: "Target of the bundle (e.g. 'usd', 'emmc') or a device of the board" },
      partition: { kind: "text", short: "t", many: true, help: "Flash file to partition: 'partition:filename'" },
      osImageChecksum: { kind: "text", help: "SHA256 checksum that the image file must have" },
      osImageChecksumFile: { kind: "text", help: "File containing the SHA256 checksum of the image file" },
      forceFlashBundle: { kind: "text", help: "Force use of a specific flasher OCI bundle" },
      forceExporterHttp: { kind: "flag", help: "Serve the image from the exporter; it always is" },
      retries: { kind: "integer", default: 3, help: "Number of retry attempts for flash operation" },
      method: { kind: "text", choices: ["fls", "shell"], default: "shell", help: "Method to use for flash operation" },
      powerOff: { kind: "flag", negatable: true, default: true, help: "Power off device after flashing" },
      consoleDebug,
    },
    run: async (run, options) => {
      const jobs = await plan(run.node, options);
      const checksum = options.osImageChecksum ?? (await readChecksum(options.osImageChecksumFile));
      for (const { file } of jobs) if (checksum !== undefined) await compareChecksum(file, checksum);
      if (options.forceFlashBundle !== undefined) {
        await run.node.as(flasher, { signal: run.signal }).setup_flasher_bundle(options.forceFlashBundle);
      }
      for (const [index, job] of jobs.entries()) {
        const receipt = await flashImage(run, job, {
          retries: options.retries,
          method: options.method === "fls" ? "fls" : "shell",
          // Between two partitions the board is switched off in every case.
          leavePowerOn: !options.powerOff && index === jobs.length - 1,
          consoleDebug: options.consoleDebug,
        });
        if (report(run, receipt) !== 0) return 1;
      }
      return 0;
    },
  }),
  "bootloader-shell": command({
    help: "Start a uboot/bootloader interactive console",
    options: { consoleDebug },
    run: async (run, { consoleDebug }) => await runConsole(() => bootloaderConsole(run, consoleDebug)),
  }),
};

/** Switches the board on anew and stops it in its bootloader. @returns its console, where a prompt comes next */
async function bootloaderConsole(run: Run, consoleDebug: boolean): Promise<Duplex> {
  const devices = devicesOf(run.node);
  await devices.power.off();
  await sleep(offMs, undefined, { signal: run.signal });
  const dialog = new ConsoleDialog(await devices.serial.connect(), {
    signal: run.signal,
    transcript: transcriptOf(consoleDebug),
  });
  try {
    await devices.power.on();
    await new Bootloader(dialog, await devices.uboot.get_prompt()).interrupt(run.signal);
  } finally {
    dialog.close();
  }
  const stream = await devices.serial.connect();
  stream.write("\n"); // shows the prompt
  return stream;
}

interface Job {
  readonly file: string;
  readonly target: string | undefined;
}

/** What is to be flashed where; partitions are found by their labels. */
async function plan(
  node: RemoteNode,
  { file, target, partition }: { file: string | undefined; target: string | undefined; partition: readonly string[] },
): Promise<Job[]> {
  const usage = (message: string) => new AgentError("E_USAGE", message);
  if (file !== undefined && partition.length > 0) throw usage("Cannot specify FILE argument with -t options");
  if (file !== undefined) return [{ file: local(file), target }];
  if (partition.length === 0) throw usage("Must provide either FILE argument or -t options");
  const pairs = partition.map((spec) => {
    const [, name, path] = /^([^:]+):(.+)$/s.exec(spec) ?? [];
    if (name === undefined || path === undefined) {
      throw usage(`Invalid flash spec format: '${spec}'. Expected 'partition:filename'`);
    }
    return { name, file: local(path) };
  });
  const { targets } = parseManifest(await node.as(flasher).get_flasher_manifest_yaml()).spec;
  return pairs.map(({ name, file }) => ({
    file,
    target: Object.hasOwn(targets, name) ? name : `/dev/disk/by-partlabel/${name}`,
  }));
}

function local(file: string): string {
  if (/^(https?|oci):\/\//.test(file)) {
    throw new AgentError("E_USAGE", `${file}: only local files are flashed`, {
      hint: "download it first, or use the Python client",
    });
  }
  return file;
}

async function readChecksum(path: string | undefined): Promise<string | undefined> {
  return path === undefined ? undefined : (await readFile(path, "utf8")).trim().split(/\s+/, 1)[0];
}

async function compareChecksum(file: string, wanted: string): Promise<void> {
  const hash = createHash("sha256");
  await pipeline(createReadStream(file), hash);
  const found = hash.digest("hex");
  if (found === wanted.toLowerCase()) return;
  throw new AgentError("E_INVALID", `${file} has sha256 ${found}, not ${wanted}`);
}

async function flashImage(
  run: Run,
  { file, target }: Job,
  given: { retries: number; method: "fls" | "shell"; leavePowerOn: boolean; consoleDebug: boolean },
): Promise<FlashReport> {
  const image = await openImageSource(file, { signal: run.signal });
  try {
    return await flash(devicesOf(run.node), {
      image,
      target,
      driver: run.node.path,
      method: given.method,
      leavePowerOn: given.leavePowerOn,
      retries: given.retries,
      signal: run.signal,
      transcript: transcriptOf(given.consoleDebug),
      ...(run.quiet ? {} : { events: showSteps() }),
    });
  } finally {
    await image.close();
  }
}

function report(run: Run, { steps, failure, target, image }: FlashReport): number {
  if (!run.quiet) run.note(timelineText(steps).trimEnd());
  if (failure !== undefined) {
    run.note(`Error: ${failure.step}: ${failure.message}`);
    return 1;
  }
  const { bytes = 0, sha256 = "" } = image.content ?? {};
  run.print(`${target?.path ?? ""} holds the image: ${bytes} bytes read back, sha256 ${sha256}`);
  return 0;
}

function transcriptOf(wanted: boolean): ((chunk: Buffer) => void) | undefined {
  return wanted ? (chunk) => void process.stderr.write(chunk) : undefined;
}

/** The parts of a flasher, behind its session. Without a signal: they are also needed to clean up. */
function devicesOf(node: RemoteNode): FlashDevices {
  const part = (path: string): RemoteNode => {
    const found = node.find(path);
    if (found === undefined) throw new AgentError("E_CONFIG", `${node.path} has no ${path}`);
    return found;
  };
  const httpFiles = part("http.storage");
  return {
    flasher: node.as(flasher),
    power: part("power").as(power),
    serial: part("serial").as(serialConsole),
    uboot: part("uboot").as(ubootConsole),
    tftp: part("tftp").as(tftp),
    tftpFiles: part("tftp.storage").as(opendal),
    http: part("http").as(http),
    httpFiles: httpFiles.as(opendal),
    lend: (source, use) => httpFiles.lendSource(source, use),
  };
}
