import { readdir, readFile, realpath } from "node:fs/promises";
import { basename, dirname, join } from "node:path";

/** Where the kernel tells of disks and mounts; tests have trees of their own. */
export interface KernelRoots {
  readonly sys: string;
  readonly proc: string;
}

export const kernelRoots: KernelRoots = { sys: "/sys", proc: "/proc" };

/** A block device as sysfs shows it. */
export interface BlockFacts {
  /** `sda`, `mmcblk0`, `sda1` */
  readonly name: string;
  /** `8:0`, as in `stat` and mountinfo. */
  readonly number: string;
  readonly sizeBytes: number;
  readonly isPartition: boolean;
  readonly isReadOnly: boolean;
  /** Of the medium; undefined before Linux 5.15. */
  readonly diskSequence: string | undefined;
  /** Vendor and model of the disk, or an SD card's name. */
  readonly model: string | undefined;
  /** Its directory. */
  readonly sysfs: string;
}

const sectorBytes = 512;

/** @param number `8:0`. @returns undefined when there is no such block device */
export async function readFacts(number: string, roots: KernelRoots = kernelRoots): Promise<BlockFacts | undefined> {
  try {
    return await factsIn(await realpath(join(roots.sys, "dev/block", number)));
  } catch {
    return undefined;
  }
}

/** @throws the system's error when it has gone */
async function factsIn(sysfs: string): Promise<BlockFacts> {
  const [number, sectors] = await Promise.all([text(sysfs, "dev"), text(sysfs, "size")]);
  const optional = (folder: string, names: string[]) =>
    Promise.all(names.map((name) => text(folder, name).catch(() => undefined)));
  const [partition, readOnly] = await optional(sysfs, ["partition", "ro"]);
  // A partition is on its disk's medium.
  const disk = partition === undefined ? sysfs : dirname(sysfs);
  const [diskSequence, vendor, model, card] = await optional(disk, [
    "diskseq",
    "device/vendor",
    "device/model",
    "device/name",
  ]);
  const words = [vendor, model ?? card].filter((word) => word !== undefined && word !== "");
  return {
    name: basename(sysfs),
    number,
    sizeBytes: Number(sectors) * sectorBytes,
    isPartition: partition !== undefined,
    isReadOnly: readOnly === "1",
    diskSequence,
    model: words.length === 0 ? undefined : words.join(" "),
    sysfs,
  };
}

/** The partitions of a disk. */
export function partitionsOf(disk: BlockFacts): Promise<BlockFacts[]> {
  return factsBelow(disk.sysfs, (name) => name.startsWith(disk.name));
}

/** What is built on a disk or partition: logical volumes, arrays, encrypted volumes. */
export function holdersOf(device: BlockFacts): Promise<BlockFacts[]> {
  return factsBelow(join(device.sysfs, "holders"), () => true);
}

async function factsBelow(folder: string, wanted: (name: string) => boolean): Promise<BlockFacts[]> {
  const names = await readdir(folder).catch(() => []);
  const found = await Promise.all(
    names.filter(wanted).map(async (name) => {
      try {
        return await factsIn(await realpath(join(folder, name)));
      } catch {
        return undefined;
      }
    }),
  );
  return found.filter((facts) => facts !== undefined);
}

/** What a device mapper volume is called: `vg-root`. */
export function volumeName(device: BlockFacts): Promise<string | undefined> {
  return text(device.sysfs, "dm/name").catch(() => undefined);
}

/** The file that holds the bytes of a loop device. */
export function backingFileOf(device: BlockFacts): Promise<string | undefined> {
  return text(device.sysfs, "loop/backing_file").catch(() => undefined);
}

/** For people: `/dev/sda (Generic SD Reader, 15.9 GB)`. */
export function describeDisk(path: string, facts: BlockFacts | undefined): string {
  if (facts === undefined) return path;
  const node = `/dev/${facts.name}`;
  const what = [facts.model, formatBytes(facts.sizeBytes)].filter((word) => word !== undefined).join(", ");
  return path === node ? `${path} (${what})` : `${path} (${node}, ${what})`;
}

export function formatBytes(bytes: number): string {
  if (bytes < 1_000_000) return `${bytes} bytes`;
  if (bytes < 1_000_000_000) return `${(bytes / 1e6).toFixed(1)} MB`;
  return `${(bytes / 1e9).toFixed(1)} GB`;
}

/** major and minor of a device number, as glibc's makedev composes it. */
export function deviceNumber(rdev: number): string {
  const value = BigInt(rdev);
  const major = ((value >> 8n) & 0xfffn) | ((value >> 32n) & 0xfffff000n);
  const minor = (value & 0xffn) | ((value >> 12n) & 0xffffff00n);
  return `${major}:${minor}`;
}

async function text(folder: string, name: string): Promise<string> {
  return (await readFile(join(folder, name), "utf8")).trim();
}
