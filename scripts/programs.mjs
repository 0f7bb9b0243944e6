// The programs that tests and the demo use beside Node, and the Debian packages that hold them.
import { spawnSync } from "node:child_process";
import { accessSync, constants, existsSync } from "node:fs";
import { delimiter, join } from "node:path";

const libraries = `/usr/lib/${process.arch === "arm64" ? "aarch64" : "x86_64"}-linux-gnu`;

/** program or file -> Debian package */
const packages = {
  "qemu-system-aarch64": "qemu-system-arm",
  "qemu-system-x86_64": "qemu-system-x86",
  "qemu-img": "qemu-utils",
  "qemu-io": "qemu-utils",
  "/usr/lib/u-boot/qemu_arm64/u-boot.bin": "u-boot-qemu",
  "/usr/share/OVMF/OVMF_CODE_4M.fd": "ovmf",
  "/usr/share/AAVMF/AAVMF_CODE.fd": "qemu-efi-aarch64",
  // With these, programs of the other architecture run as if they were this machine's.
  "arch-test": "arch-test",
  "qemu-aarch64-static": "qemu-user-static",
  "update-binfmts": "binfmt-support",
  "/usr/lib/ipxe/qemu/efi-virtio.rom": "ipxe-qemu",
  "/usr/lib/ipxe/ipxe.pxe": "ipxe",
  "docker-registry": "docker-registry",
  h2load: "nghttp2-client",
  skopeo: "skopeo",
  xz: "xz-utils",
  bzip2: "bzip2",
  zstd: "zstd",
  bmaptool: "bmap-tools",
  img2simg: "android-sdk-libsparse-utils",
  simg2img: "android-sdk-libsparse-utils",
  tftp: "tftp-hpa",
  atftp: "atftp",
  curl: "curl",
  ustreamer: "ustreamer",
  wget: "wget",
  socat: "socat",
  strace: "strace",
  ip: "iproute2",
  nft: "nftables",
  tcpdump: "tcpdump",
  ethtool: "ethtool",
  dnsmasq: "dnsmasq-base",
  // What tftpd-hpa and atftpd are linked with, which are themselves unpacked only.
  [`${libraries}/libwrap.so.0`]: "libwrap0",
  busybox: "busybox",
  zsh: "zsh",
  fish: "fish",
  mandoc: "mandoc",
  dhclient: "isc-dhcp-client",
  cpio: "cpio",
  modprobe: "kmod",
  candump: "can-utils",
  i2cset: "i2c-tools",
  isotpsend: "can-utils",
  fastboot: "fastboot",
  openssl: "openssl",
  cc: "gcc",
  "/usr/include/stdio.h": "libc6-dev",
  python3: "python3-venv",
  mkfs: "e2fsprogs",
  losetup: "mount",
  pgrep: "procps",
  snmpd: "snmpd",
  mosquitto: "mosquitto",
  // With the file that a test of running as a sudoer replaces.
  sudo: "sudo",
  dmsetup: "dmsetup",
  "systemd-nspawn": "systemd-container",
  "x86_64-linux-gnu-strip": "binutils-x86-64-linux-gnu",
  "aarch64-linux-gnu-strip": "binutils-aarch64-linux-gnu",
  "/usr/sbin/sshd": "openssh-server",
  ssh: "openssh-client",
  scp: "openssh-client",
  sftp: "openssh-client",
  "ssh-keygen": "openssh-client",
  sshfs: "sshfs",
  "dbus-daemon": "dbus-daemon",
  busctl: "systemd",
  "systemd-analyze": "systemd",
  "dbus-send": "dbus-bin",
  adb: "adb",
  mmdebstrap: "mmdebstrap",
  mksquashfs: "squashfs-tools",
  unsquashfs: "squashfs-tools",
  "/usr/sbin/sfdisk": "fdisk",
  mcopy: "mtools",
  "grub-editenv": "grub-common",
  "/usr/lib/grub/x86_64-efi/monolithic/grubx64.efi": "grub-efi-amd64-bin",
  "/usr/sbin/mkfs.vfat": "dosfstools",
  "/usr/bin/chromium": "chromium",
  promtool: "prometheus",
  "iscsi-ls": "libiscsi-bin",
  "iscsi-inq": "libiscsi-bin",
};

function present(program) {
  if (program.startsWith("/")) return existsSync(program);
  return [...(process.env.PATH ?? "").split(delimiter), "/usr/sbin", "/sbin"].some((directory) => {
    try {
      accessSync(join(directory, program), constants.X_OK);
      return true;
    } catch {
      return false;
    }
  });
}

/** Programs that are not on this machine. */
export function missingPrograms(programs = Object.keys(packages)) {
  return programs.filter((program) => !present(program));
}

/** The Debian packages of these programs. */
export function debianPackages(programs) {
  return [...new Set(programs.map((program) => packages[program] ?? program))];
}

/**
 * Installs missing programs where this may be done (root on Debian); else prints the line that does it.
 * @returns true when nothing is missing any more
 */
export function installPrograms(programs = Object.keys(packages)) {
  const missing = missingPrograms(programs);
  if (missing.length === 0) return true;
  const words = ["install", "-y", "--no-install-recommends", ...debianPackages(missing)];
  if (process.getuid?.() !== 0 || missingPrograms(["apt-get"]).length > 0) {
    console.error(`missing: ${missing.join(", ")}. To have them:\n  sudo apt-get ${words.join(" ")}`);
    return false;
  }
  const env = { ...process.env, DEBIAN_FRONTEND: "noninteractive" };
  spawnSync("apt-get", ["update", "-q"], { stdio: "inherit", env });
  spawnSync("apt-get", words, { stdio: "inherit", env });
  return missingPrograms(programs).length === 0;
}
