import { duplexPair, type Duplex } from "node:stream";
import ssh2, { type AuthContext, type CipherAlgorithm, type Connection } from "ssh2";
import { toAgentError } from "../../agent/driver/errors.ts";
import type { Logger } from "../../agent/driver/log.ts";
import { logIn, type Dut, type DutOptions } from "./dut.ts";
import type { TerminalSize } from "./protocol.ts";
import { ChannelRelay } from "./relay.ts";
import { messagePort, restrain, type MessagePort } from "./transport.ts";

export interface GatewayOptions extends Pick<DutOptions, "dial" | "identity" | "pinned"> {
  /** Private host key that clients see. */
  readonly hostKey: string;
  /** If given, clients must log in as this user, and as no other. */
  readonly onlyUser: string;
  readonly forwarding: boolean;
  readonly terminal: TerminalSize;
  /** How long a client may take to log in, to open its first channel, and to say what is to run in a session. */
  readonly channelTimeoutMs: number;
  readonly connectTimeoutMs: number;
  readonly keepaliveMs: number;
  readonly log: Logger;
}

const maxChannels = 64;

/** So many times in a row may the board leave us without an answer. */
const maxSilences = 3;

/** Without ChaCha20-Poly1305, which OpenSSH would choose, and which is a third slower here: half of it is not in OpenSSL. */
const ciphers: CipherAlgorithm[] = [
  "aes128-gcm@openssh.com",
  "aes256-gcm@openssh.com",
  "aes128-ctr",
  "aes192-ctr",
  "aes256-ctr",
];

/** ssh2 pings its clients whatever it is told; this is as seldom as a timer can. Whoever has gone takes its stream along. */
const neverMs = 2 ** 31 - 1;

/** Who has no name is the board's administrator, as for the Python exporter. */
const usualUser = "root";

/** One SSH connection of a client, and the login on the board that it gets. */
export class Gateway {
  /** For the client: an SSH server speaks on it. */
  readonly stream: Duplex;
  readonly #options: GatewayOptions;
  /** The other end of the client's stream. */
  readonly #socket: Duplex;
  readonly #relay: ChannelRelay;
  readonly #closing = new AbortController();
  #client: { readonly connection: Connection; readonly port: MessagePort } | undefined;
  #dut: Dut | undefined;
  #patience: NodeJS.Timeout | undefined;
  #keepalive: NodeJS.Timeout | undefined;
  #silences = 0;

  constructor(options: GatewayOptions) {
    this.#options = options;
    [this.stream, this.#socket] = duplexPair();
    this.#relay = new ChannelRelay({
      forwarding: options.forwarding,
      maxChannels,
      terminal: options.terminal,
      toClient: (payload) => this.#client?.port.send(payload),
      toDut: (payload) => this.#dut?.port.send(payload),
    });
    for (const end of [this.stream, this.#socket]) {
      end.on("error", () => {});
      end.once("close", () => this.close());
    }
    // The ends of a pair do not close each other, and ssh2 keeps a timer until its socket closes.
    this.stream.once("close", () => this.#socket.destroy());
    // However ssh2 ends it: also before it says that there is a connection.
    this.#socket.once("finish", () => this.close());
    this.#patience = setTimeout(() => this.#loseClient("the client does not log in"), options.channelTimeoutMs);
    const server = new ssh2.Server(
      {
        hostKeys: [options.hostKey],
        ident: "jumpstarter-agent",
        algorithms: { compress: ["none"], cipher: ciphers },
        keepaliveInterval: neverMs,
      },
      (connection) => this.#serve(connection),
    );
    server.injectSocket(this.#socket as never);
  }

  /** Ends both connections. Idempotent. */
  close(): void {
    if (this.#closing.signal.aborted) return;
    this.#closing.abort();
    clearTimeout(this.#patience);
    clearInterval(this.#keepalive);
    this.#client?.connection.end();
    this.#socket.end();
    // What was said last has to be read first.
    if (this.stream.readableEnded) this.stream.destroy();
    else this.stream.once("end", () => this.stream.destroy());
    this.#dut?.close();
  }

  #serve(connection: Connection): void {
    this.#client = { connection, port: messagePort(connection, this.#socket) };
    connection.on("error", (error) => this.#loseClient(error.message));
    connection.on("close", () => this.close());
    connection.on("end", () => this.close());
    let user = usualUser;
    connection.on("authentication", (context) => {
      user = context.username || this.#options.onlyUser || usualUser;
      this.#authenticate(context, user);
    });
    connection.on("ready", () => {
      this.#client?.port.receive((payload) => {
        this.#relay.fromClient(payload);
        this.#mayWait();
        this.#restrainClient();
      });
      clearTimeout(this.#patience);
      this.#patience = undefined;
      this.#mayWait();
      this.#connect(user).catch((error: unknown) => this.#loseDut(toAgentError(error).message));
    });
  }

  /** The stream is the right: whoever has it has the lease. What a client shows beside is not looked at. */
  #authenticate(context: AuthContext, user: string): void {
    const { onlyUser, log } = this.#options;
    if (onlyUser === "" || user === onlyUser) {
      context.accept();
      return;
    }
    if (context.method === "none") log.warn(`login refused: the user is '${onlyUser}', not '${printable(user)}'`);
    // No method would help: the client need not ask for a password.
    context.reject([]);
  }

  async #connect(user: string): Promise<void> {
    const { log, dial, identity, pinned, connectTimeoutMs, keepaliveMs } = this.#options;
    const { signal } = this.#closing;
    const dut = await logIn({ user, dial, identity, pinned, timeoutMs: connectTimeoutMs, signal });
    if (signal.aborted) {
      dut.close();
      return;
    }
    this.#dut = dut;
    log.info(`connected with the board as ${printable(user)}`);
    dut.onClosed((reason) => this.#loseDut(reason));
    const restrainDut = restrain(dut.socket, this.#socket);
    this.#restrainClient = restrain(this.#socket, dut.socket);
    dut.port.receive((payload) => {
      this.#silences = 0;
      this.#relay.fromDut(payload);
      this.#mayWait();
      restrainDut();
    });
    this.#keepalive = setInterval(() => {
      if (++this.#silences > maxSilences) this.#loseDut("the board does not answer any more");
      else this.#relay.ping();
    }, keepaliveMs);
    this.#relay.connected();
  }

  #restrainClient = () => {};

  /** A client that has a connection and does nothing with it does not have it for ever. */
  #mayWait(): void {
    const idle = this.#relay.idle;
    if (!idle || this.#closing.signal.aborted) {
      clearTimeout(this.#patience);
      this.#patience = undefined;
    } else {
      this.#patience ??= setTimeout(
        () => this.#loseClient("the client does not say what is to run"),
        this.#options.channelTimeoutMs,
      );
    }
  }

  #loseClient(reason: string): void {
    if (!this.#closing.signal.aborted) this.#options.log.warn(`connection ended: ${printable(reason)}`);
    this.close();
  }

  #loseDut(reason: string | undefined): void {
    if (this.#closing.signal.aborted) return;
    if (reason !== undefined) this.#options.log.warn(printable(reason));
    this.#relay.failed(reason ?? "the board closed the connection");
    this.close();
  }
}

/** Foreign text for a log: one line, and not too long. */
function printable(text: string): string {
  // eslint-disable-next-line no-control-regex
  return text.replace(/[\u0000-\u001f\u007f-\u009f]/g, "?").slice(0, 300);
}
