import { link, mkdir, rm } from "node:fs/promises";
import { dirname, join } from "node:path";
import type { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { createGunzip } from "node:zlib";
import { AgentError } from "../agent/driver/errors.ts";
import { writeHashedFile, writeNewFile, type BundleFile } from "./files.ts";
import type { Expected } from "./oci/digest.ts";
import type { Layer } from "./oci/image.ts";
import { readTar } from "./oci/tar.ts";

/** An archive that grows more than this is no bundle but a bomb; small ones may. */
const mostGrowth = 100;
const alwaysUnpackedBytes = 64 * 1024 * 1024;
const mostFiles = 10_000;

/**
 * Lays an image's layers out in a new directory. Only files and directories are made there, by nobody else, so that no
 * link can lead out of it.
 */
export class Unpacker {
  readonly #root: string;
  readonly #mostBytes: number;
  readonly #files = new Map<string, BundleFile>();

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

  /** A layer that is a gzipped tar archive. Its files replace those of earlier layers. */
  async archive(layer: Layer, content: Readable, name: string, signal: AbortSignal): Promise<void> {
    const limit = Math.min(this.#mostBytes, Math.max(alwaysUnpackedBytes, layer.size * mostGrowth));
    const gunzip = createGunzip();
    const entries = async (source: AsyncIterable<Buffer>) => {
      let unpacked = 0;
      for await (const entry of readTar(source, name)) {
        unpacked += entry.size;
        if (unpacked > limit) throw new AgentError("E_LIMIT", `${name} unpacks to more than ${limit} bytes`);
        const path = layer.path === "" ? entry.path : `${layer.path}/${entry.path}`;
        if (entry.kind === "directory") await this.#makeDirectory(path, path);
        else this.#add(path, await writeHashedFile(await this.#place(path), entry.content, signal));
      }
    };
    try {
      await pipeline(content, gunzip, entries, { signal });
    } catch (error) {
      const { code = "" } = error as NodeJS.ErrnoException;
      if (!code.startsWith("Z_")) throw error;
      throw new AgentError("E_INVALID", `${name} is not gzip, or damaged (${code})`, { cause: error });
    }
  }

  #add(path: string, { digest, size }: Expected): void {
    this.#files.set(path, { path, digest, size });
    if (this.#files.size > mostFiles) throw new AgentError("E_LIMIT", `a bundle may have ${mostFiles} files`);
    const total = this.files.reduce((sum, file) => sum + file.size, 0);
    if (total > this.#mostBytes) throw new AgentError("E_LIMIT", `a bundle may have ${this.#mostBytes} bytes`);
  }

  /** Makes room for a file: the directories above it are there, an earlier file of its name is not. */
  async #place(path: string): Promise<string> {
    const full = join(this.#root, path);
    await this.#makeDirectory(dirname(path), path);
    this.#files.delete(path);
    await rm(full, { force: true }).catch((error: unknown) => {
      throw conflict(path, error);
    });
    return full;
  }

  async #makeDirectory(directory: string, path: string): Promise<void> {
    await mkdir(join(this.#root, directory), { recursive: true }).catch((error: NodeJS.ErrnoException) => {
      throw error.code === "EEXIST" || error.code === "ENOTDIR" ? conflict(path, error) : error;
    });
  }
}

function conflict(path: string, cause: unknown): AgentError {
  return new AgentError("E_INVALID", `${JSON.stringify(path)} is a file and a directory in the bundle`, { cause });
}
