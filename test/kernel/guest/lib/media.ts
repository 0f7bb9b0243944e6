/** Media that lie, fail and dawdle: device mapper targets over a loop device. */
import type { TestContext } from "node:test";
import { loopDisk, type LoopDisk } from "../../../sim/loop.ts";
import { exec, modprobe } from "./system.ts";

export interface MappedMedium {
  /** `/dev/dm-0` */
  readonly path: string;
  readonly disk: LoopDisk;
  /** Makes it another one while it is open. */
  load(target: Target): Promise<void>;
}

/**
 * Lines of a table (Documentation/admin-guide/device-mapper), made for a disk of so many sectors.
 * @param device the loop device
 */
export type Target = (device: string, sectors: number) => string;

export const linear: Target = (device, sectors) => `0 ${sectors} linear ${device} 0`;

/** dm-flakey that is always down: what it does is done to every request. */
export const flakey =
  (...features: readonly (string | number)[]): Target =>
  (device, sectors) =>
    `0 ${sectors} flakey ${device} 0 0 60 ${features.length} ${features.join(" ")}`;

/** Some sectors cannot be read or written. */
export const badSectors =
  (first: number, count: number): Target =>
  (device, sectors) =>
    [
      `0 ${first} linear ${device} 0`,
      `${first} ${count} error`,
      `${first + count} ${sectors - first - count} linear ${device} ${first + count}`,
    ].join("\n");

/** Each write takes so long. */
export const slow =
  (writeMs: number): Target =>
  (device, sectors) =>
    `0 ${sectors} delay ${device} 0 0 ${device} 0 ${writeMs}`;

let lastName = 0;

export async function loadMapper(): Promise<void> {
  for (const module of ["loop", "dm_mod", "dm_flakey", "dm_delay"]) await modprobe(module);
}

export async function mappedMedium(t: TestContext, target: Target, sizeBytes = 8 * 2 ** 20): Promise<MappedMedium> {
  const disk = loopDisk(t, { sizeBytes });
  const name = `medium${process.pid}-${++lastName}`;
  const table = (target: Target) => ["--table", target(disk.path, sizeBytes / 512)];
  await exec("dmsetup", "create", "--noudevsync", name, ...table(target));
  t.after(() => exec("dmsetup", "remove", "--noudevsync", "--retry", name));
  // Without udev nobody makes /dev/mapper/NAME.
  const minor = await exec("dmsetup", "info", "--columns", "--noheadings", "--options", "minor", name);
  return {
    path: `/dev/dm-${minor.trim()}`,
    disk,
    async load(target) {
      await exec("dmsetup", "load", name, ...table(target));
      await exec("dmsetup", "resume", "--noudevsync", name);
    },
  };
}
