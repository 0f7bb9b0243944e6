// Makes a disk image that the VirtualBoard's U-Boot boots by itself: one partition with kernel, initramfs and extlinux.conf.
// usage: node scripts/bundle/disk.mjs FILE [MEBIBYTES]
import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, openSync, closeSync, ftruncateSync, rmSync, writeFileSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { initramfs } from "./initramfs.mjs";
import { bootargs, ingredients } from "./make.mjs";

const sector = 512;
const mebi = 2 ** 20;
const start = mebi;
const linuxPartition = 0x83;

/** Root is not needed: the file system is made from a folder. */
export function makeDisk(file, mebibytes = 64) {
  const folder = mkdtempSync(join(tmpdir(), "boot-disk-"));
  try {
    const { kernel, busybox, image } = ingredients();
    mkdirSync(join(folder, "extlinux"));
    writeFileSync(join(folder, "Image"), image);
    writeFileSync(join(folder, "initramfs.gz"), initramfs({ busybox, kernel, hostname: "virtual-board" }));
    writeFileSync(
      join(folder, "extlinux/extlinux.conf"),
      `default disk\nlabel disk\n  kernel /Image\n  initrd /initramfs.gz\n  append ${bootargs}\n`,
    );
    const disk = openSync(file, "w");
    ftruncateSync(disk, mebibytes * mebi);
    writeSync(disk, partitionTable((mebibytes * mebi - start) / sector), 0, sector, 0);
    closeSync(disk);
    const size = `${mebibytes * 1024 - start / 1024}k`;
    // ext2: what every U-Boot reads.
    execFileSync("mke2fs", ["-q", "-t", "ext2", "-d", folder, "-E", `offset=${start}`, file, size], {
      env: { ...process.env, PATH: `${process.env.PATH}:/usr/sbin:/sbin` },
      stdio: ["ignore", "ignore", "pipe"],
    });
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** A master boot record with one bootable Linux partition; blocks are counted, cylinders are not. */
function partitionTable(sectors) {
  const record = Buffer.alloc(sector);
  const entry = 446;
  record.writeUInt8(0x80, entry);
  record.writeUInt8(linuxPartition, entry + 4);
  record.writeUInt32LE(start / sector, entry + 8);
  record.writeUInt32LE(sectors, entry + 12);
  record.writeUInt16LE(0xaa55, 510);
  return record;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const [file, mebibytes] = process.argv.slice(2);
  if (file === undefined) throw new Error("usage: node scripts/bundle/disk.mjs FILE [MEBIBYTES]");
  makeDisk(file, mebibytes === undefined ? undefined : Number(mebibytes));
  console.log(file);
}
