// Makes a small flasher bundle for the VirtualBoard (arm64): Debian's cloud kernel, a busybox initramfs, QEMU's device tree.
// usage: node scripts/bundle/make.mjs DIRECTORY
import { execFileSync } from "node:child_process";
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { unpackPackages } from "./debian.mjs";
import { initramfs } from "./initramfs.mjs";

const firmware = "/usr/lib/u-boot/qemu_arm64/u-boot.bin";
/** Main memory of QEMU's virt machine starts at 0x40000000; these keep clear of U-Boot, which sits at its end. */
const address = { kernel: "0x40400000", dtb: "0x43f00000", initramfs: "0x44000000" };
export const bootargs = "console=ttyAMA0 quiet panic=5";

/**
 * Kernel and busybox, downloaded once; needs apt's sources to have the architecture, not the system.
 * @param architecture as Debian names it: arm64, amd64
 */
export function ingredients(architecture = "arm64") {
  const { kernel, busybox } = unpackPackages(
    { kernel: `linux-image-cloud-${architecture}*`, busybox: "busybox-static" },
    architecture,
  );
  const file = readdirSync(join(kernel, "boot")).find((name) => name.startsWith("vmlinuz-"));
  const image = readFileSync(join(kernel, "boot", file));
  return { kernel, busybox, image: architecture === "arm64" ? bootable(image) : image };
}

/** Writes manifest.yaml and data/ into `directory`. */
export function makeBundle(directory) {
  const { kernel, busybox, image } = ingredients();
  const ramdisk = initramfs({ busybox, kernel, hostname: "flasher" });
  const data = join(directory, "data");
  mkdirSync(data, { recursive: true });
  writeFileSync(join(data, "Image"), image);
  writeFileSync(join(data, "initramfs.gz"), ramdisk);
  // With another -bios QEMU describes other devices, and Linux dies of one that does not answer.
  execFileSync(
    "qemu-system-aarch64",
    ["-M", `virt,dumpdtb=${join(data, "virt.dtb").replaceAll(",", ",,")}`].concat([
      "-cpu",
      "cortex-a57",
      "-m",
      "1024M",
      "-nodefaults",
      "-display",
      "none",
      "-bios",
      firmware,
    ]),
    { stdio: ["ignore", "ignore", "pipe"] },
  );
  writeFileSync(join(data, "virt.dtb"), trimmed(readFileSync(join(data, "virt.dtb"))));
  const size = `0x${ramdisk.length.toString(16)}`;
  writeFileSync(
    join(directory, "manifest.yaml"),
    `apiVersion: jumpstarter.dev/v1alpha1
kind: FlashBundleManifest
metadata:
  name: virtual-board
spec:
  manufacturer: QEMU
  link: https://www.qemu.org/docs/master/system/arm/virt.html
  bootcmd: setenv bootargs ${bootargs}; booti ${address.kernel} ${address.initramfs}:${size} ${address.dtb}
  shelltype: busybox
  login:
    login_prompt: "login:"
    username: root
    prompt: "#"
  default_target: disk
  targets:
    disk: /dev/vda
  kernel:
    file: data/Image
    address: "${address.kernel}"
  initram:
    file: data/initramfs.gz
    address: "${address.initramfs}"
  dtb:
    default: virt
    address: "${address.dtb}"
    variants:
      virt:
        file: data/virt.dtb
`,
  );
}

/** Cuts off the megabyte of free space that QEMU leaves in a device tree (offsets: Devicetree Specification 5.2). */
function trimmed(dtb) {
  const field = (offset) => dtb.readUInt32BE(offset);
  const size = Math.max(field(8) + field(36), field(12) + field(32));
  dtb.writeUInt32BE(size, 4);
  return dtb.subarray(0, size);
}

/** U-Boot's booti takes the bare image ("ARMd" at offset 56, Documentation/arch/arm64/booting.rst). */
function bootable(kernel) {
  if (kernel.toString("latin1", 56, 60) === "ARMd") return kernel;
  throw new Error("the kernel package does not hold a plain arm64 Image");
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const [directory] = process.argv.slice(2);
  if (directory === undefined) throw new Error("usage: node scripts/bundle/make.mjs DIRECTORY");
  makeBundle(directory);
  console.log(directory);
}
