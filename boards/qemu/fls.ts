import { constants } from "node:fs";
import { open, rename, rm } from "node:fs/promises";
import { dirname, join } from "node:path";
import { Readable } from "node:stream";
import { AgentError } from "../../agent/driver/errors.ts";
import type { Logger } from "../../agent/driver/log.ts";
import { streamIntoFile } from "../../agent/stream/files.ts";
import { findCredential } from "../../agent/stream/registry-credentials.ts";
import { anySignal } from "../../agent/sys/any-signal.ts";
import { withoutSecrets } from "../../agent/sys/program.ts";
import { run, TimeoutExpired, type Output } from "../shell/process.ts";
import type { QemuConfig } from "./config.ts";
import { isAccessible, isOnPath } from "./process.ts";

export interface Login {
  readonly username?: string | null | undefined;
  readonly password?: string | null | undefined;
}

const scheme = "oci://";
const downloadTimeoutMs = 120_000;

/** Jumpstarter's program that writes an image from a registry to a file. It is given logins by its environment alone. */
export class Fls {
  readonly #config: QemuConfig;
  readonly #log: Logger;
  /** Of programs that are being ended. */
  readonly #ending = new Set<Promise<void>>();

  constructor(config: QemuConfig, log: Logger) {
    this.#config = config;
    this.#log = log;
  }

  /** @throws AgentError E_INVALID, E_FAILED: what can be refused before anything is fetched */
  check(url: string, { username, password }: Login): void {
    if (!url.startsWith(scheme)) throw new AgentError("E_INVALID", `OCI URL must start with ${scheme}`);
    if (Boolean(username) !== Boolean(password)) {
      throw new AgentError("E_INVALID", "OCI authentication requires both username and password");
    }
    const { fls_custom_binary_url: custom, fls_allow_custom_binaries: allowed } = this.#config;
    if (custom !== null && !allowed) {
      throw new AgentError("E_FAILED", "fls_custom_binary_url needs fls_allow_custom_binaries: true");
    }
  }

  /** Yields what it prints. @throws AgentError E_FAILED with what it died of; E_CANCELLED */
  async *run(url: string, path: string, login: Login, signal: AbortSignal): AsyncGenerator<Output> {
    const program = await this.#program(dirname(path), signal);
    const { flash_timeout: timeoutS } = this.#config;
    try {
      const running = run({
        argv: [program, "from-url", url, path],
        cwd: undefined,
        env: { ...withoutSecrets(process.env), ...(await this.#loginVariables(url, login)) },
        timeoutMs: timeoutS * 1_000,
        signal,
        onEnding: (ended) => {
          this.#ending.add(ended);
          void ended.then(() => this.#ending.delete(ended));
        },
      });
      for await (const [stdout, stderr, code] of running) {
        if (code === null) yield [stdout, stderr, null];
        else if (code !== 0) throw new AgentError("E_FAILED", `fls flash failed (return code ${code})`);
      }
      yield ["", "", 0];
    } catch (error) {
      if (!(error instanceof TimeoutExpired)) throw error;
      throw new AgentError("E_FAILED", `fls flash timed out after ${timeoutS}s`);
    }
  }

  /** None of them is left behind. */
  async close(): Promise<void> {
    await Promise.all(this.#ending);
  }

  /** The login for the registry of a reference: what the client gives, or else what this host knows. */
  async #loginVariables(url: string, { username, password }: Login): Promise<Record<string, string>> {
    if (username && password) return variables(username, password);
    const [host = "", ...names] = url
      .slice(scheme.length)
      .replace(/@[^@]*$/, "")
      .split("/");
    const repository = names.join("/").replace(/:[^:/]*$/, "");
    const found = await findCredential(host, repository, { useEnvironment: host === this.#config.oci_registry });
    // fls takes no tokens.
    return found !== undefined && "username" in found ? variables(found.username, found.password) : {};
  }

  async #program(folder: string, signal: AbortSignal): Promise<string> {
    const { fls_version: version, fls_custom_binary_url: custom } = this.#config;
    const url = custom ?? (version === null ? undefined : releaseOf(version));
    if (url === undefined) {
      if (isOnPath("fls")) return "fls";
      const hint = "install fls on the exporter's host, or set fls_version to have it downloaded";
      throw new AgentError("E_FAILED", `fls command not found: ${hint}`, { hint });
    }
    const path = join(folder, "fls");
    if (!isAccessible(path, constants.X_OK)) {
      this.#log.info(`downloading fls${version === null ? "" : ` ${version}`}`);
      await download(url, path, anySignal([signal, AbortSignal.timeout(downloadTimeoutMs)]));
    }
    return path;
  }
}

function releaseOf(version: string): string {
  const build = process.arch === "arm64" ? "fls-aarch64-linux-musl" : "fls-x86_64-linux";
  return `https://github.com/jumpstarter-dev/fls/releases/download/${encodeURIComponent(version)}/${build}`;
}

/** Whole and executable, or not there. Its address may hold a secret, and is in no error. */
async function download(url: string, path: string, signal: AbortSignal): Promise<void> {
  const beside = `${path}.new`;
  try {
    const answer = await fetch(url, { signal }).catch((cause: unknown) => {
      throw new AgentError("E_CONNECTION", "fls cannot be downloaded", { cause });
    });
    if (!answer.ok || answer.body === null) {
      throw new AgentError("E_FAILED", `fls cannot be downloaded: its server answers ${answer.status}`);
    }
    const file = await open(beside, "w", 0o700);
    try {
      await streamIntoFile(Readable.fromWeb(answer.body as never), file, { signal });
    } finally {
      await file.close();
    }
    await rename(beside, path);
  } finally {
    await rm(beside, { force: true });
  }
}

function variables(username: string, password: string): Record<string, string> {
  return { FLS_REGISTRY_USERNAME: username, FLS_REGISTRY_PASSWORD: password };
}
