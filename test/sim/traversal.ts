import { execFileSync } from "node:child_process";
import { mkdir, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";

/** What lies outside: no answer may ever hold this. */
export const secret = "SECRET-that-must-not-leave";
/** What lies inside. */
export const inside = "inside";

/**
 * Fills `base` with a served folder `root` and a secret beside it, and with links and special files that try to
 * lead from one to the other.
 */
export async function buildTraversalTree(base: string): Promise<{ root: string; outside: string }> {
  const root = join(base, "root");
  const outside = join(base, "outside");
  await mkdir(join(root, "sub", "deep"), { recursive: true });
  await mkdir(join(root, "..hidden"), { recursive: true });
  await mkdir(outside);
  await mkdir(join(base, "root-twin"));
  for (const folder of [outside, base, join(base, "root-twin")]) await writeFile(join(folder, "secret"), secret);
  for (const name of ["file", "sub/file", "sub/deep/file", "..hidden/file", "file..name", "a b", "%2e%2e", "..."]) {
    await writeFile(join(root, name), inside);
  }
  const links: Record<string, string> = {
    "link-inside": "sub/file",
    "link-inside-absolute": join(root, "file"),
    "sub/link-up": "../file",
    "link-out-relative": "../outside/secret",
    "link-out-absolute": join(outside, "secret"),
    "link-out-folder": "../outside",
    "sub/link-out-folder": join(outside),
    "link-to-link": "link-out-absolute",
    "link-through-folder": "link-out-folder/secret",
    "link-twin": "../root-twin/secret",
    "link-parent": "..",
    "link-top": "/",
    "link-proc-root": `/proc/self/root${join(outside, "secret")}`,
    "link-proc-cwd": "/proc/self/cwd",
    "link-proc-environ": "/proc/self/environ",
    "link-proc-fd": "/proc/self/fd/0",
    "link-out-folder-slash": "../outside/",
    "link-etc": "/etc/passwd",
    "link-null": "/dev/null",
    "link-zero": "/dev/zero",
    "link-tty": "/dev/tty",
    "link-circle": "link-circle",
    "link-dangling": "nowhere",
    "link-out-and-in": "../root/file",
  };
  for (const [name, target] of Object.entries(links)) await symlink(target, join(root, name));
  execFileSync("mkfifo", [join(root, "fifo")]);
  return { root, outside };
}

/** Names that are inside and must be served. */
export const servedNames = [
  "file",
  "sub/file",
  "sub/deep/file",
  "..hidden/file",
  "file..name",
  "...",
  "a b",
  "./file",
  "sub/./file",
  "sub//file",
  "/file",
  "//file",
  "/sub/deep/file",
  "link-inside",
  "link-inside-absolute",
  "sub/link-up",
  "link-out-and-in",
];

/** `../outside/secret` in every spelling that some server or file system has taken for it. */
function spellings(): string[] {
  const ups = ["..", "%2e%2e", ".%2e", "%2E.", "%252e%252e", "%u002e%u002e", "%c0%ae%c0%ae", "..;", "..%00", "...."];
  const separators = ["/", "//", "/./", "\\", "%2f", "%5c", "%255c", "%c1%9c", "\u2044"];
  return ups.flatMap((up) =>
    separators.flatMap((separator) => [
      [up, "outside", "secret"].join(separator),
      ["sub", up, up, "outside", "secret"].join(separator),
    ]),
  );
}

/** Names that must be refused, one way or another, and without the secret. */
export function refusedNames(base: string): string[] {
  const up = ["..", "../", "../..", "/..", "./..", "sub/..", "sub/../..", "sub/deep/../../.."];
  const climbs = [1, 2, 3, 8, 20].flatMap((depth) => [
    `${"../".repeat(depth)}outside/secret`,
    `/${"../".repeat(depth)}etc/passwd`,
    `sub/${"../".repeat(depth + 1)}outside/secret`,
  ]);
  return [
    ...up,
    ...climbs,
    ...spellings(),
    // `..` is refused even where it would stay inside.
    "sub/../file",
    "../root/file",
    "../root-twin/secret",
    "sub/../../root/file",
    // absolute
    "/etc/passwd",
    "//etc/passwd",
    "///etc//passwd",
    join(base, "outside", "secret"),
    join(base, "root", "file"),
    "/proc/self/environ",
    "/proc/self/root/etc/passwd",
    "/proc/self/cwd/package.json",
    "/proc/1/root/etc/passwd",
    "/dev/zero",
    "/dev/stdin",
    "/dev/fd/0",
    "file:///etc/passwd",
    // dots that are none
    "..../secret",
    ".../../outside/secret",
    ". ./outside/secret",
    ".. /outside/secret",
    "..;/outside/secret",
    // other separators and encodings; these are plain names
    "..\\outside\\secret",
    "sub\\..\\..\\outside\\secret",
    "C:\\boot.ini",
    "..%2foutside%2fsecret",
    "%2e%2e/outside/secret",
    "%252e%252e%252foutside%252fsecret",
    "..%c0%afoutside%c0%afsecret",
    "..%ef%bc%8foutside/secret",
    "\u2025/outside/secret",
    "\uff0e\uff0e/outside/secret",
    "..\u2215outside\u2215secret",
    "~/secret",
    "~root/.bashrc",
    "$HOME/secret",
    "`id`",
    "file\n",
    "FILE",
    "file/",
    "file/.",
    "file/secret",
    // folders and nothing
    "/",
    ".",
    "sub",
    "sub/",
    "nowhere",
    "sub/nowhere",
    // dots and spaces at the end, streams and devices of other systems: plain names here
    "file.",
    "file ",
    "sub./file",
    "file::$DATA",
    "CON",
    "\\\\?\\C:\\secret",
    "//server/share/secret",
    // names that end up in other protocols and in logs
    "file\r\nX-Injected: 1",
    "file\tx",
    "\x1b[2Jfile",
    "\u202efile",
    "\ufefffile",
    "\ufffdfile",
    // case and form: é as one character is not e with an accent
    "Sub/file",
    "SUB/FILE",
    "fi\u0301le",
    "\uff46ile",
    // links
    "link-out-relative",
    "link-out-absolute",
    "link-out-folder/secret",
    "link-out-folder/../secret",
    "sub/link-out-folder/secret",
    "link-to-link",
    "link-through-folder",
    "link-twin",
    "link-parent/secret",
    "link-parent/outside/secret",
    "link-top/etc/passwd",
    "link-proc-root",
    "link-proc-cwd/package.json",
    "link-proc-environ",
    "link-proc-fd",
    "link-out-folder-slash/secret",
    "link-etc",
    "link-circle",
    "link-dangling",
    // devices and pipes
    "link-null",
    "link-zero",
    "link-tty",
    "fifo",
    // long
    "a".repeat(256),
    `${"a/".repeat(130)}file`,
    `${"sub/../".repeat(36)}file`,
    "a".repeat(400),
  ];
}
