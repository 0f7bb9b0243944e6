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

interface Speed {
  readonly writeBytesPerSecond: number;
  readonly readBytesPerSecond: number;
}

/** A quick eMMC; SD cards are slower. */
const emmc: Speed = { writeBytesPerSecond: 60e6, readBytesPerSecond: 300e6 };
/** As SATA and USB 3 let it. */
const ssd: Speed = { writeBytesPerSecond: 300e6, readBytesPerSecond: 450e6 };

/**
 * Disks in memory with the speed of media that boards boot from: the kernel throttles them (control groups of version 1; left out where there
 * are none). And where the processor is the limit: the same in memory as it is, and in a file of this machine's disk.
 */
export function benchDisks(life: Cleanup, sizeBytes: number): BenchDisk[] {
  const memory = existsSync("/dev/shm") ? "/dev/shm" : tmpdir();
  const throttled = (name: string, speed: Speed): BenchDisk[] => {
    const path = loop(life, memory, sizeBytes, false);
    const prefix = throttle(life, path, speed);
    return prefix === undefined ? [] : [{ name, path, prefix }];
  };
  return [
    ...throttled("eMMC", emmc),
    ...throttled("SSD", ssd),
    { name: "memory", path: loop(life, memory, sizeBytes, false), prefix: [] },
    { name: "file", path: loop(life, "/var/tmp", sizeBytes, true), prefix: [] },
  ];
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

function throttle(life: Cleanup, path: string, speed: Speed): string[] | undefined {
  const root = "/sys/fs/cgroup/blkio";
  if (!existsSync(join(root, "blkio.throttle.write_bps_device"))) return undefined;
  const group = join(root, `jmp-bench-${process.pid}-${basename(path)}`);
  mkdirSync(group);
  life.after(() => rmdirSync(group));
  const number = readFileSync(`/sys/block/${basename(path)}/dev`, "utf8").trim();
  writeFileSync(join(group, "blkio.throttle.write_bps_device"), `${number} ${speed.writeBytesPerSecond}`);
  writeFileSync(join(group, "blkio.throttle.read_bps_device"), `${number} ${speed.readBytesPerSecond}`);
  return ["sh", "-c", `echo $$ > ${group}/cgroup.procs; exec "$@"`, "in-group"];
}
