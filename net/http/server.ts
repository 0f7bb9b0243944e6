import { once } from "node:events";
import { createServer, STATUS_CODES, type IncomingMessage, type ServerResponse } from "node:http";
import { createServer as createTlsServer } from "node:https";
import type { AddressInfo, Socket } from "node:net";
import { hostPort } from "../addresses.ts";
import { openInFolders, type Refusal } from "../files.ts";
import { SharedPort, type Listener } from "../shared-port.ts";
import type { RunningTransfer } from "../transfers.ts";
import { Connections, type Running } from "./connections.ts";
import { answer, sendFile } from "./download.ts";
import { targetPath } from "./protocol.ts";
import type { TlsFiles } from "./tls.ts";
import { takeUpload, uploadsPath } from "./upload.ts";
import type { HttpView } from "./view.ts";

export interface HttpServerOptions {
  /** Time for a request's head. */
  readonly headersMs?: number;
  /** Time for a whole request, which is long only where it is an upload. */
  readonly requestMs?: number;
  /** Serve HTTPS with these. */
  readonly tls?: TlsFiles | undefined;
}

/** The system's own limit comes before that of files; handshakes count here, and nowhere else. */
const mostSockets = 4096;

const refusals: Readonly<Record<Refusal, number>> = {
  missing: 404,
  folder: 403,
  special: 403,
  outside: 403,
  forbidden: 403,
};

/** A server of static files on one port: what a view has and nothing else, and new files where a view takes them. */
export class HttpServer {
  readonly #port: SharedPort<HttpView>;
  readonly #options: HttpServerOptions;
  readonly #connections = new Connections();

  /** @param port 0 lets the system choose; all addresses then share the port. */
  constructor(port: number, options: HttpServerOptions = {}) {
    this.#port = new SharedPort(port, (address, at) => this.#listen(address, at));
    this.#options = options;
  }

  /** The port that is bound, on every address. */
  get port(): number {
    return this.#port.port;
  }

  /** Local addresses that are listened on now. */
  get addresses(): string[] {
    return this.#port.addresses;
  }

  /** Open connections. */
  get connections(): number {
    return this.#connections.size;
  }

  /** What is on its way now. */
  running(): RunningTransfer[] {
    return this.#connections.running();
  }

  /**
   * Shows a view on these addresses or names; a wildcard stands for every address of the host. `stop` frees the port
   * at once, if no other view is shown there, and cuts the connections of the view's boards.
   * @throws AgentError E_IO when an address cannot be bound, or another view is shown to the same boards there;
   * E_CONFIG for certificates that do not serve.
   */
  async serve(view: HttpView, hosts: readonly string[]): Promise<{ readonly port: number; stop(): void }> {
    await this.#options.tls?.load();
    const served = await this.#port.serve(view, hosts);
    return {
      port: this.#port.port,
      stop: () => {
        served.stop();
        this.#connections.cut(view);
      },
    };
  }

  async #listen(address: string, port: number): Promise<Listener> {
    const { headersMs = 10_000, requestMs = 3_600_000, tls } = this.#options;
    const options = {
      headersTimeout: headersMs,
      requestTimeout: requestMs,
      connectionsCheckingInterval: Math.min(1_000, headersMs),
      keepAliveTimeout: 5_000,
      noDelay: true,
    };
    const server =
      tls === undefined
        ? createServer(options)
        : createTlsServer({ ...options, ...tls.current, handshakeTimeout: headersMs });
    const forget = tls?.follow((current) => "setSecureContext" in server && server.setSecureContext(current));
    server.maxConnections = mostSockets;
    server.on(tls === undefined ? "connection" : "secureConnection", (socket: Socket) => this.#admit(socket, address));
    server.on("request", (request, response) => this.#onRequest(request, response, false));
    server.on("checkContinue", (request, response) => this.#onRequest(request, response, true));
    try {
      server.listen({ host: address, port, exclusive: true });
      await once(server, "listening");
    } catch (error) {
      forget?.();
      throw error;
    }
    return {
      port: (server.address() as AddressInfo).port,
      close: () => {
        forget?.();
        server.close();
        server.closeAllConnections();
      },
    };
  }

  #admit(socket: Socket, local: string): void {
    const served = this.#port.find(local, socket.remoteAddress ?? "");
    if (served === undefined) socket.destroy();
    else this.#connections.admit(socket, served);
  }

  #onRequest(request: IncomingMessage, response: ServerResponse, expectsContinue: boolean): void {
    const served = this.#connections.servedTo(request.socket);
    if (served === undefined) return void request.socket.destroy();
    served.run(() => void this.#serve(served.view, request, response, expectsContinue));
  }

  async #serve(
    view: HttpView,
    request: IncomingMessage,
    response: ServerResponse,
    expectsContinue: boolean,
  ): Promise<void> {
    const { method = "", url = "", socket } = request;
    // Read before the socket goes.
    const peer = hostPort(socket.remoteAddress ?? "?", socket.remotePort ?? 0);
    const log = (text: string) => {
      view.log.info(`HTTP ${method} ${JSON.stringify(url.slice(0, 255))} of ${peer}: ${text}`);
    };
    try {
      log(await this.#answer(view, request, response, expectsContinue));
    } catch (error) {
      log(error instanceof Error ? error.message : String(error));
      if (!response.headersSent) answer(response, 500);
      // A body that cannot be completed must not look complete.
      else response.destroy();
    }
  }

  /** @returns what became of it, for the log */
  async #answer(
    view: HttpView,
    request: IncomingMessage,
    response: ServerResponse,
    expectsContinue: boolean,
  ): Promise<string> {
    const only = (status: number) => {
      answer(response, status);
      return `${status} ${STATUS_CODES[status]}`;
    };
    const path = targetPath(request.url ?? "");
    const isUpload = request.method === "PUT" || request.method === "POST";
    const watch = (direction: Running["direction"]) => (of: Pick<Running, "sizeBytes" | "movedBytes">) =>
      this.#connections.watch(request.socket, {
        ...of,
        name: path ?? "",
        direction,
        startedMs: performance.now(),
      });
    if (isUpload && view.uploads !== undefined && path?.startsWith(uploadsPath) === true) {
      const name = path.slice(uploadsPath.length);
      return await takeUpload(request, response, {
        name,
        uploads: view.uploads,
        expectsContinue,
        watch: watch("from-board"),
      });
    }
    // Whatever body it sends is not read.
    if (hasBody(request)) response.setHeader("Connection", "close");
    if (request.method !== "GET" && request.method !== "HEAD") {
      response.setHeader("Allow", "GET, HEAD").setHeader("Connection", "close");
      return only(405);
    }
    if (path === undefined) return only(400);
    const file = await openInFolders(view.roots, path);
    if ("refused" in file) return only(refusals[file.refused]);
    await sendFile(request, response, file, watch("to-board"));
    return String(response.statusCode);
  }
}

function hasBody({ headers }: IncomingMessage): boolean {
  return headers["transfer-encoding"] !== undefined || Number(headers["content-length"] ?? 0) > 0;
}
