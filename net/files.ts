import { constants } from "node:fs";
import { type FileHandle, open, readlink, realpath, stat } from "node:fs/promises";
import { join, sep } from "node:path";
import { isSystemError } from "../agent/driver/errors.ts";

/** An open regular file below a served folder. Whoever gets it closes the handle. */
export interface ServedFile {
  readonly handle: FileHandle;
  readonly sizeBytes: number;
  readonly modified: Date;
  /** Changes whenever the file's content does: a strong validator without its quotes. */
  readonly tag: string;
}

/**
 * Why a name is not served: nothing there; outside the folder (`..`, or a link that leads out); the operating system
 * forbids it; a folder; neither file nor folder.
 */
export type Refusal = "missing" | "outside" | "forbidden" | "folder" | "special";

/**
 * Opens the regular file that `name` stands for below `root`, and nothing else. Leading and doubled slashes are
 * ignored, `..` never is: it is refused wherever it stands. Links are followed as long as they stay inside.
 *
 * The path is resolved first, so that nothing outside is ever opened (opening alone can move a device), and what was
 * opened is looked at again, so that a folder exchanged for a link in between is no way out.
 *
 * @throws system errors that say nothing about the name: EMFILE, EIO.
 */
export async function openConfined(root: string, name: string): Promise<ServedFile | { refused: Refusal }> {
  const segments = name.split("/").filter((segment) => segment !== "" && segment !== ".");
  if (segments.includes("..")) return { refused: "outside" };
  if (name.includes("\0")) return { refused: "missing" };
  let handle: FileHandle | undefined;
  try {
    const realRoot = await realpath(root);
    const real = await realpath(join(realRoot, ...segments));
    if (!isBelow(realRoot, real)) return { refused: "outside" };
    const found = await stat(real);
    if (found.isDirectory()) return { refused: "folder" };
    if (!found.isFile()) return { refused: "special" };
    // `file/` and `file/.` ask for a folder.
    if (/\/\.?$/.test(name)) return { refused: "missing" };
    const { O_RDONLY, O_NOFOLLOW, O_NONBLOCK, O_NOCTTY } = constants;
    handle = await open(real, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY);
    const opened = await handle.stat({ bigint: true });
    const isInside = isBelow(realRoot, await readlink(`/proc/self/fd/${handle.fd}`));
    if (!isInside || !opened.isFile()) {
      await handle.close();
      return { refused: isInside ? "special" : "outside" };
    }
    return {
      handle,
      sizeBytes: Number(opened.size),
      modified: opened.mtime,
      tag: `${opened.ino.toString(16)}-${opened.size.toString(16)}-${opened.mtimeNs.toString(16)}`,
    };
  } catch (error) {
    await handle?.close();
    const refused = refusalOf(error);
    if (refused === undefined) throw error;
    return { refused };
  }
}

/** Opens the file in the first of these folders that has something of this name; see {@link openConfined}. */
export async function openInFolders(
  roots: readonly string[],
  name: string,
): Promise<ServedFile | { refused: Refusal }> {
  let found: ServedFile | { refused: Refusal } = { refused: "missing" };
  for (const root of roots) {
    found = await openConfined(root, name);
    if (!("refused" in found) || found.refused !== "missing") break;
  }
  return found;
}

/** What a system error says about a name; undefined where it says something about this host. */
export function refusalOf(error: unknown): Refusal | undefined {
  return isSystemError(error) ? refusals[error.code] : undefined;
}

/** ELOOP is a circle of links, or the exchange of a file for a link. */
const refusals: Readonly<Record<string, Refusal>> = {
  ENOENT: "missing",
  ENOTDIR: "missing",
  ENAMETOOLONG: "missing",
  ELOOP: "missing",
  EACCES: "forbidden",
  EPERM: "forbidden",
  ENXIO: "special",
};

/** Whether a resolved path is the folder or lies in it. */
export function isBelow(root: string, path: string): boolean {
  return path === root || path.startsWith(root.endsWith(sep) ? root : root + sep);
}
