import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { TestContext } from "node:test";
import { scratch } from "./agent.ts";

/** Why there are no loop devices, or false. */
export const missingLoops: string | false =
  process.getuid?.() !== 0
    ? "loop devices need root"
    : existsSync("/dev/loop-control")
      ? false
      : "this kernel has no loop devices";

export interface LoopDisk {
  /** `/dev/loop3` */
  readonly path: string;
  /** The file that holds its bytes. */
  readonly backing: string;
  /** Takes the medium out: the device is then there, without a size. */
  eject(): void;
  insert(): void;
}

/** A real block device on a file. */
export function loopDisk(
  t: Pick<TestContext, "after">,
  { sizeBytes = 16 * 2 ** 20, folder = scratch(t), readOnly = false, content = Buffer.alloc(0) } = {},
): LoopDisk {
  const backing = join(folder, "medium");
  writeFileSync(backing, content);
  truncateSync(backing, sizeBytes);
  const flags = readOnly ? ["--read-only"] : ["--partscan"];
  const path = execFileSync("losetup", ["--find", "--show", ...flags, backing], { encoding: "utf8" }).trim();
  let isIn = true;
  const eject = () => {
    if (isIn) execFileSync("losetup", ["--detach", path]);
    isIn = false;
  };
  t.after(eject);
  return {
    path,
    backing,
    eject,
    insert() {
      execFileSync("losetup", [...flags, path, backing]);
      isIn = true;
    },
  };
}

/** A file system of a few megabytes that can grow: what lies on it meets its end. */
export function smallFileSystem(
  t: Pick<TestContext, "after">,
  sizeBytes: number,
): { folder: string; grow(bytes: number): void } {
  const folder = join(scratch(t), "small");
  mkdirSync(folder);
  execFileSync("mount", ["-t", "tmpfs", "-o", `size=${sizeBytes}`, "tmpfs", folder]);
  t.after(() => execFileSync("umount", ["--lazy", folder]));
  return { folder, grow: (bytes) => void execFileSync("mount", ["-o", `remount,size=${bytes}`, folder]) };
}

/** The first sector of a disk with one partition that begins at 1 MiB. */
export function onePartition(sectors: number): Buffer {
  const sector = Buffer.alloc(512);
  sector.set([0, 0, 2, 0, 0x83, 0, 0, 0], 446);
  sector.writeUInt32LE(2048, 454);
  sector.writeUInt32LE(sectors, 458);
  sector.set([0x55, 0xaa], 510);
  return sector;
}
