import { AgentError } from "../driver/errors.ts";
import type { Credentials } from "../sys/tls-files.ts";
import type { Given, Options } from "./command.ts";
import { readNamed, readTls } from "./named-files.ts";

const group = "Listeners (direct mode)";

export const listenerOptions = {
  "tls-grpc-listener": {
    type: "string",
    value: "[HOST:]PORT",
    help: "listen on TCP, on all addresses by default",
    group,
  },
  "tls-grpc-insecure": { type: "boolean", help: "with the listener: without TLS, for networks you trust", group },
  "tls-cert": { type: "string", value: "PATH", help: "with the listener: certificate chain (PEM)", group },
  "tls-key": { type: "string", value: "PATH", help: "with the listener: private key (PEM)", group },
  passphrase: {
    type: "string",
    value: "TEXT",
    help: "with the listener: clients must know it (other users of this host can see it here)",
    group,
  },
  "passphrase-file": {
    type: "string",
    value: "PATH",
    help: "with the listener: the passphrase is the file's first line",
    group,
  },
  unix: { type: "string", value: "PATH", help: "listen on a unix socket that only this user may open", group },
} as const satisfies Options;

/** A TCP listener as `serve` takes it. */
export interface TcpListener {
  readonly host: string;
  readonly port: number;
  readonly tls?: Credentials;
  readonly passphrase?: string;
}

export interface Listeners {
  readonly tcp: TcpListener | undefined;
  readonly unix: string | undefined;
}

/**
 * Reads the listener's options and the files they name. Without any the exporter is leased through its controller.
 * @throws AgentError E_USAGE for options that do not go together, E_CONFIG for files that do not serve
 */
export async function readListeners(
  given: Given<typeof listenerOptions>,
  env: NodeJS.ProcessEnv,
): Promise<Listeners | undefined> {
  const listener = given["tls-grpc-listener"];
  const insecure = given["tls-grpc-insecure"] === true;
  const [cert, key] = [given["tls-cert"], given["tls-key"]];
  const usage = (message: string, hint?: string) => new AgentError("E_USAGE", message, { hint });
  if (listener === undefined) {
    if (insecure || [cert, key, given.passphrase, given["passphrase-file"]].some((value) => value !== undefined)) {
      throw usage("--tls-grpc-insecure, --tls-cert, --tls-key, and --passphrase require --tls-grpc-listener");
    }
    return given.unix === undefined ? undefined : { tcp: undefined, unix: given.unix };
  }
  const { host, port } = parseListener(listener);
  if (insecure && (cert !== undefined || key !== undefined)) {
    throw usage("--tls-grpc-insecure cannot be combined with --tls-cert / --tls-key");
  }
  if (!insecure && (cert === undefined || key === undefined)) {
    throw usage("--tls-grpc-listener requires either --tls-grpc-insecure or --tls-cert and --tls-key");
  }
  const passphrase = await readPassphrase(given, env);
  return {
    unix: given.unix,
    tcp: {
      host,
      port,
      ...(cert === undefined || key === undefined ? {} : { tls: await readTls("--tls", cert, key) }),
      ...(passphrase === undefined ? {} : { passphrase }),
    },
  };
}

/** `1234`, `host:1234`, `:1234`, `[::1]:1234`. */
export function parseListener(text: string, option = "--tls-grpc-listener"): { host: string; port: number } {
  const colon = text.lastIndexOf(":");
  const host = text.slice(0, Math.max(colon, 0)).replace(/^\[(.*)\]$/, "$1");
  const digits = text.slice(colon + 1);
  const wrong = (message: string) => new AgentError("E_USAGE", `${option}: ${message}`);
  if (!/^\s*[+-]?\d+\s*$/.test(digits)) throw wrong(`port must be an integer, got '${digits}'`);
  const port = Number(digits);
  if (port < 1 || port > 65_535) throw wrong(`port must be between 1 and 65535, got ${port}`);
  return { host: host === "" ? "0.0.0.0" : host, port };
}

async function readPassphrase(
  given: Given<typeof listenerOptions>,
  env: NodeJS.ProcessEnv,
): Promise<string | undefined> {
  const file = given["passphrase-file"];
  if (given.passphrase !== undefined && file !== undefined) {
    throw new AgentError("E_USAGE", "--passphrase cannot be combined with --passphrase-file");
  }
  const text = file === undefined ? undefined : (await readNamed("--passphrase-file", file)).toString("utf8");
  const passphrase = given.passphrase ?? text?.split(/\r?\n/, 1)[0] ?? env["JMP_PASSPHRASE"];
  if (passphrase === "") {
    // An unset variable in a script must not open the exporter to everyone.
    throw new AgentError("E_USAGE", "the passphrase must not be empty");
  }
  // gRPC metadata carries printable ASCII only; anything else could never be presented.
  if (passphrase !== undefined && !/^[\x20-\x7e]+$/.test(passphrase)) {
    throw new AgentError("E_USAGE", "the passphrase must consist of printable ASCII characters");
  }
  return passphrase;
}
