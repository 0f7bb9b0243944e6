// The Debian packages of the appliance, kept as an archive of their own, from which images are made without a network.
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { cacheDirectory, privateApt } from "../bundle/debian.mjs";

const release = "trixie";

/** Installed, with all they depend on. */
export const installed = {
  both: [
    ...["systemd", "systemd-sysv", "systemd-resolved", "systemd-timesyncd", "udev", "dbus", "kmod", "login", "passwd"],
    ...["ca-certificates", "tzdata", "openssh-server", "iproute2", "iputils-ping", "nftables", "wpasupplicant"],
    ...["wireless-regdb", "e2fsprogs", "dosfstools", "fdisk", "zstd", "xz-utils", "bzip2", "procps", "usbutils"],
    "tcpdump",
  ],
  amd64: [],
  // The radio of a Raspberry Pi.
  arm64: ["firmware-brcm80211"],
};

/** Unpacked only: what boots the machine, before there is a system. The kernel's own package wants to make an initramfs. */
const unpacked = {
  amd64: ["busybox-static", "grub-efi-amd64-signed", "shim-signed"],
  arm64: ["busybox-static", "grub-efi-arm64-signed", "u-boot-rpi", "raspi-firmware"],
};

/**
 * Brings the packages, once; what is there needs no network.
 * @param architecture amd64 or arm64
 * @returns folder: the archive; published: when Debian last changed, in seconds since 1970
 */
export function debianArchive(architecture, { offline = false } = {}) {
  const wanted = [release, ...installed.both, ...installed[architecture], ...unpacked[architecture]].join();
  const name = `image-packages-${architecture}-${createHash("sha256").update(wanted).digest("hex").slice(0, 12)}`;
  const folder = join(cacheDirectory(), name);
  if (!existsSync(folder)) {
    if (offline) throw new Error(`${folder} is not there yet`);
    const half = `${folder}.${process.pid}`;
    try {
      bring(half, architecture);
      renameSync(half, folder);
    } catch (error) {
      if (!existsSync(folder)) throw error;
    } finally {
      rmSync(half, { recursive: true, force: true });
    }
  }
  return { folder, published: Number(readFileSync(join(folder, "published"), "utf8")) };
}

function bring(folder, architecture) {
  mkdirSync(folder, { recursive: true });
  const state = join(folder, "apt");
  const components = "main non-free-firmware";
  const apt = privateApt(state, { architecture, release, components, updates: true });
  const [kernel] = apt.dependencies(`linux-image-${architecture}`);
  apt.downloadWithDependencies([...installed.both, ...installed[architecture]]);
  const archives = apt.download([kernel, ...unpacked[architecture]]);
  writeFileSync(join(folder, "published"), `${apt.published()}\n`);
  const files = readdirSync(archives)
    .filter((name) => name.endsWith(".deb"))
    .sort();
  for (const file of files) renameSync(join(archives, file), join(folder, file));
  rmSync(state, { recursive: true });
  // apt has checked what they are by Debian's signatures; from here on it is this list that says it.
  writeFileSync(join(folder, "Packages"), files.map((file) => entry(folder, file)).join("\n"));
}

/** One package as an archive's index has it. */
function entry(folder, file) {
  const path = join(folder, file);
  const control = execFileSync("dpkg-deb", ["-f", path], { encoding: "utf8" });
  const digest = createHash("sha256").update(readFileSync(path)).digest("hex");
  return `${control.trimEnd()}\nFilename: ./${file}\nSize: ${statSync(path).size}\nSHA256: ${digest}\n`;
}

/** The package with this name, or the first one whose name begins so when it ends in `*`, as the folder it is unpacked in. */
export function unpack(archive, name, folder) {
  const prefix = name.endsWith("*") ? name.slice(0, -1) : `${name}_`;
  const file = readdirSync(archive).find((file) => file.startsWith(prefix));
  if (file === undefined) throw new Error(`the packages of the image have no ${name}`);
  execFileSync("dpkg-deb", ["-x", join(archive, file), folder]);
  return folder;
}
