import { execFileSync } from "node:child_process";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmdirSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import type { Cleanup } from "../tftp/cleanup.ts";

/** A disk that is measured. */
export interface BenchDisk {
  readonly name: string;
  /** `/dev/loop3` */
  readonly path: string;
  /** What a program is started with, so that its reads and writes have the speed of this disk. */
  readonly prefix: readonly string[];
}

/** Slower than most of what boards boot from is written, and faster than SD cards are. */
const card = { writeBytesPerSecond: 60e6, readBytesPerSecond: 300e6 };

/**
 * The same disk in memory, in a file of this machine's disk, and in memory with the speed of a quick eMMC: the kernel throttles it (control groups
 * of version 1; left out where there are none).
 */
export function benchDisks(life: Cleanup, sizeBytes: number): BenchDisk[] {
  const memory = loop(life, existsSync("/dev/shm") ? "/dev/shm" : tmpdir(), sizeBytes, false);
  const file = loop(life, "/var/tmp", sizeBytes, true);
  const throttled = loop(life, existsSync("/dev/shm") ? "/dev/shm" : tmpdir(), sizeBytes, false);
  const prefix = throttle(life, throttled);
  const disks = [
    { name: "memory", path: memory, prefix: [] },
    { name: "file", path: file, prefix: [] },
  ];
  return prefix === undefined ? disks : [...disks, { name: "throttled", path: throttled, prefix }];
}

function loop(life: Cleanup, parent: string, sizeBytes: number, isDirect: boolean): string {
  const folder = mkdtempSync(join(parent, "jmp-bench-storage-"));
  life.after(() => rmSync(folder, { recursive: true, force: true }));
  const backing = join(folder, "medium");
  writeFileSync(backing, "");
  truncateSync(backing, sizeBytes);
  // Otherwise the first to write also pays for the place.
  execFileSync("dd", ["if=/dev/zero", `of=${backing}`, "bs=4M", `count=${sizeBytes / 4 / 2 ** 20}`, "conv=fsync"], {
    stdio: "ignore",
  });
  const words = ["--find", "--show", `--direct-io=${isDirect ? "on" : "off"}`, backing];
  const path = execFileSync("losetup", words, { encoding: "utf8" }).trim();
  life.after(() => execFileSync("losetup", ["--detach", path]));
  return path;
}

function throttle(life: Cleanup, path: string): string[] | undefined {
  const root = "/sys/fs/cgroup/blkio";
  if (!existsSync(join(root, "blkio.throttle.write_bps_device"))) return undefined;
  const group = join(root, `jmp-bench-${process.pid}-${basename(path)}`);
  mkdirSync(group);
  life.after(() => rmdirSync(group));
  const number = readFileSync(`/sys/block/${basename(path)}/dev`, "utf8").trim();
  writeFileSync(join(group, "blkio.throttle.write_bps_device"), `${number} ${card.writeBytesPerSecond}`);
  writeFileSync(join(group, "blkio.throttle.read_bps_device"), `${number} ${card.readBytesPerSecond}`);
  return ["sh", "-c", `echo $$ > ${group}/cgroup.procs; exec "$@"`, "in-group"];
}
