import { chmod, copyFile, link, mkdir, readFile, readdir, rename, rm, rmdir, writeFile } from "node:fs/promises";
import { dirname, join, relative } from "node:path";
import * as z from "zod";
import places from "../../../packaging/places.json" with { type: "json" };
import { AgentError, isSystemError } from "../../driver/errors.ts";
import type { OwnProgram } from "./program.ts";

/** Where it goes. */
export interface Place {
  /** The system's root: `/`, or the folder of an image. */
  readonly root: string;
  /** As the installed system sees it: `/usr/local`. */
  readonly prefix: string;
}

/** What an installation remembers, to be able to go. Paths are those of the installed system. */
const installedShape = z.object({
  files: z.array(z.string()),
  /** Made for them, outermost first. */
  folders: z.array(z.string()),
  /** Names of the parts that the program loads when it first needs them. */
  chunks: z.array(z.string()),
});
export type Installed = z.output<typeof installedShape>;

const binaries = ["jmp-agent", "j"];

export function programFolder({ prefix }: Pick<Place, "prefix">): string {
  return join(prefix, "lib/jumpstarter-agent");
}

/** What is installed there. @throws AgentError E_IO for a program that was put there by somebody else */
export async function readInstalled(place: Place): Promise<Installed | undefined> {
  const folder = join(place.root, programFolder(place));
  try {
    return installedShape.parse(JSON.parse(await readFile(join(folder, "installed.json"), "utf8")));
  } catch (error) {
    const isThere = await readdir(folder).then(
      () => true,
      () => false,
    );
    if (!isThere && isSystemError(error) && error.code === "ENOENT") return undefined;
    throw new AgentError("E_IO", `${folder} was not made by 'jmp-agent install'`, {
      hint: "a package may own it: remove that, or choose another --prefix",
      cause: error,
    });
  }
}

/** All files that go beside the program: where to, and what they hold. */
export async function filesBeside({ folder, node }: OwnProgram, { prefix }: Place): Promise<Map<string, string>> {
  const files = new Map<string, string>();
  const program = programFolder({ prefix });
  for (const binary of binaries) {
    files.set(join(prefix, "bin", binary), `#!/bin/sh\nexec ${node} ${program}/dist/${binary}.js "$@"\n`);
  }
  for (const [from, to] of Object.entries(places)) {
    for (const entry of await readdir(join(folder, from), { recursive: true, withFileTypes: true })) {
      if (!entry.isFile()) continue;
      const path = join(entry.parentPath, entry.name);
      const text = await readFile(path, "utf8");
      const target = join(prefix, to, relative(join(folder, from), path));
      files.set(target, entry.name.endsWith(".service") ? text.replaceAll("/usr/bin/", `${prefix}/bin/`) : text);
    }
  }
  return files;
}

/**
 * Copies the program and writes what goes beside it. The new program takes the old one's place in one step; of the old
 * one stay the parts that an agent which still runs may yet load.
 */
export async function copyAll(
  own: OwnProgram,
  place: Place,
  { bringNode, before }: { bringNode: boolean; before: Installed | undefined },
): Promise<void> {
  const { root } = place;
  const target = join(root, programFolder(place));
  const fresh = `${target}.new`;
  const node = bringNode ? join(programFolder(place), "node") : own.node;
  const beside = await filesBeside({ ...own, node }, place);
  const folders = new Set(before?.folders);
  const makeFolder = async (path: string) => {
    const first = await mkdir(path, { recursive: true, mode: 0o755 });
    for (let made = path; first !== undefined && made.length >= first.length; made = dirname(made)) {
      folders.add(join("/", relative(root, made)));
    }
  };

  await makeFolder(dirname(target));
  await rm(fresh, { recursive: true, force: true });
  for (const path of await partsOf(own.folder)) {
    await mkdir(dirname(join(fresh, path)), { recursive: true, mode: 0o755 });
    await copyFile(join(own.folder, path), join(fresh, path));
    await chmod(join(fresh, path), 0o644);
  }
  if (bringNode) {
    await copyFile(own.node, join(fresh, "node"));
    await chmod(join(fresh, "node"), 0o755);
  }
  const chunks = await readdir(join(fresh, "dist/chunks"));
  for (const name of (before?.chunks ?? []).filter((name) => !chunks.includes(name))) {
    await link(join(target, "dist/chunks", name), join(fresh, "dist/chunks", name));
  }
  const installed: Installed = { files: [...beside.keys()], folders: [], chunks };

  for (const [path, text] of beside) {
    await makeFolder(dirname(join(root, path)));
    const half = join(root, `${path}.new`);
    await writeFile(half, text, { mode: 0o644 });
    await chmod(half, path.startsWith(join(place.prefix, "bin")) ? 0o755 : 0o644);
    await rename(half, join(root, path));
  }
  for (const path of before?.files.filter((path) => !beside.has(path)) ?? [])
    await rm(join(root, path), { force: true });
  installed.folders.push(...[...folders].sort());
  await writeFile(join(fresh, "installed.json"), JSON.stringify(installed));
  if (before !== undefined) await rename(target, `${target}.old`);
  await rename(fresh, target);
  await rm(`${target}.old`, { recursive: true, force: true });
}

/** Removes what `copyAll` has made; folders in which something else lies stay. */
export async function removeAll(place: Place, { files, folders }: Installed): Promise<void> {
  for (const path of files) await rm(join(place.root, path), { force: true });
  await rm(join(place.root, programFolder(place)), { recursive: true, force: true });
  for (const path of [...folders].reverse()) {
    await rmdir(join(place.root, path)).catch((error: unknown) => {
      if (!isSystemError(error) || !["ENOTEMPTY", "ENOENT", "EEXIST"].includes(error.code)) throw error;
    });
  }
}

/** The paths in a program's folder that are installed. */
async function partsOf(folder: string): Promise<string[]> {
  const koffi = "node_modules/koffi";
  const own = [join(koffi, "package.json"), join(koffi, "index.js"), join(koffi, "src/koffi/index.js")];
  const listed = [join(koffi, "src/koffi/src/static.js"), "package.json"];
  for (const part of ["dist", "node_modules/@koromix"]) {
    for (const entry of await readdir(join(folder, part), { recursive: true, withFileTypes: true })) {
      // Nobody debugs there.
      if (!entry.isFile() || entry.name.endsWith(".map")) continue;
      listed.push(relative(folder, join(entry.parentPath, entry.name)));
    }
  }
  return [...own, ...listed];
}
