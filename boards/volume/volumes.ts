import { mkdtemp, open, readFile, realpath, rmdir } from "node:fs/promises";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import type { Cancellable } from "../../agent/driver/driver.ts";
import { AgentError } from "../../agent/driver/errors.ts";
import { englishEnvironment, lastWords, runProgram } from "../../agent/sys/program.ts";
import { entriesOf, numberAttribute } from "../../agent/sys/sysfs.ts";
import { describeUsb, listUsbDevices, nodesBelow, type UsbDevice } from "../../agent/sys/usb-devices.ts";
import { matchDevices, type Fingerprint, type Wanted } from "../usb/match.ts";
import { fatLabel, fatRoot, parseMounts } from "./protocol.ts";

/** A file system with few files, which a board pretends to have on a USB disk: what is written there is flashed. */
export interface VolumeKind {
  readonly prints: readonly Fingerprint[];
  /** Knows it by what lies in its root directory, or by the name of the folder. */
  readonly marks: (folder: string) => Promise<boolean>;
}

export interface Volume {
  /** `/dev/sda1` */
  readonly device: string;
  /** Where somebody has mounted it; undefined if nobody has. */
  readonly folder: string | undefined;
  /** What it belongs to, where a table of fingerprints knows that. */
  readonly usb: UsbDevice | undefined;
  /** For people. */
  readonly text: string;
}

const mountTimeoutMs = 20_000;
const settleMs = 300;
const classBlock = "/sys/class/block";

/**
 * Every volume of a kind: the mounted ones by what they hold, the others by their USB device.
 * @param wanted none of other devices, if a serial number or path is named
 */
export async function listVolumes({ prints, marks }: VolumeKind, wanted: Wanted = {}): Promise<Volume[]> {
  const named = typeof wanted.serial === "string" || typeof wanted.path === "string";
  const disks = await disksOf(prints, wanted);
  const owners = new Map(disks.flatMap(({ usb, nodes }) => nodes.map((node) => [node, usb] as const)));
  const mounted = new Map<string, Volume>();
  const taken = new Set<string>();
  for (const { device, folder } of await mountedDevices()) {
    // A device that has gone leaves its mount behind, with names that the kernel remembers.
    if (((await numberAttribute(classBlock, device, "size")) ?? 0) === 0) continue;
    taken.add(device);
    const usb = owners.get(device);
    if (named && usb === undefined) continue;
    if (!(await marks(folder))) continue;
    // One that is mounted twice is still one.
    mounted.set(device, { device: `/dev/${device}`, folder, usb, text: folder });
  }
  const free: Volume[] = [];
  for (const { usb, nodes } of disks) {
    // The first partition, or a disk without any.
    const node = nodes[1] ?? nodes[0];
    if (node === undefined || nodes.some((one) => taken.has(one))) continue;
    if ((await numberAttribute(classBlock, node, "size")) === 0) continue;
    free.push({ device: `/dev/${node}`, folder: undefined, usb, text: `/dev/${node} (${describeUsb(usb)})` });
  }
  return [...mounted.values(), ...free].sort((a, b) => (a.text < b.text ? -1 : 1));
}

/** Folders on which something lies that is a device: network file systems, which may hang, are left alone. */
export async function mountedDevices(): Promise<{ readonly device: string; readonly folder: string }[]> {
  const mounts = parseMounts(await readFile("/proc/self/mounts", "utf8"));
  return Promise.all(
    mounts
      .filter(({ source }) => source.startsWith("/dev/"))
      .map(async ({ source, folder }) => ({ device: basename(await realpath(source).catch(() => source)), folder })),
  );
}

/** Disks of the USB devices of a kind; the disk itself is the first of its nodes, its partitions follow. */
async function disksOf(prints: readonly Fingerprint[], wanted: Wanted) {
  const matches = matchDevices(await listUsbDevices(), prints, wanted);
  const found = await Promise.all(
    matches.map(async ({ device: usb }) => {
      const names = await nodesBelow(usb, "block");
      return Promise.all(names.map(async (disk) => ({ usb, nodes: [disk, ...(await partitionsOf(disk))] })));
    }),
  );
  return found.flat();
}

const partitionsOf = async (disk: string) =>
  (await entriesOf(classBlock, disk)).filter((name) => name.startsWith(disk));

/**
 * What the volume calls itself, without mounting it.
 * @returns undefined if it cannot be read, or is not FAT12 or FAT16
 */
export async function labelOf({ device }: Volume): Promise<string | undefined> {
  try {
    const file = await open(device, "r");
    try {
      const root = fatRoot((await file.read(Buffer.alloc(512), 0, 512, 0)).buffer);
      if (root === undefined) return undefined;
      const { buffer, bytesRead } = await file.read(Buffer.alloc(root.bytes), 0, root.bytes, root.offset);
      return fatLabel(buffer.subarray(0, bytesRead));
    } finally {
      await file.close();
    }
  } catch {
    return undefined;
  }
}

/**
 * Does something in the root directory of a volume; one that nobody has mounted is mounted for as long at a place of our own.
 * @throws AgentError E_IO if it cannot be mounted; what `use` throws
 */
export async function inVolume<T>(
  { device, folder }: Volume,
  { signal }: Cancellable,
  use: (folder: string) => Promise<T>,
): Promise<T> {
  if (folder !== undefined) return use(folder);
  const own = await mkdtemp(join(tmpdir(), "jmp-volume-"));
  try {
    await mount(device, own, signal).catch(async () => {
      // One that was plugged in a moment ago may not have had its partitions yet.
      await sleep(settleMs, undefined, { signal });
      const [partition] = await partitionsOf(basename(device));
      await mount(partition === undefined ? device : `/dev/${partition}`, own, signal);
    });
    try {
      return await use(own);
    } finally {
      await unmount(own);
    }
  } finally {
    await rmdir(own).catch(() => {}); // a volume that cannot be unmounted
  }
}

async function mount(device: string, folder: string, signal: AbortSignal): Promise<void> {
  const args = ["-t", "vfat", "-o", "nosuid,nodev,noexec,umask=0077", device, folder];
  const { code, stderr } = await runProgram(["mount", ...args], {
    env: englishEnvironment(),
    timeoutMs: mountTimeoutMs,
    signal,
  });
  if (code === 0) return;
  const hint = "mount it on the exporter's host, or let the agent run as root";
  throw new AgentError("E_IO", `${device} cannot be mounted${lastWords(stderr, ": ")}`, { hint });
}

/** Also after a call that was cancelled. A board that has gone leaves a mount that only a lazy unmount ends. */
async function unmount(folder: string): Promise<void> {
  const run = (...options: string[]) =>
    runProgram(["umount", ...options, folder], {
      env: englishEnvironment(),
      timeoutMs: mountTimeoutMs,
      signal: AbortSignal.timeout(2 * mountTimeoutMs),
    }).catch(() => ({ code: -1 }));
  if ((await run()).code !== 0) await run("--lazy");
}
