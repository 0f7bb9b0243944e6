// The read-only root of the appliance, as a squashfs image, and the kernel and initramfs that start it.
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { chmodSync, cpSync, existsSync, mkdirSync, readFileSync, readdirSync, renameSync } from "node:fs";
import { rmSync, symlinkSync, utimesSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { cacheDirectory } from "../bundle/debian.mjs";
import { stateUuid } from "./disk.mjs";
import { initramfs } from "./initramfs.mjs";
import { installed, unpack } from "./packages.mjs";

/** Nobody reads them there. */
const leftOut = ["doc", "man", "info", "locale", "lintian", "bug", "bash-completion", "zsh"].map(
  (name) => `path-exclude=/usr/share/${name}/*`,
);

/** What Debian starts that has no work here, or would write. */
const masked = [
  ...["e2scrub_all.timer", "e2scrub_reap.service", "fstrim.timer", "dpkg-db-backup.timer", "systemd-logind.service"],
  // The agent asks for its controller until there is a network.
  "systemd-networkd-wait-online.service",
  ...["systemd-pstore.service", "systemd-networkd-persistent-storage.service", "sshd-keygen.service"],
];

const enabled = [
  ...["systemd-networkd.service", "systemd-resolved.service", "systemd-timesyncd.service", "ssh.service"],
  ...["systemd-time-wait-sync.service", "jumpstarter-appliance.service", "jumpstarter-ssh-keys.service"],
  ...["jumpstarter-agent.service", "jumpstarter-agent-confirm.service"],
];

/**
 * @param archive of debianArchive; @param version what the system calls itself
 * @returns paths of `root` (squashfs), `vmlinuz` and `initrd` in `work`, and `kernel` (its version)
 */
export function makeRoot({ archive, published, architecture, version, work }) {
  const root = join(work, "root");
  mkdirSync(root);
  execFileSync("tar", ["-xpf", baseOf(archive, published, architecture), "-C", root, "--numeric-owner"]);
  const kernel = unpack(archive, "linux-image-*", join(work, "kernel"));
  const [release] = readdirSync(join(kernel, "usr/lib/modules"));
  cpSync(join(kernel, "usr/lib/modules", release), join(root, "usr/lib/modules", release), { recursive: true });
  run("/usr/sbin/depmod", "-b", root, release);

  installAgent(root, architecture, work);
  cpSync("image/root", root, { recursive: true });
  const prepare = join(root, "usr/lib/jumpstarter-appliance/prepare-state");
  writeFileSync(prepare, readFileSync(prepare, "utf8").replace("@STATE_UUID@", stateUuid));
  describe(root, architecture, version);
  enable(root);
  clean(root, published);

  const image = join(work, "root.squashfs");
  const times = ["-all-time", String(published), "-mkfs-time", String(published)];
  run("mksquashfs", root, image, "-noappend", "-no-progress", "-comp", "zstd", "-Xcompression-level", "9", ...times);
  const [vmlinuz, initrd] = [join(work, "vmlinuz"), join(work, "initrd")];
  cpSync(join(kernel, "boot", `vmlinuz-${release}`), vmlinuz);
  const busybox = unpack(archive, "busybox-static", join(work, "busybox"));
  const init = readFileSync("image/init");
  writeFileSync(initrd, initramfs({ kernel, busybox, init, architecture, version: release, work }));
  return { root: image, vmlinuz, initrd, kernel: release, unpackedKernel: kernel };
}

/** The agent's package, without what installing it would start. */
function installAgent(root, architecture, work) {
  run(process.execPath, "packaging/deb.mjs", architecture, "--out", work, "--compression", "0");
  const [file] = readdirSync(work).filter((name) => /^jumpstarter-agent_.*\.deb$/.test(name));
  run("dpkg-deb", "-x", join(work, file), root);
}

/** The Debian system alone, made once for each state of its packages. */
function baseOf(archive, published, architecture) {
  const packages = [...installed.both, ...installed[architecture]].join();
  const options = [
    ...["--variant=essential", `--architectures=${architecture}`, `--include=${packages}`, "--format=tar"],
    ...leftOut.map((option) => `--dpkgopt=${option}`),
  ];
  const recipe = createHash("sha256")
    .update(JSON.stringify([options, readFileSync(join(archive, "Packages"), "utf8")]))
    .digest("hex");
  const base = join(cacheDirectory(), `image-base-${architecture}-${recipe.slice(0, 12)}.tar`);
  if (existsSync(base)) return base;
  const half = `${base}.${process.pid}`;
  // Installed by root, or in a user namespace.
  run("mmdebstrap", ...options, "", half, `deb [trusted=yes] copy:${archive} ./`, {
    env: { ...process.env, SOURCE_DATE_EPOCH: String(published) },
  });
  renameSync(half, base);
  return base;
}

/** os-release(5): what updates must be made for. */
function describe(root, architecture, version) {
  const path = join(root, "usr/lib/os-release");
  const lines = [
    'PRETTY_NAME="Jumpstarter appliance (Debian 13)"',
    `IMAGE_ID=jumpstarter-appliance`,
    `IMAGE_VERSION=${version}`,
  ];
  const kept = readFileSync(path, "utf8").replace(/^PRETTY_NAME=.*\n/m, "");
  writeFileSync(path, `${kept}${lines.join("\n")}\n`);
}

function enable(root) {
  run("systemd-sysusers", `--root=${root}`);
  run("systemctl", `--root=${root}`, "--quiet", "mask", ...masked);
  const there = enabled.filter((unit) => existsSync(join(root, "usr/lib/systemd/system", unit)));
  run("systemctl", `--root=${root}`, "--quiet", "enable", ...there);
  run("systemctl", `--root=${root}`, "--quiet", "set-default", "multi-user.target");
}

/** What is of this machine or of this minute goes; what the system expects to find comes. */
function clean(root, published) {
  const gone = [
    ...["etc/hostname", "etc/resolv.conf", "var/lib/dbus/machine-id", "var/log", "var/cache", "var/lib/apt", "boot"],
    ...["etc/passwd-", "etc/group-", "etc/shadow-", "etc/gshadow-", "etc/subuid-", "etc/subgid-", "run", "tmp"],
    ...["var/lib/dpkg/status-old", "var/lib/dpkg/diversions-old", "var/lib/dpkg/statoverride-old", "dev", ".dockerenv"],
    ...["etc/ssh/ssh_host_ed25519_key", "etc/ssh/ssh_host_rsa_key", "etc/ssh/ssh_host_ecdsa_key"].flatMap((key) => [
      key,
      `${key}.pub`,
    ]),
    ...["var/lib/systemd/catalog/database", "var/lib/systemd/random-seed"],
  ];
  for (const path of gone) rmSync(join(root, path), { recursive: true, force: true });
  for (const folder of ["boot", "state", "var/log", "var/cache", "run", "tmp", "dev", "proc", "sys"]) {
    mkdirSync(join(root, folder), { recursive: true });
  }
  chmodSync(join(root, "tmp"), 0o1777);
  writeFileSync(join(root, "etc/machine-id"), "");
  symlinkSync("../run/systemd/resolve/stub-resolv.conf", join(root, "etc/resolv.conf"));
  for (const folder of ["jumpstarter-agent", "jumpstarter-agent-boot"]) mkdirSync(join(root, "var/lib", folder));
  mkdirSync(join(root, "var/cache/jumpstarter-agent"));
  // Nothing has to be brought up to date at a start. The clock is never before this file.
  for (const path of ["etc/.updated", "var/.updated", "usr/lib/clock-epoch"]) {
    writeFileSync(join(root, path), "");
    utimesSync(join(root, path), published, published);
  }
}

function run(program, ...words) {
  const options = typeof words.at(-1) === "object" ? words.pop() : {};
  try {
    execFileSync(program, words, { stdio: ["ignore", "pipe", "pipe"], maxBuffer: 2 ** 26, ...options });
  } catch (error) {
    throw new Error(`${program} failed:\n${String(error.stderr ?? error.message).slice(-4096)}`, { cause: error });
  }
}
