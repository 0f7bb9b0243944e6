import { randomBytes } from "node:crypto";
import type { FileHandle } from "node:fs/promises";
import type { IncomingMessage, ServerResponse } from "node:http";
import type { ServedFile } from "../files.ts";
import { answer } from "./answer.ts";
import type { Running } from "./connections.ts";
import type { Slots } from "./slots.ts";
import { multipartHead, multipartTail, select, type ByteRange } from "./protocol.ts";

const readBytes = 512 * 1024;
/** So little is read without waiting for a turn. */
const smallBytes = 64 * 1024;
const octets = "application/octet-stream";

/**
 * Answers GET or HEAD with a file, its conditions and ranges (RFC 9110 sections 13 and 14). Never a Content-Encoding:
 * what is stored as .gz is sent as it is. Closes the file.
 * @param reads what files are read in, all downloads together
 * @param watch called when bytes begin to move
 * @returns what became of it, for the log
 */
export async function sendFile(
  request: IncomingMessage,
  response: ServerResponse,
  { handle, sizeBytes, modified, tag }: ServedFile,
  reads: Slots,
  watch: (running: Pick<Running, "sizeBytes" | "movedBytes">) => () => void,
): Promise<string> {
  try {
    const method = request.method === "HEAD" ? "HEAD" : "GET";
    const etag = `"${tag}"`;
    const selection = select(method, request.headers, { sizeBytes, etag, modified });
    response.setHeader("Accept-Ranges", "bytes");
    response.setHeader("ETag", etag);
    response.setHeader("Last-Modified", modified.toUTCString());
    if (selection.status === 416) response.setHeader("Content-Range", `bytes */${sizeBytes}`);
    if (selection.status === 304) {
      response.writeHead(304).end();
      return "304";
    }
    if (selection.status !== 200 && selection.status !== 206) return answer(response, selection.status);
    const parts = selection.status === 206 ? wrap(response, selection.ranges, sizeBytes) : whole(response, sizeBytes);
    const length = parts.reduce((sum, { head, range }) => sum + head.length + range.last - range.first + 1, 0);
    response.setHeader("Content-Length", length);
    response.writeHead(selection.status);
    if (method === "HEAD" || length === 0) {
      response.end();
      return String(selection.status);
    }
    const writer = new Writer(response, reads);
    const unwatch = watch({ sizeBytes: length, movedBytes: () => writer.takenBytes });
    try {
      for (const { head, range } of parts) {
        if (head.length > 0) await writer.write(Buffer.from(head, "latin1"));
        await writer.writeRange(handle, range);
      }
      await writer.end();
      return `${selection.status} ${length} bytes`;
    } finally {
      unwatch();
    }
  } finally {
    await handle.close();
  }
}

/** What lies before a range, and the range; the last part of a multipart body has an empty range. */
interface Part {
  readonly head: string;
  readonly range: ByteRange;
}

function whole(response: ServerResponse, sizeBytes: number): Part[] {
  response.setHeader("Content-Type", octets);
  return [{ head: "", range: { first: 0, last: sizeBytes - 1 } }];
}

function wrap(response: ServerResponse, ranges: readonly ByteRange[], sizeBytes: number): Part[] {
  const [only, ...others] = ranges;
  if (only !== undefined && others.length === 0) {
    response.setHeader("Content-Type", octets);
    response.setHeader("Content-Range", `bytes ${only.first}-${only.last}/${sizeBytes}`);
    return [{ head: "", range: only }];
  }
  const boundary = randomBytes(16).toString("hex");
  response.setHeader("Content-Type", `multipart/byteranges; boundary=${boundary}`);
  const parts = ranges.map((range) => ({ head: multipartHead(boundary, octets, range, sizeBytes), range }));
  return [...parts, { head: multipartTail(boundary), range: { first: 0, last: -1 } }];
}

/** A response's body. While one buffer is sent, the other one is read into: new memory costs more than the copy. */
class Writer {
  readonly #response: ServerResponse;
  readonly #reads: Slots;
  readonly #buffers: Buffer[] = [];
  #turn = 0;
  #sent: Promise<void> = Promise.resolve();
  #fail: (error: Error) => void = () => {};
  /** Bytes that the socket has taken. */
  takenBytes = 0;

  constructor(response: ServerResponse, reads: Slots) {
    this.#response = response;
    this.#reads = reads;
    response.once("close", () => this.#fail(new Error("the client has gone")));
  }

  /** Resolves when the bytes before these have been taken; these must stay as they are until then. */
  async write(bytes: Buffer): Promise<void> {
    await this.#sent;
    this.#sent = new Promise<void>((resolve, reject) => {
      this.#fail = reject;
      this.#response.write(bytes, (error) => {
        if (error) return reject(error);
        this.takenBytes += bytes.length;
        resolve();
      });
    });
    // It is looked at with the next write.
    this.#sent.catch(() => {});
  }

  /** @throws Error if the file became shorter: a body that is cut must not look whole */
  async writeRange(handle: FileHandle, { first, last }: ByteRange): Promise<void> {
    for (let position = first; position <= last;) {
      const wanted = Math.min(readBytes, last - position + 1);
      this.#turn ^= 1;
      const buffer = (this.#buffers[this.#turn] ??= Buffer.allocUnsafeSlow(Math.min(readBytes, last - first + 1)));
      const read = () => handle.read(buffer, 0, Math.min(wanted, buffer.length), position);
      const { bytesRead } = await (wanted <= smallBytes ? read() : this.#reads.run(read));
      if (bytesRead === 0) throw new Error("the file became shorter while it was sent");
      await this.write(buffer.subarray(0, bytesRead));
      position += bytesRead;
    }
  }

  async end(): Promise<void> {
    await this.#sent;
    this.#response.end();
  }
}
