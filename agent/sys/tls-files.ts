import { readFile, stat } from "node:fs/promises";
import { createSecureContext } from "node:tls";
import { AgentError, toAgentError } from "../driver/errors.ts";
import type { Logger } from "../driver/log.ts";

/** PEM. */
export interface Credentials {
  readonly cert: Buffer;
  readonly key: Buffer;
}

export interface CredentialPaths {
  readonly cert: string;
  readonly key: string;
}

/** A server's certificate chain and key in two files; renewed ones are taken over within `checkMs`. */
export class TlsFiles {
  readonly #paths: CredentialPaths;
  readonly #log: Logger;
  readonly #checkMs: number;
  readonly #followers = new Set<(current: Credentials) => void>();
  #current: Credentials | undefined;
  /** What the files were when they were read last, whether they served or not. */
  #stamp = "";
  #timer: NodeJS.Timeout | undefined;

  constructor(paths: CredentialPaths, log: Logger, { checkMs = 10_000 } = {}) {
    this.#paths = paths;
    this.#log = log;
    this.#checkMs = checkMs;
  }

  /**
   * Reads the files, if they have changed. What is half written or wrong changes nothing, once there is something that
   * serves; it is said once.
   * @throws AgentError E_CONFIG if there is nothing that serves
   */
  async load(): Promise<void> {
    const { cert: certPath, key: keyPath } = this.#paths;
    const former = this.#current;
    const stamp = await this.#stampNow();
    if (former !== undefined && stamp === this.#stamp) return;
    this.#stamp = stamp;
    try {
      // One after the other, so that it is always the certificate that is named when both are missing.
      const cert = await readFile(certPath);
      const key = await readFile(keyPath);
      createSecureContext({ cert, key });
      this.#current = { cert, key };
    } catch (error) {
      const problem = `TLS with ${certPath} and ${keyPath}: ${toAgentError(error).message}`;
      if (former !== undefined) return this.#log.warn(`${problem}; the former certificate serves on`);
      throw new AgentError("E_CONFIG", problem, {
        cause: error,
        hint: "a PEM certificate chain, and its PEM private key without a password",
      });
    }
    if (former !== undefined) this.#log.info(`${certPath} was renewed`);
    for (const follower of this.#followers) follower(this.#current);
  }

  /** Of the last `load`. */
  get current(): Credentials {
    if (this.#current === undefined) throw new Error("not loaded");
    return this.#current;
  }

  /** Tells of renewed files. @returns what ends that */
  follow(follower: (current: Credentials) => void): () => void {
    this.#followers.add(follower);
    this.#timer ??= setInterval(() => void this.load(), this.#checkMs).unref();
    return () => {
      this.#followers.delete(follower);
      if (this.#followers.size > 0) return;
      clearInterval(this.#timer);
      this.#timer = undefined;
    };
  }

  async #stampNow(): Promise<string> {
    const { cert, key } = this.#paths;
    const stamps = [cert, key].map(async (path) => {
      const { ino, mtimeMs, size } = await stat(path);
      return `${ino} ${mtimeMs} ${size}`;
    });
    return (await Promise.all(stamps).catch((error: unknown) => [String(error)])).join();
  }
}
