import { mkdir, stat } from "node:fs/promises";
import { dirname, join } from "node:path";
import { startBootService, type BootDhcp, type BootServiceOptions } from "../../net/boot-service.ts";
import { architectures, type Architecture } from "../../net/dhcp/boot-choice.ts";
import { parseMac } from "../../net/neighbours.ts";
import type { RunningTransfer } from "../driver/shown.ts";
import { openUploads } from "../../net/uploads.ts";
import { AgentError, isSystemError } from "../driver/errors.ts";
import { LogBus } from "../driver/log.ts";
import { stateDirectory } from "../sys/state-directory.ts";
import { defineCommand, type Given, type Options } from "./command.ts";
import { loadMetrics, operationsOptions, readOperations, startOperations } from "./operations.ts";
import { levelOf, startProcessLog } from "./process-log.ts";
import { startService } from "./service.ts";
import { listenForStop } from "./signals.ts";
import { TransferScreen } from "./transfer-screen.ts";
import { version } from "./version.ts";

const group = "DHCP";

const options = {
  root: { type: "string", value: "DIR", help: "folder that boards may read" },
  interface: { type: "string", value: "IF", help: "network interface of the boards; only it is listened on" },
  host: { type: "string", value: "ADDRESS", multiple: true, help: "listen on these (those of IF, or all)" },
  "tftp-port": { type: "string", value: "PORT", help: "(69)" },
  "http-port": { type: "string", value: "PORT", help: "or `none` (8080)" },
  "window-limit": { type: "string", value: "N", help: "largest TFTP window; U-Boot's virtio-net hangs at 32 (16)" },
  uploads: { type: "string", value: "DIR", help: "boards may put new files here: TFTP put, HTTP PUT /uploads/NAME" },
  "upload-limit": { type: "string", value: "MIB", help: "largest upload (64)" },
  dhcp: { type: "boolean", help: "give addresses; for a network that has no other DHCP server", group },
  "proxy-dhcp": { type: "boolean", help: "tell PXE and HTTP Boot clients what to boot, beside a DHCP server", group },
  boot: {
    type: "string",
    value: "[ARCH=]FILE",
    multiple: true,
    help: "what boards boot, or those of one architecture",
    group,
  },
  ipxe: { type: "string", value: "FILE", help: "script or URL for boards that run iPXE already", group },
  board: { type: "string", value: "MAC=FILE", multiple: true, help: "what this board boots, whatever it is", group },
  reserve: { type: "string", value: "MAC=ADDRESS", multiple: true, help: "the address of this board", group },
  range: { type: "string", value: "FIRST-LAST", help: "addresses to give (all of the network)", group },
  router: { type: "string", value: "ADDRESS", help: "default router of the boards (none)", group },
  dns: { type: "string", value: "ADDRESS", multiple: true, help: "name servers of the boards (none)", group },
  ...operationsOptions,
  "lease-file": { type: "string", value: "PATH", help: "where leases are kept (in the state directory)", group },
} as const satisfies Options;

export const boot = defineCommand({
  name: "boot",
  summary: "Serve boot files to boards: TFTP, HTTP and, if asked, DHCP; without exporter or controller.",
  options,
  notes: `
Architectures: ${Object.keys(architectures).join(", ")}.
UEFI HTTP Boot and iPXE get FILE by its URL on this server. Files outside DIR are never served.

Examples:
  jmp-agent boot --root /srv/tftp
  jmp-agent boot --root /srv/tftp --interface eth1 --dhcp --boot u-boot.img
  jmp-agent boot --root /srv/tftp --interface eth0 --proxy-dhcp --boot bios=undionly.kpxe --boot efi-x64=snponly.efi --ipxe boot.ipxe`,

  async run(given) {
    const wanted = await readWords(given);
    const operations = await readOperations(given, process.env);
    const stop = listenForStop((exitCode) => process.exit(exitCode));
    const output = await openOutput(given);
    const log = output.logs.logger({ source: "system", logger: "boot" });
    const manager = await startService(log);
    try {
      const metrics = operations && (await loadMetrics())(version, () => []);
      const service = await startBootService({ ...wanted, log, ended: metrics?.transferred });
      let listener: Awaited<ReturnType<typeof startOperations>> | undefined;
      try {
        if (operations !== undefined && metrics !== undefined) {
          const operated = { version, metrics, exporters: () => [], console: () => undefined };
          const nothing = { receipts: undefined, audit: undefined };
          const transfers = () => service.running();
          listener = await startOperations(operations, { ...operated, ...nothing, transfers }, log);
        }
        for (const endpoint of service.endpoints) log.info(`serving ${wanted.root} at ${endpoint}`);
        output.watch(() => service.running());
        manager.follow(() => ({ text: `serving ${wanted.root}, ${service.running().length} transfers`, ready: true }));
        const { signal, exitCode } = await stop.requested;
        log.info(`${signal}: stopping`);
        manager.stopping();
        return exitCode;
      } finally {
        await listener?.close();
        await service.stop();
      }
    } finally {
      manager.close();
      output.close();
    }
  },
});

/** A person who watches gets the list of what is on its way; everything else reads the log. */
async function openOutput(given: { readonly "log-level"?: string; readonly "log-format"?: string }) {
  const logs = new LogBus(levelOf(given));
  if (process.stdout.isTTY && given["log-format"] === undefined) {
    const screen = new TransferScreen(process.stdout);
    logs.subscribe((record) => screen.line(record));
    return { logs, watch: (running: () => RunningTransfer[]) => screen.watch(running), close: () => screen.close() };
  }
  const processLog = await startProcessLog({ level: given["log-level"], format: given["log-format"] });
  processLog.follow(logs);
  return { logs, watch: () => {}, close: () => processLog.close() };
}

type BootWords = Given<typeof options>;

/** @throws AgentError E_USAGE */
async function readWords(given: BootWords): Promise<Omit<BootServiceOptions, "log">> {
  const httpPort = given["http-port"] ?? "8080";
  return {
    root: await folder(given.root),
    interface: given.interface,
    hosts: given.host ?? [],
    tftpPort: whole("--tftp-port", given["tftp-port"] ?? "69", 0, 65_535),
    httpPort: httpPort === "none" ? undefined : whole("--http-port", httpPort, 0, 65_535),
    windowLimit: whole("--window-limit", given["window-limit"] ?? "16", 1, 65_535),
    dhcp: await dhcp(given),
    uploads: await uploads(given),
  };
}

async function folder(path: string | undefined): Promise<string> {
  if (path === undefined) throw new AgentError("E_USAGE", "--root DIR is needed: the folder that boards may read");
  const found = await stat(path).catch((error: unknown) => {
    throw new AgentError("E_USAGE", `--root ${path}: ${isSystemError(error) ? error.code : String(error)}`);
  });
  if (!found.isDirectory()) throw new AgentError("E_USAGE", `--root ${path} is no folder`);
  return path;
}

async function uploads({ uploads: path, "upload-limit": limit = "64" }: BootWords) {
  if (path === undefined) return undefined;
  const opened = { folder: path, maxBytes: whole("--upload-limit", limit, 1, 1 << 20) * 1024 * 1024 };
  await openUploads(opened);
  return opened;
}

async function dhcp(given: BootWords): Promise<BootDhcp | undefined> {
  const proxy = given["proxy-dhcp"] === true;
  if (given.dhcp !== true && !proxy) {
    const idle = (["boot", "ipxe", "board", "reserve", "range", "router", "dns", "lease-file"] as const).find(
      (name) => given[name] !== undefined,
    );
    if (idle !== undefined) throw new AgentError("E_USAGE", `--${idle} means nothing without --dhcp or --proxy-dhcp`);
    return undefined;
  }
  if (given.dhcp === true && proxy) throw new AgentError("E_USAGE", "--dhcp or --proxy-dhcp, not both");
  if (given.interface === undefined) {
    throw new AgentError("E_USAGE", "DHCP is served on one interface: name it with --interface IF");
  }
  const boot = bootFiles(given);
  if (proxy && given.boot === undefined && given.board === undefined && given.ipxe === undefined)
    throw new AgentError("E_USAGE", "--proxy-dhcp needs a --boot FILE to tell");
  const [first, last, ...rest] = given.range?.split("-") ?? [];
  if (given.range !== undefined && (first === undefined || last === undefined || rest.length > 0)) {
    throw new AgentError("E_USAGE", "--range must be FIRST-LAST, such as 10.0.0.100-10.0.0.200");
  }
  return {
    mode: proxy ? "proxy" : "server",
    boot,
    ...(first === undefined || last === undefined ? {} : { pool: { first, last } }),
    ...(given.router === undefined ? {} : { router: given.router }),
    dns: [...(given.dns ?? [])],
    reservations: byMac("--reserve", given.reserve, (address) => ({ address })),
    ...(proxy ? {} : { leaseFile: await leaseFile(given["lease-file"], given.interface) }),
  };
}

function bootFiles({ boot = [], ipxe, board }: BootWords): BootDhcp["boot"] {
  let file: string | undefined;
  const ofArchitecture: Partial<Record<Architecture, string>> = {};
  for (const word of boot) {
    const [, name, own] = /^([a-z0-9-]+)=(.+)$/.exec(word) ?? [];
    if (name === undefined || own === undefined) {
      if (file !== undefined) throw new AgentError("E_USAGE", `two files for every board: ${file} and ${word}`);
      file = word;
    } else if (Object.hasOwn(architectures, name)) {
      ofArchitecture[name as Architecture] = own;
    } else {
      throw new AgentError("E_USAGE", `--boot ${word}: there is no architecture ${name}`, {
        hint: `one of ${Object.keys(architectures).join(", ")}`,
      });
    }
  }
  const boards = byMac("--board", board, (file) => ({ file }));
  return { file, ipxe, architectures: ofArchitecture, boards };
}

function byMac<T>(option: string, words: readonly string[] = [], read: (value: string) => T): Record<string, T> {
  const entries = words.map((word) => {
    const [, mac = "", value = ""] = /^([^=]*)=(.+)$/.exec(word) ?? [];
    const parsed = parseMac(mac);
    if (parsed !== undefined) return [parsed, read(value)] as const;
    throw new AgentError("E_USAGE", `${option} ${word}: MAC=… is needed, such as 02:00:00:00:00:07=…`);
  });
  return Object.fromEntries(entries);
}

async function leaseFile(given: string | undefined, device: string): Promise<string> {
  const path = given ?? join(stateDirectory(), `dhcp-${device}.json`);
  await mkdir(dirname(path), { recursive: true });
  return path;
}

function whole(option: string, text: string, least: number, most: number): number {
  const value = /^\d{1,10}$/.test(text) ? Number(text) : NaN;
  if (value >= least && value <= most) return value;
  throw new AgentError("E_USAGE", `${option} must be a whole number from ${least} to ${most}`);
}
