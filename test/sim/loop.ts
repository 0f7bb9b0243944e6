import { execFileSync } from "node:child_process";
import {
  copyFileSync,
  existsSync,
  linkSync,
  mkdtempSync,
  renameSync,
  rmdirSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { TestContext } from "node:test";

/** Why there are no loop devices, or false. */
export const missingLoops: string | false =
  process.getuid?.() !== 0
    ? "loop devices need root"
    : existsSync("/dev/loop-control")
      ? false
      : "this kernel has no loop devices";

/** Syncing many disks of files on a real disk takes its time. */
const memory = "/dev/shm";

export interface LoopDisk {
  /** `/dev/loop3` */
  readonly path: string;
  /** The file that holds its bytes. */
  readonly backing: string;
  /** Takes the medium out: the device is then there, without a size. */
  readonly eject: () => void;
  readonly insert: () => void;
}

/** A real block device on a file. */
export function loopDisk(
  t: Pick<TestContext, "after">,
  {
    sizeBytes = 16 * 2 ** 20,
    folder = mkdtempSync(join(existsSync(memory) ? memory : tmpdir(), "jmp-agent-")),
    readOnly = false,
    blockBytes = 512,
    content = undefined as Uint8Array | undefined,
  } = {},
): LoopDisk {
  // The drive has a file of its own, as nobody else may get its number while it is empty.
  const backing = join(folder, "medium");
  const drive = join(folder, "drive");
  writeFileSync(backing, content ?? "");
  truncateSync(backing, sizeBytes);
  linkSync(backing, drive);
  const flags = ["--sector-size", String(blockBytes), readOnly ? "--read-only" : "--partscan"];
  const words = ["--find", "--show", ...flags, drive];
  const path = execFileSync("losetup", words, { encoding: "utf8" }).trim();
  const tellSize = () => execFileSync("losetup", ["--set-capacity", path]);
  let isIn = true;
  t.after(() => {
    execFileSync("losetup", ["--detach", path]);
    rmSync(folder, { recursive: true, force: true });
  });
  return {
    path,
    backing,
    eject() {
      if (!isIn) return;
      isIn = false;
      const taken = join(folder, "taken");
      copyFileSync(drive, taken);
      renameSync(taken, backing);
      truncateSync(drive, 0);
      tellSize();
    },
    insert() {
      if (isIn) return;
      isIn = true;
      copyFileSync(backing, drive);
      rmSync(backing);
      linkSync(drive, backing);
      tellSize();
    },
  };
}

/** A folder that takes a few megabytes: a disk on it has fewer than it says. */
export function smallFileSystem(t: Pick<TestContext, "after">, sizeBytes: number): string {
  return mountOn(t, "tmpfs", ["-t", "tmpfs", "-o", `size=${sizeBytes}`]);
}

/** Mounts it somewhere for the time of a test. @returns the folder */
export function mountOn(t: Pick<TestContext, "after">, source: string, options: readonly string[] = []): string {
  const folder = mkdtempSync(join(tmpdir(), "jmp-agent-"));
  execFileSync("mount", [...options, source, folder]);
  t.after(() => {
    execFileSync("umount", ["--lazy", folder]);
    rmdirSync(folder);
  });
  return folder;
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
