// The whole disk: a GUID partition table, the FAT partition that boots, two roots, and the state. No loop device is needed.
import { execFileSync } from "node:child_process";
import { cpSync, mkdirSync, readFileSync, rmSync, statSync, truncateSync, utimesSync, writeFileSync } from "node:fs";
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
  execFileSync("/usr/sbin/sfdisk", ["--quiet", output], { input: table.join("\n") + "\n", stdio: ["pipe", "pipe", "inherit"] });
  const [esp, rootA] = partitions;
  const limit = rootA.size * mib;
  if (statSync(parts.root).size > limit) throw new Error(`the root is larger than its partition of ${limit} bytes`);
  const boot = makeBoot({ parts, archive, architecture, published, work, bytes: esp.size * mib });
  place(boot, output, esp.start * mib);
  place(parts.root, output, rootA.start * mib);
}

const grubNames = { amd64: ["x86_64", "x64"], arm64: ["arm64", "aa64"] };

/** The FAT partition. Slot b is empty until the first update. */
function makeBoot({ parts, archive, architecture, published, work, bytes }) {
  const tree = join(work, "boot");
  for (const folder of ["EFI/BOOT", "EFI/debian", "grub", "slots/a", "slots/b", "exporters"]) {
    mkdirSync(join(tree, folder), { recursive: true });
  }
  const [platform, suffix] = grubNames[architecture];
  const grub = unpack(archive, `grub-efi-${architecture}-signed`, join(work, "grub"));
  const shim = unpack(archive, "shim-signed", join(work, "shim"));
  // Both signed as Debian's are, so firmware with Secure Boot takes them.
  cpSync(join(shim, `usr/lib/shim/shim${suffix}.efi.signed`), join(tree, `EFI/BOOT/BOOT${suffix.toUpperCase()}.EFI`));
  const signed = `usr/lib/grub/${platform}-efi-signed/grub${suffix}.efi.signed`;
  cpSync(join(grub, signed), join(tree, `EFI/BOOT/grub${suffix}.efi`));
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
