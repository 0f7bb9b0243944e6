import { readFile, readlink, stat } from "node:fs/promises";
import { basename, join } from "node:path";
import { AgentError } from "../../../agent/driver/errors.ts";
import {
  backingFileOf,
  describeDisk,
  deviceNumber,
  formatBytes,
  holdersOf,
  partitionsOf,
  volumeName,
  type BlockFacts,
  type KernelRoots,
} from "./facts.ts";

/** One use that the host itself makes of a disk. */
export interface DiskUse {
  /** `/dev/sda1 is mounted at /boot` */
  readonly text: string;
  /** The host runs from it: nobody may even read it. */
  readonly isSystem: boolean;
}

/** Where a host keeps itself. */
const systemFolders = /^\/(boot|usr|var|etc|home|root|opt|srv)?(\/|$)/;

/** What the host uses a disk for, its partitions and what is built on them included. */
export async function usesOf(disk: BlockFacts, roots: KernelRoots): Promise<DiskUse[]> {
  const [mounts, swaps] = await Promise.all([mountsOf(roots), swapsOf(roots)]);
  const uses: DiskUse[] = [];
  const seen = new Set<string>();
  const look = async (device: BlockFacts, because: string): Promise<void> => {
    if (seen.has(device.number)) return;
    seen.add(device.number);
    const name = `/dev/${device.name}${because}`;
    for (const { number, source, folder } of mounts) {
      if (number !== device.number && source !== device.name) continue;
      uses.push({ text: `${name} is mounted at ${folder}`, isSystem: systemFolders.test(folder) });
    }
    if (swaps.has(device.name)) uses.push({ text: `${name} is swap space`, isSystem: true });
    for (const holder of await holdersOf(device)) {
      const volume = await volumeName(holder);
      const holderName = `${holder.name}${volume === undefined ? "" : ` (${volume})`}`;
      uses.push({ text: `${name} is part of ${holderName}`, isSystem: false });
      await look(holder, `, which is built on /dev/${device.name},`);
    }
    for (const partition of await partitionsOf(device)) await look(partition, "");
  };
  await look(disk, "");
  return uses;
}

interface Mount {
  /** `8:1`; file systems of several disks have a number of their own. */
  readonly number: string;
  /** Name of the device that it was mounted from, if it was one. */
  readonly source: string | undefined;
  readonly folder: string;
}

/** See proc_pid_mountinfo(5). */
async function mountsOf({ proc }: KernelRoots): Promise<Mount[]> {
  const lines = (await readFile(join(proc, "self/mountinfo"), "utf8")).split("\n").filter((line) => line !== "");
  return Promise.all(
    lines.map(async (line) => {
      const fields = line.split(" ");
      const source = unescaped(fields[fields.indexOf("-") + 2] ?? "");
      return {
        number: fields[2] ?? "",
        source: source.startsWith("/dev/") ? basename(await followed(source)) : undefined,
        folder: unescaped(fields[4] ?? ""),
      };
    }),
  );
}

/** @returns names of devices */
async function swapsOf({ proc }: KernelRoots): Promise<Set<string>> {
  const lines = (await readFile(join(proc, "swaps"), "utf8").catch(() => "")).split("\n").slice(1);
  const sources = lines
    .map((line) => unescaped(line.split(/\s/)[0] ?? ""))
    .filter((source) => source.startsWith("/dev/"));
  return new Set(await Promise.all(sources.map(async (source) => basename(await followed(source)))));
}

/** `/dev/mapper/vg-root` is a link to `../dm-0`. */
const followed = (path: string) => readlink(path).catch(() => path);

/** Spaces and backslashes are written as octal numbers. */
const unescaped = (text: string) =>
  text.replace(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(Number.parseInt(octal, 8)));

/**
 * Keeps the host's own disks, and what is no disk, from being overwritten.
 * @param path as the configuration has it
 * @throws AgentError E_TARGET naming the disk and the reason
 */
export async function refuseToWrite(
  path: string,
  disk: BlockFacts,
  image: { readonly sizeBytes: number | undefined; readonly path?: string | undefined },
  roots: KernelRoots,
  { allowPartition = false }: { readonly allowPartition?: boolean | undefined } = {},
): Promise<void> {
  const refuse = (reason: string): never => {
    throw refused(path, disk, reason);
  };
  if (disk.isPartition && !allowPartition) refuse("it is a partition, and images are for whole disks");
  const uses = await usesOf(disk, roots);
  if (uses.length > 0) refuse(listed(uses));
  if (disk.isReadOnly) refuse("it is read-only");
  if (image.path !== undefined && (await isPartOf(image.path, disk))) refuse(`the image ${image.path} is on it`);
  if (image.sizeBytes !== undefined && image.sizeBytes > disk.sizeBytes) {
    throw tooLarge(describeDisk(path, disk), image.sizeBytes, disk.sizeBytes);
  }
}

/** An image that is the disk itself or a partition of it, or the file behind a loop device. What is mounted is in use anyway. */
async function isPartOf(imagePath: string, disk: BlockFacts): Promise<boolean> {
  const image = await stat(imagePath).catch(() => undefined);
  if (image === undefined) return false;
  if (image.isBlockDevice()) {
    const number = deviceNumber(image.rdev);
    return [disk, ...(await partitionsOf(disk))].some((device) => device.number === number);
  }
  const backing = await backingFileOf(disk);
  const file = backing === undefined ? undefined : await stat(backing).catch(() => undefined);
  return file !== undefined && file.dev === image.dev && file.ino === image.ino;
}

/** @param imageBytes undefined when it is not known how much there is to come */
export function tooLarge(disk: string, imageBytes: number | undefined, diskBytes: number): AgentError {
  if (imageBytes === undefined) {
    return refused(disk, undefined, `the image is larger than its ${diskBytes} bytes`, "written to its end");
  }
  const sizes = `${imageBytes} > ${diskBytes} bytes`;
  return refused(disk, undefined, `the image of ${formatBytes(imageBytes)} is larger than it (${sizes})`);
}

/**
 * Keeps clients from reading what the host runs from.
 * @returns other uses: what is read then may change meanwhile
 * @throws AgentError E_TARGET
 */
export async function refuseToRead(path: string, disk: BlockFacts, roots: KernelRoots): Promise<DiskUse[]> {
  const uses = await usesOf(disk, roots);
  const system = uses.filter(({ isSystem }) => isSystem);
  if (system.length > 0) throw refused(path, disk, listed(system), "read");
  return uses;
}

function listed(uses: readonly DiskUse[]): string {
  return [...new Set(uses.map(({ text }) => text))].join(", ");
}

/** @param what `read` or `written` */
export function refused(path: string, disk: BlockFacts | undefined, reason: string, what = "written"): AgentError {
  return new AgentError("E_TARGET", `${describeDisk(path, disk)} is not ${what}: ${reason}`);
}
