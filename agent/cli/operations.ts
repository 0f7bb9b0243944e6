import { readFile, stat } from "node:fs/promises";
import { join } from "node:path";
import { AgentError, toAgentError } from "../driver/errors.ts";
import type { Logger } from "../driver/log.ts";
import type { DriverTree } from "../driver/tree.ts";
import { isLoopback } from "../ops/http/access.ts";
import type { Operated } from "../ops/http/listener.ts";
import { TlsFiles, type CredentialPaths } from "../sys/tls-files.ts";
import type { Given, Options } from "./command.ts";
import { parseListener } from "./listeners.ts";
import { readTls } from "./named-files.ts";

const group = "Operations";

export const operationsOptions = {
  operations: {
    type: "string",
    value: "[HOST:]PORT",
    help: "serve metrics, health and the status page; on 127.0.0.1 unless HOST says otherwise",
    group,
  },
  "operations-token-file": {
    type: "string",
    value: "PATH",
    help: "who reads must show this file's first line; needed for a HOST that others reach",
    group,
  },
  "operations-cert": {
    type: "string",
    value: "PATH",
    help: "serve it over HTTPS: certificate chain (PEM)",
    group,
  },
  "operations-key": { type: "string", value: "PATH", help: "private key of the certificate (PEM)", group },
  "operations-name": {
    type: "string",
    value: "NAME",
    multiple: true,
    help: "a name by which browsers reach it, beside addresses and the host's own names",
    group,
  },
} as const satisfies Options;

/** Where and how to listen. */
export interface OperationsWords {
  readonly host: string;
  readonly port: number;
  readonly token: string | undefined;
  readonly names: readonly string[];
  /** Files that serve; undefined: plain HTTP. */
  readonly tls: CredentialPaths | undefined;
}

/** Of the unit's `LoadCredential=`. */
const credentialName = "operations-token";
/** Guessing 16 random characters takes longer than the agent lives. */
const leastToken = 16;

/**
 * Reads the options and the file they name; undefined where nothing is asked for.
 * @throws AgentError E_USAGE
 */
export async function readOperations(
  given: Given<typeof operationsOptions>,
  env: NodeJS.ProcessEnv,
): Promise<OperationsWords | undefined> {
  const { operations: address, "operations-token-file": file, "operations-name": names = [] } = given;
  const { "operations-cert": certFile, "operations-key": keyFile } = given;
  if (address === undefined) {
    if ([file, certFile, keyFile].every((path) => path === undefined) && names.length === 0) return undefined;
    throw new AgentError("E_USAGE", "--operations-token-file, -cert, -key and -name mean nothing without --operations");
  }
  const { host, port } = parseListener(/:/.test(address) ? address : `127.0.0.1:${address}`, "--operations");
  const token = await readToken(file, env);
  if (token === undefined && !isLoopback(host)) {
    throw new AgentError("E_USAGE", `--operations ${address}: others reach this address, so a token is needed`, {
      hint: "--operations-token-file PATH, or 127.0.0.1 as the address",
    });
  }
  if ((certFile === undefined) !== (keyFile === undefined)) {
    throw new AgentError("E_USAGE", "--operations-cert and --operations-key go together");
  }
  if (certFile === undefined || keyFile === undefined) return { host, port, token, names, tls: undefined };
  await readTls("--operations", certFile, keyFile);
  return { host, port, token, names, tls: { cert: certFile, key: keyFile } };
}

async function readToken(given: string | undefined, env: NodeJS.ProcessEnv): Promise<string | undefined> {
  const credentials = env["CREDENTIALS_DIRECTORY"];
  const file = given ?? (credentials ? join(credentials, credentialName) : undefined);
  if (file === undefined) return undefined;
  const wrong = (message: string, hint?: string) =>
    new AgentError("E_USAGE", `--operations-token-file: ${message}`, { hint });
  let text: string;
  try {
    text = await readFile(file, "utf8");
    if (((await stat(file)).mode & 0o007) !== 0) throw wrong(`${file} is open to other users`, `chmod o= ${file}`);
  } catch (thrown) {
    const error = toAgentError(thrown);
    // The unit offers a credential, and nobody has to set it.
    if (given === undefined && (thrown as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw thrown instanceof AgentError ? thrown : wrong(error.message);
  }
  const token = text.split(/\r?\n/, 1)[0] ?? "";
  if (!/^[\x21-\x7e]+$/.test(token)) throw wrong(`the first line of ${file} is not printable ASCII without spaces`);
  if (token.length < leastToken) {
    throw wrong(`the token in ${file} is shorter than ${leastToken} characters`, "openssl rand -hex 32 makes one");
  }
  return token;
}

/** Metrics cost nothing where nobody asks for them. */
export async function loadMetrics() {
  return (await import("../ops/metrics/agent-metrics.ts")).createMetrics;
}

/** Starts the listener, and says where. Its code is loaded only for those who ask for it. */
export async function startOperations(words: OperationsWords, operated: Operated, log: Logger) {
  const { serveOperations } = await import("../ops/http/listener.ts");
  const tls = words.tls && new TlsFiles(words.tls, log);
  const listener = await serveOperations(operated, { ...words, tls, log }).catch((thrown: unknown) => {
    throw new AgentError("E_USAGE", `--operations: ${toAgentError(thrown).message}`, { cause: thrown });
  });
  const host = words.host.includes(":") ? `[${words.host}]` : words.host;
  const scheme = words.tls === undefined ? "http" : "https";
  log.info(`metrics, health and the status page are at ${scheme}://${host}:${listener.port}/`);
  if (words.tls === undefined && !isLoopback(words.host)) {
    log.warn("whoever listens in the network can read the token of --operations: --operations-cert gives it TLS");
  }
  return listener;
}

/** The console of a driver of these, if it is open and has one. */
export function consoleIn(tree: DriverTree | undefined, driver: string) {
  return tree?.drivers.find(({ planned }) => planned.path === driver)?.shown?.console;
}
