import { link, mkdir, rm } from "node:fs/promises";
import { dirname, join } from "node:path";
import type { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { AgentError } from "../agent/driver/errors.ts";
import { decoded } from "../agent/stream/codecs.ts";
import { writeHashedFile, writeNewFile, type BundleFile } from "./files.ts";
import type { Expected } from "./oci/digest.ts";
import type { Layer } from "./oci/image.ts";
import { readTar } from "./oci/tar.ts";

/** An archive that grows more than this is no bundle but a bomb; small ones may. */
const mostGrowth = 100;
const alwaysUnpackedBytes = 64 * 1024 * 1024;
/** Files and directories: each costs an inode, whatever its size. */
const mostEntries = 10_000;
const longestPathBytes = 1024;

/**
 * Lays an image's layers out in a new directory. Only files and directories are made there, by nobody else, so that no
 * link can lead out of it.
 */
export class Unpacker {
  readonly #root: string;
  readonly #mostBytes: number;
  readonly #files = new Map<string, BundleFile>();
  readonly #directories = new Set<string>();
  #totalBytes = 0;

  constructor(root: string, mostBytes: number) {
    this.#root = root;
    this.#mostBytes = mostBytes;
  }

  /** What is there now. */
  get files(): BundleFile[] {
    return [...this.#files.values()];
  }

  /** A layer that is one file. */
  async file(layer: Layer, content: Readable, signal: AbortSignal): Promise<void> {
    await writeNewFile(await this.#place(layer.path), content, signal);
    this.#add(layer.path, layer);
  }

  /** A layer that is a file which is on this disk already, and was checked. */
  async link(layer: Layer, existing: string): Promise<void> {
    await link(existing, await this.#place(layer.path));
    this.#add(layer.path, layer);
  }

  /** A layer that is a tar archive, packed or not. Its files replace those of earlier layers. */
  async archive(layer: Layer, content: Readable, name: string, signal: AbortSignal): Promise<void> {
    const limit = Math.min(this.#mostBytes, Math.max(alwaysUnpackedBytes, layer.size * mostGrowth));
    const unpack = async (archive: AsyncIterable<Buffer>) => {
      for await (const entry of readTar(limited(archive, limit, name), name)) {
        const path = layer.path === "" ? entry.path : `${layer.path}/${entry.path}`;
        if (entry.kind === "directory") await this.#makeDirectory(path, path);
        else this.#add(path, await writeHashedFile(await this.#place(path), entry.content, signal));
      }
    };
    try {
      await pipeline(decoded(content, layer.encoding), unpack, { signal });
    } catch (error) {
      signal.throwIfAborted();
      if (!(error instanceof AgentError) || error.code !== "E_ENCODING") throw error;
      throw new AgentError("E_INVALID", `${name} is not ${layer.encoding}, or damaged`, { cause: error });
    } finally {
      content.destroy();
    }
  }

  #add(path: string, { digest, size }: Expected): void {
    this.#files.set(path, { path, digest, size });
    this.#totalBytes += size;
    if (this.#totalBytes > this.#mostBytes) {
      throw new AgentError("E_LIMIT", `a bundle may have ${this.#mostBytes} bytes`);
    }
  }

  #checkEntries(): void {
    if (this.#files.size + this.#directories.size < mostEntries) return;
    throw new AgentError("E_LIMIT", `a bundle may have ${mostEntries} files and directories`);
  }

  /** Makes room for a file: the directories above it are there, an earlier file of its name is not. */
  async #place(path: string): Promise<string> {
    const full = join(this.#root, path);
    await this.#makeDirectory(dirname(path), path);
    this.#totalBytes -= this.#files.get(path)?.size ?? 0;
    this.#files.delete(path);
    this.#checkEntries();
    await rm(full, { force: true }).catch((error: unknown) => {
      throw conflict(path, error);
    });
    return full;
  }

  /** @param path what is being placed, for errors */
  async #makeDirectory(directory: string, path: string): Promise<void> {
    if (Buffer.byteLength(path) > longestPathBytes) {
      const shown = JSON.stringify(path.slice(0, 200));
      throw new AgentError("E_INVALID", `the path ${shown}… of the bundle is longer than ${longestPathBytes} bytes`);
    }
    for (let at = 0; at >= 0;) {
      at = directory.indexOf("/", at + 1);
      const one = at < 0 ? directory : directory.slice(0, at);
      if (this.#directories.has(one)) continue;
      this.#checkEntries();
      await mkdir(join(this.#root, one), { recursive: true }).catch((error: NodeJS.ErrnoException) => {
        throw error.code === "EEXIST" || error.code === "ENOTDIR" ? conflict(path, error) : error;
      });
      this.#directories.add(one);
    }
  }
}

/** All that comes out of an archive counts, also what is no file's content. */
async function* limited(chunks: AsyncIterable<Buffer>, mostBytes: number, name: string): AsyncGenerator<Buffer> {
  let bytes = 0;
  for await (const chunk of chunks) {
    bytes += chunk.length;
    if (bytes > mostBytes) throw new AgentError("E_LIMIT", `${name} unpacks to more than ${mostBytes} bytes`);
    yield chunk;
  }
}

function conflict(path: string, cause: unknown): AgentError {
  return new AgentError("E_INVALID", `${JSON.stringify(path)} is a file and a directory in the bundle`, { cause });
}
