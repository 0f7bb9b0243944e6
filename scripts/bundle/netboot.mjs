// Makes a folder from which machines netboot to a shell: through U-Boot (aarch64, x86_64), iPXE, PXE and UEFI.
// usage: node scripts/bundle/netboot.mjs DIRECTORY
import { copyFileSync, mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { initramfs } from "./initramfs.mjs";
import { ingredients } from "./make.mjs";

/** Of Debian's package `ipxe`: for a BIOS, and for UEFI. */
const programs = ["ipxe.pxe", "snponly.efi"];

const script = `#!ipxe
kernel amd64/vmlinuz initrd=initramfs.gz console=ttyS0 quiet panic=5
initrd amd64/initramfs.gz
boot
`;

/** Downloads kernels and busybox once. */
export function makeNetbootFolder(directory) {
  const systems = { arm64: { image: "Image", console: "ttyAMA0" }, amd64: { image: "vmlinuz", console: "ttyS0" } };
  for (const [architecture, names] of Object.entries(systems)) {
    const { kernel, busybox, image } = ingredients(architecture);
    const folder = join(directory, architecture);
    mkdirSync(folder, { recursive: true });
    writeFileSync(join(folder, names.image), image);
    const ramdisk = initramfs({ busybox, kernel, hostname: "netbooted", console: names.console });
    writeFileSync(join(folder, "initramfs.gz"), ramdisk);
  }
  for (const program of programs) copyFileSync(join("/usr/lib/ipxe", program), join(directory, program));
  writeFileSync(join(directory, "boot.ipxe"), script);
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const [directory] = process.argv.slice(2);
  if (directory === undefined) throw new Error("usage: node scripts/bundle/netboot.mjs DIRECTORY");
  makeNetbootFolder(directory);
  console.log(directory);
}
