import { createHash } from "node:crypto";
import type { Duplex } from "node:stream";
import ssh2, { type ConnectConfig, type ServerHostKeyAlgorithm } from "ssh2";
import { AgentError, toAgentError } from "../../agent/driver/errors.ts";
import { anySignal } from "../../agent/sys/any-signal.ts";
import type { HostKey } from "../ssh/known-hosts.ts";
import { messagePort, type MessagePort } from "./transport.ts";

export interface DutOptions {
  readonly user: string;
  readonly dial: (signal: AbortSignal) => Promise<Duplex>;
  /** @throws AgentError with its reason */
  readonly identity: () => Promise<string>;
  /** The host keys that are accepted; undefined: any. */
  readonly pinned: () => Promise<readonly HostKey[] | undefined>;
  /** For all of it: the connection, the key exchange and the login. */
  readonly timeoutMs: number;
  readonly signal: AbortSignal;
}

/** A login on the board. */
export interface Dut {
  readonly port: MessagePort;
  readonly socket: Duplex;
  /** Called once, when the connection is over, with the reason if it broke. */
  onClosed(listener: (reason: string | undefined) => void): void;
  /** Says goodbye; what the board then leaves open is cut off a second later. */
  close(): void;
}

const goodbyeMs = 1_000;

/** @throws AgentError whose text is meant for the client; nothing of the key is in it */
export async function logIn(options: DutOptions): Promise<Dut> {
  const { user, timeoutMs } = options;
  const late = AbortSignal.timeout(timeoutMs);
  const signal = anySignal([options.signal, late]);
  const tooLate = () => new AgentError("E_TIMEOUT", `no login on the board within ${timeoutMs / 1_000} s`);
  const [privateKey, pinned] = await Promise.all([options.identity(), options.pinned()]);
  let socket: Duplex;
  try {
    socket = await options.dial(signal);
  } catch (error) {
    if (late.aborted && !options.signal.aborted) throw tooLate();
    const { code, message } = toAgentError(error);
    throw new AgentError(code, `the board cannot be reached: ${message}`, { cause: error });
  }
  const client = new ssh2.Client();
  let fault: AgentError | undefined;
  let strange: string | undefined;
  const closed = new Promise<void>((resolve) => client.once("close", resolve));
  let goodbye: NodeJS.Timeout | undefined;
  const close = () => {
    client.end();
    goodbye ??= setTimeout(() => socket.destroy(), goodbyeMs);
  };
  void closed.then(() => clearTimeout(goodbye));
  client.on("error", (error) => {
    fault ??= new AgentError("E_CONNECTION", describe(error, user, strange), { cause: error });
    close();
  });
  // The board has said all it had to say; our half of the socket stays open until we end it.
  client.once("end", () => socket.end());
  try {
    const ready = new Promise<void>((resolve, reject) => {
      const giveUp = () => reject(late.aborted && !options.signal.aborted ? tooLate() : cancelled());
      signal.addEventListener("abort", giveUp, { once: true });
      if (signal.aborted) giveUp();
      client.once("ready", resolve);
      client.once("error", () => reject(fault ?? cancelled()));
      client.once("close", () => reject(fault ?? new AgentError("E_CONNECTION", "the board closed the connection")));
    });
    ready.catch(() => {}); // while `connect` throws
    connect(client, socket, {
      username: user,
      privateKey,
      ...(pinned === undefined
        ? {}
        : {
            hostVerifier: (key: Buffer) => {
              if (pinned.some(({ base64 }) => key.equals(Buffer.from(base64, "base64")))) return true;
              strange = `SHA256:${createHash("sha256").update(key).digest("base64").replace(/=+$/, "")}`;
              return false;
            },
          }),
      algorithms: algorithms(pinned),
    });
    const port = messagePort(client, socket);
    await ready;
    return {
      port,
      socket,
      close,
      onClosed: (listener) => void closed.then(() => listener(fault?.message)),
    };
  } catch (error) {
    close();
    throw error;
  }
}

function connect(client: ssh2.Client, socket: Duplex, config: ConnectConfig): void {
  try {
    // The timeout is ours, as it counts from the dial on; so is the keepalive.
    client.connect({ ...config, sock: socket, readyTimeout: 0, keepaliveInterval: 0 });
  } catch (error) {
    // Only the key is checked before the first packet, and ssh2's texts about keys say nothing of what is in them.
    throw new AgentError("E_CONFIG", `the exporter's key for the board is not usable: ${(error as Error).message}`);
  }
}

/** Old boards' algorithms last; of a board with several host keys, one that is pinned. No compression: payloads pass as they are. */
function algorithms(pinned: readonly HostKey[] | undefined): NonNullable<ConnectConfig["algorithms"]> {
  const wanted = (pinned ?? []).flatMap(({ type }) =>
    type === "ssh-rsa" ? ["rsa-sha2-512", "rsa-sha2-256", "ssh-rsa"] : [type],
  );
  const known = [...new Set([...wanted, ...hostKeyAlgorithms])].filter((name) => hostKeyAlgorithms.includes(name));
  return {
    kex: { append: ["diffie-hellman-group14-sha1"], prepend: [], remove: [] },
    serverHostKey: known as ServerHostKeyAlgorithm[],
    compress: ["none"],
  };
}

const hostKeyAlgorithms = [
  "ssh-ed25519",
  "ecdsa-sha2-nistp256",
  "ecdsa-sha2-nistp384",
  "ecdsa-sha2-nistp521",
  "rsa-sha2-512",
  "rsa-sha2-256",
  "ssh-rsa",
];

function describe(error: Error & { level?: string }, user: string, strange: string | undefined): string {
  if (error.level === "client-authentication") return `the board refuses the exporter's key for user '${user}'`;
  if (strange !== undefined) return `the board's host key ${strange} is none of those in known_hosts`;
  return `the connection to the board broke: ${error.message}`;
}

const cancelled = () => new AgentError("E_CANCELLED", "the connection to the board was cancelled");
