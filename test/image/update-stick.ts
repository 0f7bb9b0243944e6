/** A USB stick with updates for the image, made of the image's own parts. */
import { execFileSync } from "node:child_process";
import { mkdirSync, readFileSync, rmSync, statSync } from "node:fs";
import { join } from "node:path";

/** What the updates bring. All of them but `crash` are the image's own root, which calls itself by another version. */
const changes = {
  good: "",
  /** Of a stranger. */
  forged: undefined,
  /** There is no init, so the kernel panics. */
  crash: undefined,
  /** The agent's program ends at once, whatever it is to do. */
  mute: "printf '#!/bin/sh\\nexit 1\\n' > usr/bin/jmp-agent",
  /** The agent's service never comes up; what it is waited for is cut down from ten minutes. */
  absent:
    "d=etc/systemd/system; mkdir -p $d/jumpstarter-agent.service.d $d/jumpstarter-agent-confirm.service.d; " +
    "printf '[Service]\\nExecStart=\\nExecStart=/bin/false\\n' > $d/jumpstarter-agent.service.d/test.conf; " +
    "printf '[Service]\\nExecStart=\\nExecStart=/usr/bin/jmp-agent update confirm --wait --limit 90\\n' > $d/jumpstarter-agent-confirm.service.d/test.conf",
} as const;
export type UpdateKind = keyof typeof changes;

/** @returns what each is called */
export const versionOf = (kind: UpdateKind) => `1000-${kind}`;

export const stickPrograms = ["unsquashfs", "mksquashfs", "/usr/sbin/mkfs.vfat", "mcopy"];

/**
 * @param made the folder with the image's parts
 * @returns `stick`: the stick, with `KIND.tar` for each kind; `key`: whose signatures count, in PEM
 */
export function makeUpdateStick(
  made: string,
  folder: string,
  kinds: readonly UpdateKind[],
): { stick: string; key: string } {
  mkdirSync(folder, { recursive: true });
  const jmpAgent = (...words: string[]) =>
    execFileSync(process.execPath, ["dist/jmp-agent.js", ...words], { stdio: "pipe" });
  for (const key of ["lab", "stranger"]) jmpAgent("bundle", "keygen", join(folder, key));
  const tree = join(folder, "tree");
  const archives = kinds.map((kind) => {
    const change = changes[kind];
    rmSync(tree, { recursive: true, force: true });
    if (change === undefined) {
      // Where the initramfs mounts what it has.
      for (const name of ["dev", "proc", "sys", "run", "etc", "var", "boot", "state"])
        mkdirSync(join(tree, name), { recursive: true });
    } else {
      execFileSync("unsquashfs", ["-q", "-n", "-d", tree, join(made, "root.squashfs")]);
      const release = `sed -i 's/^IMAGE_VERSION=.*/IMAGE_VERSION=${versionOf(kind)}/' usr/lib/os-release`;
      execFileSync("sh", ["-ec", `${release}\n${change}`], { cwd: tree });
    }
    const root = join(folder, "root.squashfs");
    rmSync(root, { force: true });
    const fast = ["-comp", "zstd", "-Xcompression-level", "1"];
    execFileSync("mksquashfs", [tree, root, "-noappend", "-quiet", "-no-progress", ...fast]);
    const archive = join(folder, `${kind}.tar`);
    const key = join(folder, `${kind === "forged" ? "stranger" : "lab"}.key`);
    const parts = ["--root", root, "--kernel", join(made, "vmlinuz"), "--initrd", join(made, "initrd")];
    const described = ["--version", versionOf(kind), "--arch", "amd64", "--key", key, "--output", archive];
    jmpAgent("update", "build", ...parts, ...described);
    rmSync(root);
    return archive;
  });
  rmSync(tree, { recursive: true });
  const stick = join(folder, "stick.img");
  const kibibytes = archives.reduce((sum, path) => sum + statSync(path).size / 1024, 8192);
  execFileSync("/usr/sbin/mkfs.vfat", ["-C", stick, String(Math.ceil(kibibytes))], { stdio: "pipe" });
  execFileSync("mcopy", ["-i", stick, ...archives, "::/"]);
  for (const path of archives) rmSync(path);
  return { stick, key: readFileSync(join(folder, "lab.pub"), "utf8") };
}
