import { randomBytes } from "node:crypto";
import { constants } from "node:fs";
import { lstat, mkdir, open, realpath, rename, rm, type FileHandle } from "node:fs/promises";
import { dirname, join, normalize, relative, sep } from "node:path";
import { Readable } from "node:stream";
import { AgentError, isSystemError, toAgentError } from "../../agent/driver/errors.ts";
import type { ContentEncoding } from "../../agent/driver/resource.ts";
import { decoded } from "../../agent/stream/codecs.ts";
import { syncDirectory } from "../../agent/stream/durable.ts";
import { fileChunks, pumpBatches, writeFully } from "../../agent/stream/files.ts";
import { separators } from "./protocol.ts";

/** Disk images below the storage root. Clients put files there, never links; what the host's owner has linked is followed inside. */
export class Images {
  readonly #root: string;

  /** @param root as configured; made if missing */
  constructor(root: string) {
    this.#root = root;
  }

  /** Where the root really is. */
  async realRoot(): Promise<string> {
    await mkdir(this.#root, { recursive: true });
    return realpath(this.#root);
  }

  /**
   * The real path of a file below the root that may not exist yet; its directory is made.
   * @param label what the error text calls it
   * @throws AgentError E_FAILED with the texts that clients know
   */
  async confine(given: string, label: string): Promise<string> {
    const normal = normalize(given);
    const [first] = normal.split(sep);
    const refused = first === ".." || first === "" || first === "." || normal.endsWith(sep) || /\0/.test(given);
    if (refused || given === "" || separators.test(given)) throw new AgentError("E_FAILED", `${label}: ${given}`);
    const root = await this.realRoot();
    const escape = () => new AgentError("E_FAILED", `Path traversal attempt detected: ${given}`);
    const path = join(root, normal);
    // Looked at from above, so that nothing is made outside.
    let directory = root;
    for (const segment of relative(root, dirname(path)).split(sep).filter(Boolean)) {
      directory = join(directory, segment);
      await mkdir(directory).catch(ignore("EEXIST"));
      directory = await realpath(directory);
      if (!isBelow(root, directory)) throw escape();
    }
    const file = join(directory, normal.slice(normal.lastIndexOf(sep) + 1));
    if ((await lstat(file).catch(ignore("ENOENT"))) === undefined) return file;
    // A link that leads nowhere would be followed when the file is made.
    const real = await realpath(file).catch(ignore("ENOENT"));
    if (real === undefined || !isBelow(root, real)) throw escape();
    return real;
  }

  /** Makes the file if there is none, and lets it grow to the size that is asked for. @returns bytes that a LUN shows of it */
  async prepare(path: string, sizeMb: number): Promise<{ sizeBytes: number; note: string | undefined }> {
    const wanted = sizeMb * 2 ** 20;
    if (sizeMb <= 0 && (await lstat(path).catch(ignore("ENOENT"))) === undefined) {
      throw new AgentError("E_FAILED", "size_mb must be > 0 for new file-backed LUNs");
    }
    const { O_RDWR, O_CREAT, O_NOFOLLOW, O_NONBLOCK } = constants;
    const file = await open(path, O_RDWR | O_CREAT | O_NOFOLLOW | O_NONBLOCK, 0o644);
    try {
      const stat = await file.stat();
      if (!stat.isFile()) throw new AgentError("E_FAILED", `${path} is not a regular file`);
      if (sizeMb <= 0) {
        if (stat.size > 0) return { sizeBytes: stat.size, note: undefined };
        throw new AgentError("E_FAILED", `${path} is empty, and size_mb is 0`);
      }
      if (stat.size < wanted) {
        await file.truncate(wanted);
        return { sizeBytes: wanted, note: undefined };
      }
      const larger =
        stat.size > wanted ? `${path} has ${stat.size} bytes, the LUN shows the first ${wanted}` : undefined;
      return { sizeBytes: wanted, note: larger };
    } finally {
      await file.close();
    }
  }

  /**
   * Decompresses a file below the root: the new file is whole and on the disk, or not there.
   * @throws AgentError E_FAILED; E_LIMIT for more than `mostBytes`
   */
  async decompress(
    source: string,
    target: string,
    algorithm: string,
    mostBytes: number,
    signal: AbortSignal,
  ): Promise<void> {
    const from = await this.confine(source, "Invalid path");
    await this.#refuseLinks(target);
    const to = await this.confine(target, "Invalid path");
    try {
      const encoding = encodings.get(algorithm);
      if (encoding === undefined) throw new AgentError("E_FAILED", `Unsupported compression algo: ${algorithm}`);
      const { O_RDONLY, O_NOFOLLOW, O_NONBLOCK } = constants;
      const input = await open(from, O_RDONLY | O_NOFOLLOW | O_NONBLOCK);
      try {
        if (!(await input.stat()).isFile()) throw new AgentError("E_FAILED", `${source} is not a regular file`);
        await intoPlace(to, (output) => decodeInto(input, output, encoding, mostBytes, signal));
      } finally {
        await input.close();
      }
    } catch (thrown) {
      signal.throwIfAborted();
      const error = toAgentError(thrown);
      throw new AgentError(
        error.code === "E_LIMIT" ? "E_LIMIT" : "E_FAILED",
        `Decompression failed: ${error.message}`,
        {
          cause: error,
        },
      );
    }
  }

  async #refuseLinks(given: string): Promise<void> {
    let path = await this.realRoot();
    for (const segment of normalize(given).split(sep)) {
      if (segment === "..") return; // refused as a path
      path = join(path, segment);
      const found = await lstat(path).catch(ignore("ENOENT", "ENOTDIR"));
      if (found?.isSymbolicLink()) throw new AgentError("E_FAILED", `Destination path contains symlink: ${path}`);
    }
  }
}

/** By what clients call them. */
const encodings: ReadonlyMap<string, ContentEncoding> = new Map([
  ["gz", "gzip"],
  ["xz", "xz"],
  ["bz2", "bz2"],
]);

async function decodeInto(
  input: FileHandle,
  output: FileHandle,
  encoding: ContentEncoding,
  mostBytes: number,
  signal: AbortSignal,
): Promise<void> {
  const packed = Readable.from(fileChunks(input), { objectMode: false });
  let at = 0;
  try {
    await pumpBatches(
      decoded(packed, encoding),
      async (batch) => {
        const bytes = batch.reduce((sum, { length }) => sum + length, 0);
        if (at + bytes > mostBytes) {
          throw new AgentError("E_LIMIT", `it has more than ${mostBytes} bytes (max_decompressed_mb)`);
        }
        at = await writeFully(output, batch, at);
      },
      { signal },
    );
  } finally {
    packed.destroy();
  }
}

/** Writes a new file beside its place, and puts it there when all of it is on the disk. */
async function intoPlace(path: string, fill: (file: FileHandle) => Promise<void>): Promise<void> {
  const beside = join(dirname(path), `.decomp-${randomBytes(6).toString("hex")}`);
  try {
    const file = await open(beside, "wx", 0o644);
    try {
      await fill(file);
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(beside, path);
  } catch (error) {
    await rm(beside, { force: true });
    throw error;
  }
  await syncDirectory(dirname(path));
}

function isBelow(root: string, path: string): boolean {
  return path === root || path.startsWith(root === "/" ? "/" : `${root}/`);
}

function ignore(...codes: readonly string[]) {
  return (error: unknown): undefined => {
    if (isSystemError(error) && codes.includes(error.code)) return undefined;
    throw error;
  };
}
