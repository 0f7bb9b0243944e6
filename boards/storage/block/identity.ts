import { readFile, realpath } from "node:fs/promises";
import { dirname, join } from "node:path";
import type { FlashTarget } from "../../../agent/driver/receipt.ts";
import type { OpenDisk } from "./disk.ts";
import { backingFileOf, type BlockFacts } from "./facts.ts";

export interface DiskIdentity {
  readonly target: FlashTarget;
  /** Tells this medium from others as far as it says what it is; undefined if it does not. */
  readonly mediumKey: string | undefined;
}

/** What a disk says of itself. That of a card reader is the reader's: a card behind USB does not tell its own number. */
export async function identify(disk: Pick<OpenDisk, "facts" | "name" | "sizeBytes" | "path">): Promise<DiskIdentity> {
  const { facts, sizeBytes: bytes } = disk;
  if (facts === undefined) return { target: { path: disk.path, bytes }, mediumKey: undefined };
  const [cid, serial, backing] = await Promise.all([
    text(join(facts.sysfs, "device/cid")),
    serialOf(facts),
    backingFileOf(facts),
  ]);
  const name = cid ?? serial ?? backing;
  return {
    target: { path: `/dev/${facts.name}`, bytes, model: facts.model, serial, cid },
    mediumKey: name === undefined ? undefined : `${name} ${facts.sizeBytes}`,
  };
}

/** NVMe, MMC and virtio disks have it as a file, SCSI in a page of its own; of a USB disk it is that of the device. */
async function serialOf({ sysfs }: BlockFacts): Promise<string | undefined> {
  const told = (await text(join(sysfs, "device/serial"))) ?? (await text(join(sysfs, "serial")));
  if (told !== undefined) return told;
  // See SPC-4, 7.8.17: four bytes before the number.
  const page = await readFile(join(sysfs, "device/vpd_pg80")).catch(() => undefined);
  const number = page
    ?.toString("latin1", 4)
    .replace(/[^\x20-\x7e]/g, "")
    .trim();
  return number === undefined || number === "" ? usbSerialOf(sysfs) : number;
}

async function usbSerialOf(sysfs: string): Promise<string | undefined> {
  let folder = await realpath(join(sysfs, "device")).catch(() => "/");
  for (; folder !== "/"; folder = dirname(folder)) {
    if ((await text(join(folder, "idVendor"))) !== undefined) return text(join(folder, "serial"));
  }
  return undefined;
}

async function text(path: string): Promise<string | undefined> {
  const content = (await readFile(path, "utf8").catch(() => "")).trim();
  return content === "" ? undefined : content;
}
