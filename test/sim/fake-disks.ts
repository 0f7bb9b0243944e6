import { mkdirSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { TestContext } from "node:test";
import type { KernelRoots } from "../../boards/storage/block/facts.ts";
import { scratch } from "./agent.ts";

export interface FakeDisk {
  readonly number: string;
  readonly sectors?: number;
  readonly readOnly?: boolean;
  readonly diskSequence?: number;
  readonly model?: string;
  readonly volume?: string;
  /** Names and numbers. */
  readonly partitions?: Readonly<Record<string, string>>;
  /** What it, or a partition of it, is held by: names of other disks. */
  readonly heldBy?: Readonly<Record<string, readonly string[]>>;
}

/** /sys and /proc of a host with these disks, as far as they tell of disks and mounts. */
export function fakeKernel(
  t: Pick<TestContext, "after">,
  disks: Readonly<Record<string, FakeDisk>>,
  { mounts = [], swaps = [] }: { mounts?: readonly string[]; swaps?: readonly string[] } = {},
): KernelRoots {
  const root = scratch(t);
  const [sys, proc] = [join(root, "sys"), join(root, "proc")];
  mkdirSync(join(sys, "dev/block"), { recursive: true });
  mkdirSync(join(proc, "self"), { recursive: true });
  const folders = new Map<string, string>();
  const device = (name: string, folder: string, number: string, attributes: Record<string, string>) => {
    mkdirSync(join(folder, "holders"), { recursive: true });
    for (const [file, text] of Object.entries({ dev: number, ...attributes })) {
      mkdirSync(join(folder, file, ".."), { recursive: true });
      writeFileSync(join(folder, file), `${text}\n`);
    }
    symlinkSync(folder, join(sys, "dev/block", number));
    folders.set(name, folder);
  };
  for (const [name, disk] of Object.entries(disks)) {
    const folder = join(sys, "devices/virtual/block", name);
    device(name, folder, disk.number, {
      size: String(disk.sectors ?? 2048),
      ro: disk.readOnly === true ? "1" : "0",
      ...(disk.diskSequence === undefined ? {} : { diskseq: String(disk.diskSequence) }),
      ...(disk.model === undefined ? {} : { "device/model": disk.model }),
      ...(disk.volume === undefined ? {} : { "dm/name": disk.volume }),
    });
    for (const [partition, number] of Object.entries(disk.partitions ?? {})) {
      device(partition, join(folder, partition), number, { size: "1024", ro: "0", partition: "1" });
    }
  }
  for (const { heldBy = {} } of Object.values(disks)) {
    for (const [held, holders] of Object.entries(heldBy)) {
      for (const holder of holders) {
        symlinkSync(folders.get(holder) ?? "", join(folders.get(held) ?? "", "holders", holder));
      }
    }
  }
  writeFileSync(join(proc, "self/mountinfo"), [...mounts, ""].join("\n"));
  writeFileSync(join(proc, "swaps"), ["Filename Type Size Used Priority", ...swaps, ""].join("\n"));
  return { sys, proc };
}

/** A line of mountinfo. */
export function mountLine(number: string, folder: string, source: string, fileSystem = "ext4"): string {
  return `36 35 ${number} / ${folder} rw,noatime shared:1 - ${fileSystem} ${source} rw`;
}
