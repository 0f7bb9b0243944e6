/** A fresh Debian to install things in. The smallest that has apt, as mmdebstrap makes it; it is kept outside the repository. */
import { execFile, spawn, type ChildProcess, type SpawnOptions } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, renameSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { TestContext } from "node:test";
import { promisify } from "node:util";
import { cacheDirectory, keyring, ownMirror } from "../../scripts/bundle/debian.mjs";
import { missingPrograms } from "../../scripts/programs.mjs";

const missing = missingPrograms(["mmdebstrap", "unshare", "tar", "dpkg-deb"]);

/** Why there is none, for `skip`. */
export const noChroot =
  process.getuid?.() !== 0 ? "needs root" : missing.length > 0 ? `needs ${missing.join(", ")}` : false;

export interface DebianChroot {
  readonly root: string;
  /** Runs a program in there to its end. @returns what it printed. Rejects with that if it fails */
  run(...words: [string, ...string[]]): Promise<string>;
  /** Starts one, with a /proc of its own; all that it starts ends with it at SIGKILL, and with the test. */
  spawn(words: readonly [string, ...string[]], options?: SpawnOptions): ChildProcess;
  /** The paths of all that lies on its disk, sorted. */
  files(): string[];
}

export interface ChrootOptions {
  /** Debian's name of it; that of this machine unless given. Others need qemu-user's binfmt entries. */
  readonly architecture?: string;
  /** Packages that it has beside the smallest ones. */
  readonly include?: readonly string[];
}

/** Unpacks a Debian; it goes with the test. The first one of a kind is downloaded. */
export async function debianChroot(
  t: Pick<TestContext, "after">,
  release: "bookworm" | "trixie",
  { architecture = "amd64", include = [] }: ChrootOptions = {},
): Promise<DebianChroot> {
  const archive = await archiveOf(release, architecture, include);
  const root = mkdtempSync(join(tmpdir(), "jmp-agent-debian-"));
  t.after(() => rmSync(root, { recursive: true, force: true }));
  await promisify(execFile)("tar", ["-xpf", archive, "-C", root, "--numeric-owner"]);

  // The mount is seen by these processes only. They end with the first of them, the shell, which keeps the signal that it
  // gets at our end: one that changes its user loses it.
  const inside = (words: readonly string[]) =>
    ["--mount", "--pid", "--fork", "--kill-child", `--mount-proc=${root}/proc`, "sh", "-c"].concat(
      ['chroot "$0" "$@"; exit $?', root],
      words,
    );
  const env = {
    PATH: "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    LC_ALL: "C.UTF-8",
    DEBIAN_FRONTEND: "noninteractive",
  };
  const proxies = Object.entries(process.env).filter(([name]) => /^https?_proxy$/i.test(name));
  const environment = { ...Object.fromEntries(proxies), ...env };
  return {
    root,
    async run(...words) {
      const options = { env: environment, maxBuffer: 2 ** 26 };
      return await promisify(execFile)("unshare", inside(words), options).then(
        ({ stdout, stderr }) => stdout + stderr,
        (error: Error & { stdout?: string; stderr?: string }) => {
          throw new Error(`${words.join(" ")}: ${error.message}\n${error.stdout}${error.stderr}`, { cause: error });
        },
      );
    },
    spawn(words, options = {}) {
      const child = spawn("unshare", inside(words), { env: environment, ...options });
      t.after(() => child.kill("SIGKILL"));
      return child;
    },
    files: () => walk(root, ["proc", "sys", "dev", "run"]),
  };
}

async function archiveOf(release: string, architecture: string, include: readonly string[]): Promise<string> {
  const kind = [release, architecture, "minbase", ...include].join("-");
  const archive = join(cacheDirectory(), "chroots", `${kind}.tar`);
  if (existsSync(archive)) return archive;
  mkdirSync(join(cacheDirectory(), "chroots"), { recursive: true });
  const half = `${archive}.${process.pid}.tar`;
  const words = ["--variant=minbase", "--mode=root", `--architectures=${architecture}`];
  const more = include.length > 0 ? [`--include=${include.join(",")}`] : [];
  const source = `deb [signed-by=${keyring}] ${ownMirror()} ${release} main`;
  try {
    await promisify(execFile)("mmdebstrap", [...words, ...more, release, half, source], { maxBuffer: 2 ** 26 });
    renameSync(half, archive);
  } finally {
    rmSync(half, { force: true });
  }
  return archive;
}

function walk(root: string, without: readonly string[]): string[] {
  const found: string[] = [];
  const enter = (folder: string) => {
    for (const entry of readdirSync(join(root, folder), { withFileTypes: true })) {
      const path = join(folder, entry.name);
      if (without.includes(path)) continue;
      found.push(`/${path}`);
      if (entry.isDirectory()) enter(path);
    }
  };
  enter("");
  return found.sort();
}
