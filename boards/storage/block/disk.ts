import { constants } from "node:fs";
import { open, stat, type FileHandle } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";
import { AgentError, DeviceOffline, isSystemError, toAgentError } from "../../../agent/driver/errors.ts";
import type { Logger } from "../../../agent/driver/log.ts";
import { loadBlockCalls, type BlockCalls, type BlockGeometry } from "../../../agent/sys/block.ts";
import { describeDisk, deviceNumber, kernelRoots, readFacts, type BlockFacts, type KernelRoots } from "./facts.ts";
import { refused, refuseToRead, refuseToWrite } from "./protection.ts";

/** Where an image goes or comes from. */
export interface Target {
  /** Path of the whole disk, looked up anew while it is waited for; undefined while there is none. */
  locate(): Promise<string | undefined> | string | undefined;
  /** What the medium says of itself. */
  readonly describeMedium?: ((context: { readonly signal: AbortSignal }) => Promise<string | undefined>) | undefined;
  /** Said when there was none until the end. */
  readonly absent: string;
}

export interface DiskOptions {
  /** How long a disk and its medium may take to appear. */
  readonly timeoutMs: number;
  /** Reads and writes go past the page cache where the device can do that. */
  readonly direct?: boolean | undefined;
  /** A regular file may stand in for a disk; it grows as needed, and what follows the image stays. */
  readonly allowFile?: boolean | undefined;
  /** A partition may stand in for a disk; others of its disk may be in use. */
  readonly allowPartition?: boolean | undefined;
  /** Of the image, when it is known before it comes. */
  readonly imageBytes?: number | undefined;
  /** Where the image is, when it is a file or a disk of this host: nothing is written onto itself. */
  readonly imagePath?: string | undefined;
  readonly roots?: KernelRoots | undefined;
}

export interface DiskContext {
  readonly signal: AbortSignal;
  readonly log: Logger;
}

/** How often a disk that is not ready is looked at; opening it is also what makes the kernel look for a medium. */
const lookEveryMs = 200;

/** What a reader without a ready medium answers. */
const notReady = new Set(["ENOENT", "ENXIO", "ENODEV", "ENOMEDIUM", "EIO"]);

/** What may be better the next time: cables, readers that are reset. Others (ENOSPC, EROFS, ENODEV, …) stay as they are. */
const transient = new Set(["EIO", "ETIMEDOUT", "EREMOTEIO", "ENOLINK", "ENODATA", "EAGAIN"]);
const retryAfterMs = [100, 500, 2_000];

/** What a disk without its medium, or none at all, answers. */
const gone = new Set(["ENOMEDIUM", "ENODEV", "ENXIO", "ESHUTDOWN"]);

/** A disk that is opened exclusively and was checked. */
export class OpenDisk {
  /** For people and errors. */
  readonly name: string;
  readonly path: string;
  /** Undefined for a file, which grows. */
  readonly sizeBytes: number | undefined;
  /** Of a file, when it was opened. */
  readonly fileBytes: number;
  /** What offsets, lengths and memory must be multiples of. */
  readonly blockBytes: number;
  /** Reads and writes go past the page cache. */
  readonly isDirect: boolean;
  /** Reads and writes that succeeded only when they were repeated. */
  retries = 0;
  readonly file: FileHandle;
  readonly calls: BlockCalls;
  readonly facts: BlockFacts | undefined;
  readonly #context: DiskContext;
  readonly #roots: KernelRoots;

  constructor(
    opened: Opened & { readonly calls: BlockCalls; readonly path: string },
    { roots = kernelRoots }: Pick<DiskOptions, "roots">,
    context: DiskContext,
  ) {
    this.file = opened.file;
    this.calls = opened.calls;
    this.facts = opened.facts;
    this.isDirect = opened.isDirect;
    this.sizeBytes = opened.geometry?.sizeBytes;
    this.fileBytes = opened.fileBytes;
    this.blockBytes = opened.geometry?.logicalBlockBytes ?? (opened.isDirect ? 4096 : 1);
    this.name = describeDisk(opened.path, opened.facts);
    this.path = opened.path;
    this.#context = context;
    this.#roots = roots;
  }

  /** Fills `buffer`, or what there is up to the end of a file. @returns the number of bytes */
  async readAt(buffer: Buffer, position: number): Promise<number> {
    return this.#whole("read", position, async () => {
      let done = 0;
      while (done < buffer.length) {
        const { bytesRead } = await this.file.read(buffer, done, buffer.length - done, position + done);
        if (bytesRead === 0) break;
        done += bytesRead;
        // At the end of a file, where the next one would not be aligned any more.
        if (this.isDirect && done % this.blockBytes !== 0) break;
      }
      return done;
    });
  }

  async writeAt(buffer: Buffer, position: number): Promise<void> {
    await this.#whole("write", position, async () => {
      for (let done = 0; done < buffer.length;) {
        const { bytesWritten } = await this.file.write(buffer, done, buffer.length - done, position + done);
        if (bytesWritten === 0) throw Object.assign(new Error("nothing was written"), { code: "EIO", errno: -5 });
        done += bytesWritten;
      }
      return buffer.length;
    });
  }

  /** Repeats what fails for a reason that may pass, unless the medium has gone. */
  async #whole(what: "read" | "write", position: number, run: () => Promise<number>): Promise<number> {
    const { signal, log } = this.#context;
    for (let attempt = 0; ; attempt += 1) {
      signal.throwIfAborted();
      try {
        const done = await run();
        if (attempt > 0) this.retries += 1;
        return done;
      } catch (error) {
        if (!isSystemError(error)) throw error;
        if (gone.has(error.code) || !(await this.isThere())) throw this.#lost(what, position, error);
        const waitMs = transient.has(error.code) ? retryAfterMs[attempt] : undefined;
        if (waitMs === undefined) {
          const after = attempt === 0 ? "" : ` in ${attempt + 1} attempts`;
          throw new AgentError(
            "E_IO",
            `${what} of ${this.name} at byte ${position} failed${after}: ${toAgentError(error).message}`,
            { cause: error },
          );
        }
        log.warn(`${what} of ${this.name} at byte ${position}: ${error.code}, trying again`);
        await sleep(waitMs, undefined, { signal });
      }
    }
  }

  #lost(what: "read" | "write", position: number, cause: unknown): DeviceOffline {
    const word = what === "read" ? "read" : "written";
    return new DeviceOffline(`the medium of ${this.name} has gone while it was ${word}, at byte ${position}`, {
      cause,
    });
  }

  /** The same medium is still there. */
  async isThere(): Promise<boolean> {
    if (this.facts === undefined) return true;
    const now = await readFacts(this.facts.number, this.#roots);
    return now !== undefined && now.sizeBytes > 0 && now.diskSequence === this.facts.diskSequence;
  }

  async close(): Promise<void> {
    await this.file.close();
  }
}

interface Opened {
  readonly file: FileHandle;
  readonly isDirect: boolean;
  readonly facts: BlockFacts | undefined;
  readonly fileBytes: number;
  /** Undefined for a file. */
  readonly geometry: BlockGeometry | undefined;
}

/**
 * Waits for a disk with a medium, checks that it may be used and opens it; what is opened is then checked again.
 * @throws AgentError E_TIMEOUT without a medium, E_FAILED without a disk, E_TARGET for what must not be touched
 */
export async function openDisk(
  target: Target,
  mode: "read" | "write",
  options: DiskOptions,
  context: DiskContext,
): Promise<OpenDisk> {
  const calls = await loadBlockCalls();
  const { signal } = context;
  const deadlineMs = performance.now() + options.timeoutMs;
  const seconds = options.timeoutMs / 1_000;
  for (;;) {
    signal.throwIfAborted();
    const path = await target.locate();
    let reason: AgentError;
    if (path === undefined) {
      reason = new AgentError("E_FAILED", target.absent);
    } else {
      const result = await tryToOpen(path, mode, calls, options, context);
      if (typeof result === "string") {
        const text = `storage device ${path} did not become ready within storage_timeout (${seconds} s): ${result}`;
        reason = new AgentError("E_TIMEOUT", text);
      } else if (result instanceof AgentError) {
        reason = result;
      } else {
        return new OpenDisk({ ...result, calls, path }, options, context);
      }
    }
    if (performance.now() >= deadlineMs) throw reason;
    await sleep(lookEveryMs, undefined, { signal });
  }
}

/** @returns why it is not ready or in use now, or the open disk. @throws AgentError for what will not change */
async function tryToOpen(
  path: string,
  mode: "read" | "write",
  calls: BlockCalls,
  options: DiskOptions,
  { log }: DiskContext,
): Promise<Opened | string | AgentError> {
  const { roots = kernelRoots, allowFile = false } = options;
  let file: FileHandle | undefined;
  try {
    const before = await stat(path);
    if (!before.isBlockDevice() && !(before.isFile() && allowFile)) {
      throw new AgentError("E_TARGET", `${path} is not a block device`);
    }
    const number = deviceNumber(before.rdev);
    const facts = before.isBlockDevice() ? await readFacts(number, roots) : undefined;
    if (before.isBlockDevice()) {
      if (facts === undefined) return "it has just gone";
      // An empty reader may be anything; it is looked at when it has a medium.
      if (facts.sizeBytes > 0) await mayUse(path, facts, mode, options, log);
    }
    const opened = await openFile(path, mode, options);
    file = opened.file;
    const now = await file.stat();
    if (now.rdev !== before.rdev || now.isBlockDevice() !== before.isBlockDevice()) {
      throw refused(path, facts, "it was exchanged for another device while it was looked at");
    }
    if (facts === undefined) return keep({ ...opened, facts: undefined, geometry: undefined, fileBytes: now.size });
    const geometry = calls.geometry(file.fd);
    if (geometry.sizeBytes === 0) return "no medium";
    // Opening it makes the kernel look: what it finds now is what will be written.
    const after = await readFacts(number, roots);
    if (after === undefined) return "it has just gone";
    if (after.diskSequence !== facts.diskSequence || after.sizeBytes !== geometry.sizeBytes)
      return "its medium has changed";
    if (geometry.diskSequence !== undefined && String(geometry.diskSequence) !== after.diskSequence) {
      return "its medium has changed";
    }
    await mayUse(path, after, mode, options, log);
    if (mode === "write" && geometry.readOnly) throw refused(path, after, "it is read-only");
    return keep({ ...opened, facts: after, geometry, fileBytes: 0 });
  } catch (error) {
    if (!isSystemError(error)) throw error;
    if (notReady.has(error.code)) return error.code === "ENOMEDIUM" ? "no medium" : toAgentError(error).message;
    // Programs that look what is on a new disk have it for a moment.
    if (error.code === "EBUSY") return refused(path, undefined, "another program or the kernel has it in use");
    if (error.code === "EROFS") throw refused(path, undefined, "it is read-only");
    throw error;
  } finally {
    await file?.close();
  }

  /** The caller closes it. */
  function keep(result: Opened): Opened {
    file = undefined;
    return result;
  }
}

async function mayUse(
  path: string,
  facts: BlockFacts,
  mode: "read" | "write",
  { imageBytes, imagePath, allowPartition, roots = kernelRoots }: DiskOptions,
  log: Logger,
): Promise<void> {
  if (mode === "write") {
    await refuseToWrite(path, facts, { sizeBytes: imageBytes, path: imagePath }, roots, { allowPartition });
  } else {
    for (const { text } of await refuseToRead(path, facts, roots))
      log.warn(`${text}: what is read may change meanwhile`);
  }
}

async function openFile(
  path: string,
  mode: "read" | "write",
  { direct = true }: DiskOptions,
): Promise<{ file: FileHandle; isDirect: boolean }> {
  // Exclusively: the kernel then lets nobody mount it, nor build anything on it.
  const flags = mode === "read" ? constants.O_RDONLY : constants.O_RDWR | constants.O_EXCL;
  if (direct) {
    try {
      return { file: await open(path, flags | constants.O_DIRECT), isDirect: true };
    } catch (error) {
      if (!isSystemError(error) || error.code !== "EINVAL") throw error;
    }
  }
  return { file: await open(path, flags), isDirect: false };
}
