import type { Upload } from "../uploads.ts";
import { NetasciiDecoder } from "./netascii.ts";
import type { Store } from "./reception.ts";

/** What waits for the disk; more is not acknowledged. */
const pendingBytesLimit = 1 << 20;

export interface FileStoreOptions {
  readonly upload: Upload;
  readonly netascii: boolean;
  /** It has room again. */
  readonly onReady: () => void;
  /** The file is in its place; false: its name was taken meanwhile. */
  readonly onStored: (isNew: boolean) => void;
  readonly onFailure: (error: unknown) => void;
}

/** Writes the payload of one reception to its file, in the order in which it comes and as fast as the disk takes it. */
export class FileStore implements Store {
  readonly #options: FileStoreOptions;
  readonly #decoder: NetasciiDecoder | undefined;
  #pending: Uint8Array[] = [];
  #pendingBytes = 0;
  #ending = false;
  #closed = false;
  #working = false;

  constructor(options: FileStoreOptions) {
    this.#options = options;
    if (options.netascii) this.#decoder = new NetasciiDecoder();
  }

  get isFull(): boolean {
    return this.#pendingBytes > pendingBytesLimit;
  }

  write(payload: Uint8Array): void {
    const bytes = this.#decoder?.decode(payload) ?? payload;
    this.#pending.push(bytes);
    this.#pendingBytes += bytes.length;
    this.#work();
  }

  finish(): void {
    if (this.#decoder !== undefined) this.#pending.push(this.#decoder.end());
    this.#ending = true;
    this.#work();
  }

  /** What is not in its place by now is taken away. Idempotent. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    if (!this.#working) this.#discard();
  }

  #discard(): void {
    this.#options.upload.discard().catch(() => {});
  }

  #work(): void {
    if (this.#working || this.#closed) return;
    this.#working = true;
    this.#drain().catch((error: unknown) => {
      this.#working = false;
      if (this.#closed) this.#discard();
      else this.#options.onFailure(error);
    });
  }

  async #drain(): Promise<void> {
    const { upload, onReady, onStored } = this.#options;
    while (this.#pending.length > 0 && !this.#closed) {
      const pending = this.#pending;
      this.#pending = [];
      await upload.write(Buffer.concat(pending));
      this.#pendingBytes = this.#pending.reduce((sum, { length }) => sum + length, 0);
      if (!this.#closed) onReady();
    }
    if (!this.#ending || this.#closed) {
      this.#working = false;
      if (this.#closed) this.#discard();
      return;
    }
    // From now on it is the upload that takes away what is left over.
    const isNew = await upload.commit();
    const wasClosed = this.#closed;
    this.#closed = true;
    this.#working = false;
    if (!wasClosed) onStored(isNew);
  }
}
