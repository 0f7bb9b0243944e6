import { readFile, stat } from "node:fs/promises";
import { createSecureContext } from "node:tls";
import { AgentError, toAgentError } from "../../agent/driver/errors.ts";
import type { Logger } from "../../agent/driver/log.ts";

/** PEM. */
export interface Credentials {
  readonly cert: Buffer;
  readonly key: Buffer;
}

/** Renewed certificates are taken over so soon. */
const checkMs = 10_000;

/** A server's certificate chain and key in two files, which may be renewed while it runs. */
export class TlsFiles {
  readonly #paths: { readonly cert: string; readonly key: string };
  readonly #log: Logger;
  readonly #followers = new Set<(current: Credentials) => void>();
  #current: Credentials | undefined;
  #stamp = "";
  #timer: NodeJS.Timeout | undefined;

  constructor(paths: { readonly cert: string; readonly key: string }, log: Logger) {
    this.#paths = paths;
    this.#log = log;
  }

  /** @throws AgentError E_CONFIG for files that are missing or do not fit together */
  async load(): Promise<void> {
    const { cert: certPath, key: keyPath } = this.#paths;
    try {
      const stamp = await this.#stampNow();
      const [cert, key] = await Promise.all([readFile(certPath), readFile(keyPath)]);
      createSecureContext({ cert, key });
      [this.#current, this.#stamp] = [{ cert, key }, stamp];
    } catch (error) {
      throw new AgentError("E_CONFIG", `TLS with ${certPath} and ${keyPath}: ${toAgentError(error).message}`, {
        cause: error,
        hint: "tls_cert is a PEM certificate chain, tls_key its PEM private key",
      });
    }
  }

  get current(): Credentials {
    if (this.#current === undefined) throw new Error("not loaded");
    return this.#current;
  }

  /** Tells of renewed files. @returns what ends that */
  follow(follower: (current: Credentials) => void): () => void {
    this.#followers.add(follower);
    this.#timer ??= setInterval(() => void this.#check(), checkMs).unref();
    return () => {
      this.#followers.delete(follower);
      if (this.#followers.size > 0) return;
      clearInterval(this.#timer);
      this.#timer = undefined;
    };
  }

  /** What is half written, or wrong, changes nothing: the old ones serve on. */
  async #check(): Promise<void> {
    try {
      if ((await this.#stampNow()) === this.#stamp) return;
      await this.load();
      for (const follower of this.#followers) follower(this.current);
      this.#log.info(`${this.#paths.cert} was renewed`);
    } catch (error) {
      this.#log.warn(toAgentError(error).message);
    }
  }

  async #stampNow(): Promise<string> {
    const stats = await Promise.all([stat(this.#paths.cert), stat(this.#paths.key)]);
    return stats.map(({ ino, mtimeMs, size }) => `${ino} ${mtimeMs} ${size}`).join();
  }
}
