import { AgentError } from "../../../agent/driver/errors.ts";
import type { Metadata, PresignedRequest } from "../interface.ts";
import type { StorePath } from "./path.ts";
import {
  capabilityOf,
  isADirectory,
  isNotFound,
  notFound,
  notSupported,
  type Reader,
  type Store,
  type Writer,
} from "./store.ts";

/** What a read asks for at once. */
const readBytes = 1024 * 1024;

/** The part of the npm package `opendal` that is used here; versions 0.47 to 0.49 have it. */
interface Operator {
  capability(): Record<string, unknown>;
  stat(path: string): Promise<{
    isDirectory(): boolean;
    isFile(): boolean;
    contentDisposition: string | null;
    contentLength: bigint | null;
    contentMd5: string | null;
    contentType: string | null;
    etag: string | null;
  }>;
  /** Fills the buffer as far as it can; 0 at the end. */
  reader(path: string): Promise<{ read(buffer: Buffer): Promise<bigint> }>;
  writer(path: string): Promise<{ write(content: Buffer): Promise<void>; close(): Promise<void> }>;
  copy(from: string, to: string): Promise<void>;
  rename(from: string, to: string): Promise<void>;
  delete(path: string): Promise<void>;
  removeAll(path: string): Promise<void>;
  createDir(path: string): Promise<void>;
  list(path: string, options: { recursive: boolean }): Promise<{ path(): string }[]>;
  presignStat(path: string, expires: number): Promise<PresignedRequest>;
  presignRead(path: string, expires: number): Promise<PresignedRequest>;
  presignWrite(path: string, expires: number): Promise<PresignedRequest>;
}

interface Package {
  Operator: new (scheme: string, options: Readonly<Record<string, string>>) => Operator;
}

/**
 * A store of any service that OpenDAL knows, through its npm package, which is large and rarely needed
 * and therefore not installed with the agent.
 * @throws AgentError E_CONFIG if the package is not there or does not know the scheme
 */
export async function openForeignStore(
  scheme: string,
  options: Readonly<Record<string, string>>,
  packageName = "opendal",
): Promise<Store> {
  let opendal: Package;
  try {
    const loaded = (await import(packageName)) as Package & { default?: Package };
    opendal = loaded.default ?? loaded;
  } catch (error) {
    throw new AgentError("E_CONFIG", `scheme ${scheme} needs the npm package opendal, which cannot be loaded`, {
      hint: "fs, memory, http and s3 need no package; for others: npm install opendal (needs glibc 2.38; opendal@0.47.11 an older one)",
      cause: error,
    });
  }
  try {
    return new ForeignStore(scheme, new opendal.Operator(scheme, options));
  } catch (error) {
    // The cause may hold the options, and they hold passwords.
    const firstLine = (error as Error).message.split("\n", 1)[0] ?? "";
    throw new AgentError("E_CONFIG", `opendal cannot open scheme ${scheme}: ${firstLine}`);
  }
}

class ForeignStore implements Store {
  readonly capability: Store["capability"];
  readonly #scheme: string;
  readonly #operator: Operator;

  constructor(scheme: string, operator: Operator) {
    this.#scheme = scheme;
    this.#operator = operator;
    this.capability = capabilityFrom(operator.capability());
  }

  async stat(path: StorePath): Promise<Metadata> {
    const found = await this.#on(path, () => this.#operator.stat(path.text));
    return {
      content_disposition: found.contentDisposition ?? null,
      content_length: Number(found.contentLength ?? 0),
      content_md5: found.contentMd5 ?? null,
      content_type: found.contentType ?? null,
      etag: found.etag ?? null,
      mode: { entry_is_file: found.isFile(), entry_is_dir: found.isDirectory() },
    };
  }

  async openReader(path: StorePath): Promise<Reader> {
    if (path.isDirectory) throw isADirectory(path);
    const { content_length: sizeBytes } = await this.stat(path);
    const operator = this.#operator;
    const on = <T>(work: () => Promise<T>) => this.#on(path, work);
    return {
      sizeBytes,
      async *chunks(start, signal) {
        // From the beginning: ranges are not in all versions of the package, and old ones ignore them silently.
        const reader = await on(() => operator.reader(path.text));
        for (let at = 0; at < sizeBytes;) {
          signal.throwIfAborted();
          const buffer = Buffer.allocUnsafeSlow(Math.min(readBytes, sizeBytes - at));
          const count = Number(await on(() => reader.read(buffer)));
          if (count === 0) throw new AgentError("E_FAILED", `${path.text} ended ${sizeBytes - at} bytes early`);
          const wanted = buffer.subarray(Math.min(count, Math.max(0, start - at)), count);
          at += count;
          if (wanted.length > 0) yield wanted;
        }
      },
      close: async () => {},
    };
  }

  async openWriter(path: StorePath): Promise<Writer> {
    if (path.isDirectory) throw isADirectory(path);
    const writer = await this.#on(path, () => this.#operator.writer(path.text));
    return {
      write: (batch) => this.#on(path, () => writer.write(Buffer.concat(batch))),
      close: () => this.#on(path, () => writer.close()),
      // The package cannot abort; an upload that is never closed is never seen.
      abort: async () => {},
    };
  }

  copy(source: StorePath, target: StorePath): Promise<void> {
    return this.#on(source, () => this.#operator.copy(source.text, target.text));
  }

  rename(source: StorePath, target: StorePath): Promise<void> {
    return this.#on(source, () => this.#operator.rename(source.text, target.text));
  }

  delete(path: StorePath): Promise<void> {
    return this.#on(path, () => this.#operator.delete(path.text));
  }

  async removeAll(path: StorePath): Promise<void> {
    // Without the slash it would also remove what merely starts with the same letters.
    const below: StorePath = path.isDirectory ? path : { ...path, text: `${path.text}/`, isDirectory: true };
    try {
      if ((await this.stat(below)).mode.entry_is_dir) await this.#on(path, () => this.#operator.removeAll(below.text));
    } catch (error) {
      if (!isNotFound(error)) throw error;
    }
    if (!path.isDirectory) await this.delete(path);
  }

  createDirectory(path: StorePath): Promise<void> {
    return this.#on(path, () => this.#operator.createDir(path.text));
  }

  async *list(path: StorePath, recursive: boolean): AsyncGenerator<string, void, undefined> {
    for (const entry of await this.#on(path, () => this.#operator.list(path.text, { recursive }))) yield entry.path();
  }

  async presign(what: "stat" | "read" | "write", path: StorePath, expireSeconds: number): Promise<PresignedRequest> {
    if (!this.capability[`presign_${what}`]) throw notSupported(this.#scheme, `presign_${what}`);
    const call = { stat: "presignStat", read: "presignRead", write: "presignWrite" } as const;
    const { url, method, headers } = await this.#on(path, () => this.#operator[call[what]](path.text, expireSeconds));
    return { url, method, headers };
  }

  /** The package's errors are long texts that begin with a kind: `NotFound (permanent) at stat => …`. */
  async #on<T>(path: StorePath, work: () => Promise<T>): Promise<T> {
    try {
      return await work();
    } catch (error) {
      const text = (error as Error).message;
      if (text.startsWith("NotFound")) throw notFound(path);
      throw new AgentError("E_FAILED", `${text.split("\n", 1)[0] ?? ""}: ${path.text}`, { cause: error });
    }
  }
}

/** Their names are ours in camel case; their sizes are bigints. */
function capabilityFrom(theirs: Record<string, unknown>): Store["capability"] {
  const ours: Record<string, boolean | number | null> = { ...capabilityOf({ blocking: true }) };
  for (const [name, initial] of Object.entries(ours)) {
    const value = theirs[name.replace(/_(\w)/g, (_, letter: string) => letter.toUpperCase())];
    if (typeof initial === "boolean" && typeof value === "boolean") ours[name] = value;
    if (initial === null && typeof value === "bigint") ours[name] = Number(value);
  }
  return ours as Store["capability"];
}
