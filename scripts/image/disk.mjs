// The whole disk: a GUID partition table, the FAT partition that boots, two roots, and the state. No loop device is needed.
import { execFileSync } from "node:child_process";
import { cpSync, mkdirSync, readdirSync, rmSync, statSync, truncateSync, utimesSync, writeFileSync } from "node:fs";
import { closeSync, openSync, readSync, writeSync } from "node:fs";
import { join } from "node:path";
import { unpack } from "./packages.mjs";

const mib = 2 ** 20;
const sector = 512;

/** Until the first start, when all but the image's own identity is made up: see prepare-state. */
export const stateUuid = "6a756d70-7374-6172-7465-720000000004";
const uuid = (number) => stateUuid.replace(/4$/, String(number));

/** Types as the Discoverable Partitions Specification has them; a root that nobody may mount by its type is plain data. */
const types = { esp: "C12A7328-F81F-11D2-BA4B-00A0C93EC93B", linux: "0FC63DAF-8483-4772-8E79-3D69D8477DE4" };

/** In MiB. The state takes the rest of the disk at the first start. */
const partitions = [
  { label: "esp", type: types.esp, start: 4, size: 256 },
  { label: "root-a", type: types.linux, start: 260, size: 640 },
  { label: "root-b", type: types.linux, start: 900, size: 640 },
  { label: "state", type: types.linux, start: 1540, size: 64 },
];
const diskMib = 1605;

/**
 * @param parts `root`, `vmlinuz` and `initrd` of makeRoot
 * @param output the image, with holes
 */
export function makeDisk({ parts, archive, architecture, published, work, output }) {
  rmSync(output, { force: true });
  writeFileSync(output, "");
  truncateSync(output, diskMib * mib);
  const table = [
    ...["label: gpt", `label-id: ${uuid(0)}`, "first-lba: 34", "unit: sectors", "sector-size: 512"],
    ...partitions.map(({ label, type, start, size }, index) => {
      const place = `start=${(start * mib) / sector}, size=${(size * mib) / sector}`;
      return `${place}, type=${type}, uuid=${uuid(index + 1)}, name="${label}"`;
    }),
  ];
  execFileSync("/usr/sbin/sfdisk", ["--quiet", output], {
    input: table.join("\n") + "\n",
    stdio: ["pipe", "pipe", "inherit"],
  });
  const [esp, rootA] = partitions;
  const limit = rootA.size * mib;
  if (statSync(parts.root).size > limit) throw new Error(`the root is larger than its partition of ${limit} bytes`);
  const boot = makeBoot({ parts, archive, architecture, published, work, bytes: esp.size * mib });
  place(boot, output, esp.start * mib);
  place(parts.root, output, rootA.start * mib);
  if (architecture === "arm64") addToOldTable(output, esp);
}

/** The FAT partition. Slot b is empty until the first update. */
function makeBoot({ parts, archive, architecture, published, work, bytes }) {
  const tree = join(work, "boot");
  for (const folder of ["EFI/BOOT", "EFI/debian", "grub", "slots/a", "slots/b", "exporters"]) {
    mkdirSync(join(tree, folder), { recursive: true });
  }
  const grub = unpack(archive, `grub-efi-${architecture}-signed`, join(work, "grub"));
  if (architecture === "amd64") {
    // Both are signed, so firmware with Secure Boot takes them.
    const shim = unpack(archive, "shim-signed", join(work, "shim"));
    cpSync(join(shim, "usr/lib/shim/shimx64.efi.signed"), join(tree, "EFI/BOOT/BOOTX64.EFI"));
    cpSync(join(grub, "usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed"), join(tree, "EFI/BOOT/grubx64.efi"));
  } else {
    cpSync(join(grub, "usr/lib/grub/arm64-efi-signed/grubaa64.efi.signed"), join(tree, "EFI/BOOT/BOOTAA64.EFI"));
    layRaspberryPi({ tree, archive, kernel: parts.unpackedKernel, work });
  }
  cpSync("image/grub-start.cfg", join(tree, "EFI/debian/grub.cfg"));
  cpSync("image/grub.cfg", join(tree, "grub/grub.cfg"));
  const state = "# GRUB Environment Block\nslot=a\ntrial=\ntries=\ninvalid=\n".padEnd(1024, "#");
  for (const name of ["grubenv", "grubenv.safe"]) writeFileSync(join(tree, "grub", name), state);
  for (const name of ["vmlinuz", "initrd"]) cpSync(parts[name], join(tree, "slots/a", name));
  cpSync("image/jumpstarter.yaml", join(tree, "jumpstarter.yaml"));

  const fat = join(work, "boot.fat");
  rmSync(fat, { force: true });
  writeFileSync(fat, "");
  truncateSync(fat, bytes);
  const env = { ...process.env, SOURCE_DATE_EPOCH: String(published), TZ: "UTC", MTOOLS_SKIP_CHECK: "1" };
  const options = { env, stdio: ["ignore", "pipe", "inherit"] };
  const identity = ["-F", "32", "-n", "JUMPSTART", "-i", "4A554D50", "--invariant"];
  execFileSync("/usr/sbin/mkfs.vfat", [...identity, fat], options);
  for (const path of treeOf(tree)) utimesSync(path, published, published);
  execFileSync("mcopy", ["-s", "-m", "-Q", "-i", fat, ...topOf(tree), "::/"], options);
  return fat;
}

/** What a Raspberry Pi 3 or 4 starts: its own firmware, then U-Boot, which is EFI firmware to GRUB. */
function layRaspberryPi({ tree, archive, kernel, work }) {
  const firmware = join(unpack(archive, "raspi-firmware", join(work, "raspi-firmware")), "usr/lib/raspi-firmware");
  for (const file of ["bootcode.bin", "start.elf", "fixup.dat", "start4.elf", "fixup4.dat"]) {
    cpSync(join(firmware, file), join(tree, file));
  }
  const uboot = unpack(archive, "u-boot-rpi", join(work, "u-boot"));
  cpSync(join(uboot, "usr/lib/u-boot/rpi_arm64/u-boot.bin"), join(tree, "u-boot.bin"));
  const [packages] = readdirSync(join(kernel, "usr/lib")).filter((name) => name.startsWith("linux-image-"));
  const trees = join(kernel, "usr/lib", packages, "broadcom");
  for (const file of readdirSync(trees).filter((name) => /^bcm2(711|837)-rpi-.*\.dtb$/.test(name))) {
    cpSync(join(trees, file), join(tree, file));
  }
  cpSync("image/config.txt", join(tree, "config.txt"));
}

/**
 * The boot ROM of a Raspberry Pi 3 reads no GUID partition table: the FAT partition stands in the old one, too, and first, as in the
 * tables that are known to start one. Linux and firmware go by the new one, as the old one says that it is there.
 */
function addToOldTable(disk, { start, size }) {
  const place = 446;
  const table = Buffer.alloc(32);
  table[4] = 0x0c;
  table.writeUInt32LE((start * mib) / sector, 8);
  table.writeUInt32LE((size * mib) / sector, 12);
  const file = openSync(disk, "r+");
  try {
    // The entry that says it.
    readSync(file, table, 16, 16, place);
    writeSync(file, table, 0, table.length, place);
  } finally {
    closeSync(file);
  }
}

const find = (...words) => execFileSync("find", words, { encoding: "utf8" }).trim().split("\n").sort();
const treeOf = (folder) => find(folder);
const topOf = (folder) => find(folder, "-mindepth", "1", "-maxdepth", "1");

/** Copies a file into the disk, its holes left out. */
function place(file, disk, offset) {
  const [from, to] = [openSync(file, "r"), openSync(disk, "r+")];
  const buffer = Buffer.alloc(mib);
  const empty = Buffer.alloc(mib);
  try {
    for (let at = 0, length; (length = readSync(from, buffer, 0, mib, at)) > 0; at += length) {
      const piece = buffer.subarray(0, length);
      if (!piece.equals(empty.subarray(0, length))) writeSync(to, piece, 0, length, offset + at);
    }
  } finally {
    closeSync(from);
    closeSync(to);
  }
}
