import { createHash } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { AgentError, toAgentError } from "../../agent/driver/errors.ts";
import type { BootFile, FlashReport } from "../../agent/driver/receipt.ts";
import { anySignal } from "../../agent/sys/any-signal.ts";
import { parseManifest, type FlasherManifest } from "../manifest.ts";
import { Bootloader, type BoardAddress } from "./bootloader.ts";
import { ConsoleDialog } from "./console.ts";
import type { FlashDevices } from "./devices.ts";
import { DutSystem } from "./dut-system.ts";
import type { ImageSource } from "./image-source.ts";
import { stageImage, type StagedImage } from "./image.ts";
import { Timeline, type TimelineEvents } from "./timeline.ts";

/** From the boot command to the login prompt of a slow board with a large initramfs. */
const bootTimeoutMs = 180_000;
const defaultRetries = 3;
const firstBackoffMs = 1_000;
/** Failures that another attempt would only repeat, or, where a disk lies, hide. */
const finalCodes: ReadonlySet<AgentError["code"]> = new Set<AgentError["code"]>([
  "E_CANCELLED",
  "E_CONFIG",
  "E_DIGEST",
  "E_ENCODING",
  "E_INVALID",
  "E_SIGNATURE",
  "E_UNSUPPORTED",
]);

export interface FlashOptions {
  readonly image: ImageSource;
  /** Dotted path of the flasher, for the receipt. */
  readonly driver: string;
  /** The exporter's name, where it is known: what an earlier flash of it has left is removed. */
  readonly exporter?: string | undefined;
  readonly method: "shell" | "fls";
  /** A target of the manifest, a block device of the board, or `label:` and a partition's label; default: the flasher's, then the manifest's. */
  readonly target?: string | undefined;
  /** The board's address where there is no DHCP server. */
  readonly address?: BoardAddress | undefined;
  /** How long the board is without power before it is switched on. */
  readonly offMs?: number | undefined;
  readonly leavePowerOn?: boolean | undefined;
  /** How often it is begun anew from the power cycle on, after 1, 2, 4 … s. Default: 3. */
  readonly retries?: number | undefined;
  /** The first of these waits. */
  readonly backoffMs?: number | undefined;
  readonly versions?: Readonly<Record<string, string>> | undefined;
  /** Gets all that the board says. */
  readonly transcript?: ((chunk: Buffer) => void) | undefined;
  readonly events?: TimelineEvents | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** The parts of a receipt as they become known. */
type Findings = { -readonly [K in "bundle" | "target" | "readBackSha256"]?: FlashReport[K] } & {
  staged?: StagedImage | undefined;
  versions: Record<string, string>;
};

/**
 * Flashes a board by netboot: into U-Boot, over TFTP into the bundle's small system, from there the image over HTTP
 * onto the disk, and the disk read back. Leaves the board without power, whatever happens.
 * @returns a report also when a step failed; nothing is thrown
 */
export async function flash(devices: FlashDevices, options: FlashOptions): Promise<FlashReport> {
  const startedAt = new Date().toISOString();
  const timeline = new Timeline(options.events);
  const findings: Findings = { versions: { node: process.versions.node, ...options.versions } };
  const stop = new AbortController();
  const signal = options.signal === undefined ? stop.signal : anySignal([options.signal, stop.signal]);

  const staging = timeline.step("stage image", async (progress) => {
    const { image, exporter, driver } = options;
    const owner = exporter && `${exporter}/${driver}`;
    const store = { files: devices.httpFiles, lend: devices.lend.bind(devices) };
    return await stageImage(image, store, {
      signal,
      ...(owner && { owner }),
      onProgress: (bytes) => progress(bytes, image.bytes ?? bytes),
    });
  });
  // Without an image there is nothing to boot for.
  staging.catch(() => stop.abort());
  let failure: AgentError | undefined;
  try {
    await run({ devices, options, timeline, findings, staging, signal });
  } catch (thrown) {
    failure = toAgentError(thrown);
    stop.abort();
  }
  timeline.endAttempts();
  findings.staged = await staging.catch(() => undefined);
  await cleanUp(devices, options, findings.staged, timeline).catch((thrown: unknown) => {
    failure ??= toAgentError(thrown);
  });

  const { failed } = timeline;
  const error = failed?.error ?? failure;
  const { name, bytes, encoding } = options.image;
  return {
    verdict: error === undefined ? "verified" : "failed",
    ...(error && { failure: { step: failed?.step ?? "flash", code: error.code, message: error.message } }),
    startedAt,
    durationMs: timeline.elapsedMs,
    driver: options.driver,
    method: `netboot-${options.method}`,
    image: {
      name,
      ...(bytes !== undefined && { bytes }),
      encoding,
      ...(findings.staged && { sha256: findings.staged.sha256, content: findings.staged.content }),
    },
    ...(findings.bundle && { bundle: findings.bundle }),
    ...(findings.target && { target: findings.target }),
    ...(findings.readBackSha256 && { readBackSha256: findings.readBackSha256 }),
    steps: timeline.steps,
    versions: findings.versions,
  };
}

interface Run {
  readonly devices: FlashDevices;
  readonly options: FlashOptions;
  readonly timeline: Timeline;
  readonly findings: Findings;
  readonly staging: Promise<StagedImage>;
  readonly signal: AbortSignal;
}

/** The bundle and the servers are had once; from the power cycle on all may be tried again. */
async function run(flash: Run): Promise<void> {
  const { devices, options, timeline, findings, signal } = flash;
  const plan = await timeline.step("bundle", () => unlessAborted(readPlan(devices), signal));
  findings.bundle = plan.bundle;
  const servers = await timeline.step("boot servers", () => startServers(devices));
  const { retries = defaultRetries, backoffMs = firstBackoffMs } = options;
  for (let attempt = 1; ; attempt += 1) {
    timeline.beginAttempt(attempt);
    try {
      return await tryOnce(flash, plan, servers);
    } catch (thrown) {
      const { code } = timeline.failed?.error ?? toAgentError(thrown);
      if (signal.aborted || attempt > retries || finalCodes.has(code)) throw thrown;
      delete findings.target;
      delete findings.readBackSha256;
      await sleep(backoffMs * 2 ** (attempt - 1), undefined, { signal });
    }
  }
}

async function tryOnce(flash: Run, plan: BootPlan, servers: Servers): Promise<void> {
  const { devices, options, timeline, findings, staging, signal } = flash;
  const { address: fixed, transcript } = options;
  const console = await timeline.step("power cycle", async () => {
    await devices.power.off();
    await sleep(options.offMs ?? 2_000, undefined, { signal });
    const reopen = () => devices.serial.connect();
    const dialog = new ConsoleDialog(await reopen(), { transcript, signal, reopen });
    await devices.power.on();
    return dialog;
  });
  try {
    const uboot = new Bootloader(console, await devices.uboot.get_prompt());
    await timeline.step("U-Boot", async () => {
      await uboot.interrupt(signal);
      findings.versions["uboot"] = await uboot.version();
    });
    const address = await timeline.step("U-Boot network", () => uboot.network(servers, fixed));
    for (const [what, file] of plan.files) {
      await timeline.step(`load ${what}`, () => uboot.load(file.name, file.address, file.bytes));
    }
    const { login, preflash_commands } = plan.manifest.spec;
    await timeline.step("boot", () => uboot.boot(plan.bootCommand, login.login_prompt, bootTimeoutMs));

    const system = new DutSystem(console, login.prompt);
    const target = await timeline.step("log in", async () => {
      await system.login(login);
      findings.versions["linux"] = await system.version();
      const device = await system.resolveTarget(await chooseTarget(devices, plan.manifest, options.target));
      await system.prepare(preflash_commands, address);
      return device;
    });
    findings.target = await system.describe(target);
    await timeline.step("board network", () => system.network(fixed && address));
    const staged = await timeline.step("wait for image", () => staging);

    const { bytes, sha256 } = staged.content;
    await timeline.step("write", async (progress) => {
      const job = {
        url: `${servers.httpUrl}/${staged.name}`,
        encoding: staged.encoding,
        target,
        bytes,
        onProgress: (done: number) => progress(done, bytes),
      };
      if (options.method === "shell") await system.writeWithShell(job);
      else {
        await devices.flasher.setup_fls_binary();
        await system.writeWithFls(job, `${servers.httpUrl}/fls`);
      }
      progress(bytes, bytes);
    });
    await timeline.step("sync", () => system.sync());
    await timeline.step("verify", async (progress) => {
      const found = await system.sha256(target, bytes, (done) => progress(done, bytes));
      progress(bytes, bytes);
      findings.readBackSha256 = found;
      if (found === sha256) return;
      throw new AgentError("E_DIGEST", `${target} holds other data than the image: sha256 ${found}, not ${sha256}`);
    });
  } finally {
    console.close();
  }
}

/** What a bundle says is to be done, with the sizes of its files. */
interface BootPlan {
  readonly manifest: FlasherManifest;
  readonly bundle: NonNullable<FlashReport["bundle"]>;
  /** In the order in which they are loaded, by what they are. */
  readonly files: readonly (readonly [string, BootFile])[];
  readonly bootCommand: string;
}

async function readPlan({ flasher, tftpFiles }: FlashDevices): Promise<BootPlan> {
  await flasher.setup_flasher_bundle();
  const yaml = await flasher.get_flasher_manifest_yaml();
  const manifest = parseManifest(yaml);
  const { reference, digest } = await flasher.get_bundle();
  const named = [
    ["kernel", await flasher.get_kernel_filename(), await flasher.get_kernel_address()],
    ["initramfs", await flasher.get_initram_filename(), await flasher.get_initram_address()],
    ["device tree", await flasher.get_dtb_filename(), await flasher.get_dtb_address()],
  ] as const;
  const files: [string, BootFile][] = [];
  for (const [what, name, address] of named) {
    if (!name || address === null) continue;
    const { content_length: bytes } = await tftpFiles.stat(name);
    files.push([what, { name, address, bytes, sha256: await tftpFiles.hash(name) }]);
  }
  return {
    manifest,
    bundle: {
      name: manifest.metadata.name,
      reference,
      ...(digest !== null && { digest }),
      manifestSha256: createHash("sha256").update(yaml).digest("hex"),
      files: files.map(([, file]) => file),
    },
    files,
    bootCommand: await flasher.get_bootcmd(),
  };
}

interface Servers {
  readonly tftpHost: string;
  readonly tftpPort: number;
  readonly httpUrl: string;
}

async function startServers({ http, tftp }: FlashDevices): Promise<Servers> {
  await http.start();
  await tftp.start();
  return { tftpHost: await tftp.get_host(), tftpPort: await tftp.get_port(), httpUrl: await http.get_url() };
}

async function chooseTarget({ flasher }: FlashDevices, { spec }: FlasherManifest, wanted?: string): Promise<string> {
  const name = wanted ?? (await flasher.get_default_target()) ?? spec.default_target;
  const known = Object.hasOwn(spec.targets, name) ? spec.targets[name] : undefined;
  if (known !== undefined) return known;
  if (name.startsWith("/dev/") || name.startsWith("/sys/class/block#")) return name;
  if (/^label:[\w.-]+$/.test(name)) return name.replace("label:", "/dev/disk/by-partlabel/");
  const targets = Object.keys(spec.targets).join(", ");
  throw new AgentError(
    "E_INVALID",
    `the bundle has no target ${name}; it has ${targets}, or give a /dev/… path or label:NAME`,
  );
}

/** Leaves nothing behind: no power, no servers, no image. Each is tried, the first failure counts. */
async function cleanUp(
  { power, http, httpFiles, tftp }: FlashDevices,
  { leavePowerOn = false }: FlashOptions,
  staged: StagedImage | undefined,
  timeline: Timeline,
): Promise<void> {
  const done = await Promise.allSettled([
    leavePowerOn ? undefined : timeline.step("power off", () => power.off()),
    http.stop().then(() => (staged === undefined ? undefined : httpFiles.delete(staged.name))),
    tftp.stop(),
  ]);
  for (const result of done) if (result.status === "rejected") throw result.reason;
}

/** Waits for a promise that goes on without us when the signal comes. */
async function unlessAborted<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  promise.catch(() => {});
  return await Promise.race([
    promise,
    new Promise<never>((_, reject) => {
      const stop = () => reject(new AgentError("E_CANCELLED", "cancelled"));
      if (signal.aborted) stop();
      else signal.addEventListener("abort", stop, { once: true });
    }),
  ]);
}
