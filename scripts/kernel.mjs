// Makes the Linux that test/kernel boots: a kernel of Debian sid, the modules the tests need, and an initramfs.
// usage: node scripts/kernel.mjs        prints the folder
// It is kept outside the repository, in $XDG_CACHE_HOME/jumpstarter-agent; what is there needs no network.
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, renameSync, rmSync } from "node:fs";
import { writeFileSync } from "node:fs";
import { basename, join } from "node:path";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";
import { cpio } from "./bundle/cpio.mjs";
import { cacheDirectory, privateApt } from "./bundle/debian.mjs";
import { modulesOf } from "./bundle/initramfs.mjs";

/** sid, since no older kernel of Debian has gpio-sim. */
const release = "sid";

/** Loaded in the initramfs, to get at the host's files. */
const earlyModules = ["virtio_pci", "virtio_console", "9pnet_virtio", "9p", "overlay"];

const modules = [
  ...[
    "can",
    "can_raw",
    "can_bcm",
    "can_gw",
    "can_isotp",
    "can_j1939",
    "vcan",
    "vxcan",
    "slcan",
    "kvaser_pci",
    "gs_usb",
  ],
  ...["gpio_sim", "gpio_mpsse", "i2c_stub", "i2c_dev", "i2c_i801", "at24", "lm75", "ina2xx", "ina226", "ina238"],
  ...["xhci_pci", "ehci_pci", "uhci_hcd", "vhci_hcd", "usbmon", "dummy_hcd", "libcomposite", "usb_f_mass_storage"],
  ...["usb_f_acm", "usb_f_serial", "usb_f_hid", "usb_f_fs"],
  ...[
    "cdc_acm",
    "ftdi_sio",
    "cp210x",
    "pl2303",
    "ch341",
    "option",
    "usbserial",
    "usb_storage",
    "uas",
    "usbhid",
    "uhid",
  ],
  ...["hid_generic", "hid_mcp2221", "hid_cp2112", "hid_ft260"],
  ...["sd_mod", "sg", "scsi_debug", "sdhci_pci", "mmc_block", "nbd", "loop", "null_blk", "virtio_blk", "virtio_scsi"],
  ...["dm_mod", "dm_flakey", "dm_delay"],
  ...["target_core_mod", "target_core_file", "target_core_iblock", "iscsi_target_mod"],
  ...["ext4", "vfat", "nls_ascii", "nls_cp437", "nls_iso8859_1", "squashfs", "isofs", "udf", "fuse", "configfs"],
  ...["softdog", "i6300esb", "pps_ldisc", "uinput", "evdev", "vivid", "snd_aloop", "snd_usb_audio", "uvcvideo"],
  ...["virtio_net", "virtio_rng", "tun", "bridge", "veth", "dummy", "nf_tables", "nft_chain_nat", "nft_masq"],
  ...["cdc_ether", "cdc_ncm", "usb_f_ncm", "crc32c_generic", "libcrc32c", "vsock_loopback"],
];

/** The host's own tree with a layer over it that takes what is written; `start` comes from the test. */
const init = `#!/bin/sh
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
for module in /modules/*; do insmod $module || echo "insmod $module failed"; done
options=trans=virtio,version=9p2000.L,msize=512000
mount -t 9p -o $options,ro,cache=loose root /lower
mount -t tmpfs -o mode=755 tmpfs /upper
mkdir /upper/files /upper/work
mount -t overlay -o lowerdir=/lower,upperdir=/upper/files,workdir=/upper/work overlay /whole
for folder in proc sys dev; do mount --move /$folder /whole/$folder; done
mount -t tmpfs run /whole/run; mkdir /whole/run/vm
mount -t 9p -o $options,cache=none work /whole/run/vm
exec switch_root /whole /bin/sh /run/vm/start
`;

/** What this script would make; another one is another folder. */
const recipe = createHash("sha256")
  .update(readFileSync(fileURLToPath(import.meta.url)))
  .digest("hex")
  .slice(0, 12);

/** The folder with `vmlinux`, `initramfs` and `modules/VERSION`, or undefined when it has not been made yet. */
export function kernelDirectory() {
  if (!existsSync(cacheDirectory())) return undefined;
  const name = readdirSync(cacheDirectory()).find((name) => name.startsWith("kernel-") && name.endsWith(`-${recipe}`));
  return name === undefined ? undefined : join(cacheDirectory(), name);
}

/** Makes it, unless it is there. Two at once do not disturb each other: each makes its own, and the first one stays. */
export function installKernel() {
  const present = kernelDirectory();
  if (present !== undefined) return present;
  mkdirSync(cacheDirectory(), { recursive: true });
  const work = mkdtempSync(join(cacheDirectory(), "making-kernel-"));
  try {
    const made = join(work, "made");
    const version = makeKernel(work, made);
    const directory = join(cacheDirectory(), `kernel-${version}-${recipe}`);
    try {
      renameSync(made, directory);
    } catch (error) {
      if (!existsSync(directory)) throw error;
    }
    return directory;
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

/** @returns the kernel's version */
function makeKernel(work, made) {
  const apt = privateApt(join(work, "apt"), { architecture: "amd64", release });
  const image = apt.dependencies("linux-image-amd64").find((name) => name.startsWith("linux-image-"));
  // The image alone, or a package that only names its parts.
  const parts = apt.dependencies(image).filter((name) => /^linux-(base|binary|modules)-/.test(name));
  const unpacked = join(work, "unpacked");
  for (const name of [...(parts.length > 0 ? parts : [image]), "busybox-static"]) apt.unpack(name, unpacked);
  const tree = firstOf(unpacked, "usr/lib/modules", "lib/modules");
  const [version] = readdirSync(tree);

  mkdirSync(join(made, `modules/${version}/kernel`), { recursive: true });
  for (const { name, content } of modulesOf(unpacked, modules)) {
    writeFileSync(join(made, `modules/${version}/kernel/${name}.ko`), content);
  }
  for (const file of ["modules.builtin", "modules.builtin.modinfo", "modules.order"]) {
    cpSync(join(tree, version, file), join(made, `modules/${version}/${file}`));
  }
  // depmod looks for lib/modules below its folder.
  mkdirSync(join(work, "base/lib"), { recursive: true });
  renameSync(join(made, "modules"), join(work, "base/lib/modules"));
  execFileSync("depmod", ["-b", join(work, "base"), version], {
    env: withSbin,
    stdio: ["ignore", "ignore", "inherit"],
  });
  renameSync(join(work, "base/lib/modules"), join(made, "modules"));

  writeFileSync(join(made, "initramfs"), initramfs(unpacked));
  writeFileSync(
    join(made, "vmlinux"),
    uncompressed(readFileSync(firstOf(unpacked, `usr/lib/modules/${version}/vmlinuz`, `boot/vmlinuz-${version}`))),
  );
  return version;
}

function firstOf(folder, ...paths) {
  const found = paths.map((path) => join(folder, path)).find((path) => existsSync(path));
  if (found === undefined) throw new Error(`none of ${paths.join(", ")} is in the packages of the kernel`);
  return found;
}

const withSbin = { ...process.env, PATH: `${process.env.PATH}:/usr/sbin:/sbin` };

function initramfs(unpacked) {
  const busybox = ["bin/busybox", "usr/bin/busybox"]
    .map((path) => join(unpacked, path))
    .find((path) => existsSync(path));
  const folders = ["bin", "dev", "lower", "modules", "proc", "sys", "upper", "whole"];
  const applets = ["echo", "insmod", "mkdir", "mount", "sh", "switch_root"];
  return gzipSync(
    cpio([
      ...folders.map((path) => ({ path })),
      { path: "bin/busybox", content: readFileSync(busybox), mode: 0o755 },
      ...applets.map((applet) => ({ path: `bin/${applet}`, link: "busybox" })),
      { path: "init", content: init, mode: 0o755 },
      // In the order in which they load.
      ...modulesOf(unpacked, earlyModules).map(({ name, content }, index) => ({
        path: `modules/${String(index).padStart(2, "0")}-${name}.ko`,
        content,
      })),
    ]),
    { level: 1 },
  );
}

/**
 * The ELF image inside of a bzImage: a machine that is emulated unpacks it for a second.
 * Offsets: the kernel's Documentation/arch/x86/boot.rst, "The Real-Mode Kernel Header".
 */
function uncompressed(bzImage) {
  const setupSectors = bzImage.readUInt8(0x1f1) || 4;
  const start = (setupSectors + 1) * 512 + bzImage.readUInt32LE(0x248);
  const payload = bzImage.subarray(start, start + bzImage.readUInt32LE(0x24c));
  const packers = { "28b52ffd": ["zstd", "-dcq"], fd377a58: ["xz", "-dcq"] };
  const packer = packers[payload.toString("hex", 0, 4)];
  if (packer === undefined) return bzImage;
  // What follows the packed image is its size, which unpackers complain about after they have done their work.
  return execFileSync("sh", ["-c", `${packer.join(" ")} || true`], {
    input: payload,
    maxBuffer: 2 ** 30,
    stdio: "pipe",
  });
}

if (basename(process.argv[1] ?? "") === "kernel.mjs") console.log(installKernel());
