import { AgentError } from "../../../agent/driver/errors.ts";
import type { Metadata } from "../interface.ts";
import { metadataOf } from "./http.ts";
import { bodyFrom, readText } from "./http-client.ts";
import { listKeys } from "./keys.ts";
import { directoryKey, parentOf, parsePath, type StorePath } from "./path.ts";
import { S3Client, s3Error, xmlValues, type S3Options } from "./s3-client.ts";
import {
  capabilityOf,
  isADirectory,
  isNotFound,
  notFound,
  plainMetadata,
  type Reader,
  type Store,
  type Writer,
} from "./store.ts";

/** Parts of an upload: S3 wants 5 MiB at least and 10,000 at most, so files may have 160 GB. */
const partBytes = 16 * 1024 * 1024;
const mostParts = 10_000;

const capability = capabilityOf({
  stat: true,
  stat_with_if_match: true,
  stat_with_if_none_match: true,
  read: true,
  read_with_if_match: true,
  read_with_if_none_match: true,
  read_with_override_cache_control: true,
  read_with_override_content_disposition: true,
  read_with_override_content_type: true,
  write: true,
  write_can_multi: true,
  write_can_empty: true,
  write_with_content_type: true,
  write_with_cache_control: true,
  write_multi_max_size: 5 * 1024 ** 3,
  write_multi_min_size: 5 * 1024 ** 2,
  create_dir: true,
  delete: true,
  copy: true,
  list: true,
  list_with_limit: true,
  list_with_start_after: true,
  list_with_recursive: true,
  presign: true,
  presign_read: true,
  presign_stat: true,
  presign_write: true,
  shared: true,
  blocking: true,
});

/**
 * Objects of an S3 bucket. A file is there when it is closed, not while it is written.
 * @throws AgentError E_CONFIG if there are no credentials
 */
export function openS3Store(options: S3Options): Store {
  return new S3Store(new S3Client(options), directoryKey(parsePath(options.root ?? "/")));
}

class S3Store implements Store {
  readonly capability = capability;
  readonly #client: S3Client;
  /** In front of every key: empty, or ends in a slash. */
  readonly #prefix: string;

  constructor(client: S3Client, prefix: string) {
    this.#client = client;
    this.#prefix = prefix;
  }

  async stat(path: StorePath): Promise<Metadata> {
    if (path.segments.length === 0) return plainMetadata("directory", 0);
    const response = await this.#client.send({ method: "HEAD", key: this.#keyOf(path) });
    response.resume();
    if (response.statusCode === 200) return metadataOf(response, path);
    if (response.statusCode !== 404) throw s3Error(response, "");
    // A directory needs no object of its own if there is something in it.
    if (!path.isDirectory || (await this.#page(this.#keyOf(path), "", 1)).keys.length === 0) throw notFound(path);
    return plainMetadata("directory", 0);
  }

  async openReader(path: StorePath): Promise<Reader> {
    if (path.isDirectory) throw isADirectory(path);
    const { content_length: sizeBytes, etag } = await this.stat(path);
    const client = this.#client;
    const key = this.#keyOf(path);
    return {
      sizeBytes,
      async *chunks(start, signal) {
        if (start >= sizeBytes) return;
        // An object that was replaced since must not be read as the rest of the old one.
        const headers = { range: `bytes=${start}-${sizeBytes - 1}`, ...(etag === null ? {} : { "if-match": etag }) };
        const response = await client.send({ method: "GET", key, headers }, signal);
        if ((response.statusCode ?? 0) >= 300) throw s3Error(response, await readText(response));
        yield* bodyFrom(response, start, sizeBytes);
      },
      close: async () => {},
    };
  }

  async openWriter(path: StorePath): Promise<Writer> {
    if (path.isDirectory) throw isADirectory(path);
    return new S3Writer(this.#client, this.#keyOf(path));
  }

  async copy(source: StorePath, target: StorePath): Promise<void> {
    await this.stat(source);
    const from = `/${this.#client.bucket}/${this.#client.encodeKey(this.#keyOf(source))}`;
    await this.#client.ask({ method: "PUT", key: this.#keyOf(target), headers: { "x-amz-copy-source": from } });
  }

  async delete(path: StorePath): Promise<void> {
    if (path.segments.length > 0) await this.#deleteKey(this.#keyOf(path));
  }

  async removeAll(path: StorePath): Promise<void> {
    for await (const key of this.#keys(this.#prefix + directoryKey(path), "")) await this.#deleteKey(key);
    await this.delete(path);
  }

  async createDirectory(path: StorePath): Promise<void> {
    if (path.segments.length === 0) return;
    await this.#client.ask({ method: "PUT", key: this.#keyOf(path), body: Buffer.alloc(0) });
  }

  async *list(path: StorePath, recursive: boolean): AsyncGenerator<string, void, undefined> {
    const base = directoryKey(path.isDirectory ? path : parentOf(path));
    const prefix = path.isDirectory ? base : path.text;
    const keys: string[] = [];
    for await (const key of this.#keys(this.#prefix + prefix, recursive ? "" : "/")) {
      keys.push(key.slice(this.#prefix.length));
    }
    yield* listKeys(keys, path, recursive);
  }

  async presign(what: "stat" | "read" | "write", path: StorePath, expireSeconds: number) {
    const method = { stat: "HEAD", read: "GET", write: "PUT" }[what];
    return this.#client.presign(method, this.#keyOf(path), expireSeconds);
  }

  async close(): Promise<void> {
    this.#client.close();
  }

  #keyOf(path: StorePath): string {
    return this.#prefix + (path.segments.length === 0 ? "" : path.text);
  }

  async #deleteKey(key: string): Promise<void> {
    try {
      await this.#client.ask({ method: "DELETE", key });
    } catch (error) {
      if (!isNotFound(error)) throw error;
    }
  }

  /** Keys with a prefix; with a delimiter, what goes on behind one is cut there. */
  async *#keys(prefix: string, delimiter: string): AsyncGenerator<string, void, undefined> {
    let next: string | undefined;
    do {
      const page = await this.#page(prefix, delimiter, 1000, next);
      yield* page.keys;
      next = page.next;
    } while (next !== undefined);
  }

  async #page(prefix: string, delimiter: string, limit: number, token?: string) {
    const query: Record<string, string> = {
      "list-type": "2",
      // Keys may hold what XML cannot.
      "encoding-type": "url",
      "max-keys": String(limit),
      prefix,
    };
    if (delimiter !== "") query["delimiter"] = delimiter;
    if (token !== undefined) query["continuation-token"] = token;
    const { text } = await this.#client.ask({ method: "GET", key: "", query });
    const isEncoded = text.includes("<EncodingType>url</EncodingType>");
    const common = [...text.matchAll(/<CommonPrefixes>(.*?)<\/CommonPrefixes>/gs)].map(([, inner = ""]) => inner);
    const keys = [...xmlValues(text, "Key"), ...common.flatMap((inner) => xmlValues(inner, "Prefix"))];
    return {
      keys: isEncoded ? keys.map((key) => decodeURIComponent(key.replaceAll("+", " "))) : keys,
      next: xmlValues(text, "NextContinuationToken")[0],
    };
  }
}

/** One PUT for a small file, an upload in parts for a large one. */
class S3Writer implements Writer {
  readonly #client: S3Client;
  readonly #key: string;
  #pending: Buffer[] = [];
  #pendingBytes = 0;
  #uploadId: string | undefined;
  readonly #etags: string[] = [];

  constructor(client: S3Client, key: string) {
    this.#client = client;
    this.#key = key;
  }

  async write(batch: readonly Buffer[], signal: AbortSignal): Promise<void> {
    for (const chunk of batch) {
      this.#pending.push(chunk);
      this.#pendingBytes += chunk.length;
    }
    if (this.#pendingBytes >= partBytes) await this.#sendPart(signal);
  }

  async #sendPart(signal?: AbortSignal): Promise<void> {
    const key = this.#key;
    if (this.#uploadId === undefined) {
      const { text } = await this.#client.ask({ method: "POST", key, query: { uploads: "" } }, signal);
      this.#uploadId = xmlValues(text, "UploadId")[0];
      if (this.#uploadId === undefined) throw new AgentError("E_FAILED", "s3 gave no upload id");
    }
    if (this.#etags.length === mostParts)
      throw new AgentError("E_LIMIT", `the file is too large for ${mostParts} parts`);
    const query = { partNumber: String(this.#etags.length + 1), uploadId: this.#uploadId };
    const { response } = await this.#client.ask({ method: "PUT", key, query, body: this.#take() }, signal);
    this.#etags.push(response.headers.etag ?? "");
  }

  #take(): Buffer {
    const body = Buffer.concat(this.#pending);
    this.#pending = [];
    this.#pendingBytes = 0;
    return body;
  }

  async close(): Promise<void> {
    const key = this.#key;
    if (this.#uploadId === undefined) {
      await this.#client.ask({ method: "PUT", key, body: this.#take() });
      return;
    }
    try {
      if (this.#pendingBytes > 0) await this.#sendPart();
      const parts = this.#etags.map(
        (etag, index) => `<Part><PartNumber>${index + 1}</PartNumber><ETag>${escapeXml(etag)}</ETag></Part>`,
      );
      const body = Buffer.from(`<CompleteMultipartUpload>${parts.join("")}</CompleteMultipartUpload>`);
      await this.#client.ask({ method: "POST", key, query: { uploadId: this.#uploadId }, body });
    } catch (error) {
      await this.abort().catch(() => {});
      throw error;
    }
  }

  async abort(): Promise<void> {
    this.#take();
    if (this.#uploadId === undefined) return;
    // Parts that nobody completes would be paid for.
    await this.#client.ask({ method: "DELETE", key: this.#key, query: { uploadId: this.#uploadId } });
  }
}

function escapeXml(text: string): string {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll('"', "&quot;");
}
