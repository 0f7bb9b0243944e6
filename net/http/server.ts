import { once } from "node:events";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import { createServer as createTlsServer } from "node:https";
import type { AddressInfo, Socket } from "node:net";
import { hostPort } from "../addresses.ts";
import { openInFolders, type Refusal } from "../files.ts";
import { SharedPort, type Listener } from "../shared-port.ts";
import type { EndedTransfer, RunningTransfer } from "../../agent/driver/shown.ts";
import type { TlsFiles } from "../../agent/sys/tls-files.ts";
import { answer, refuse } from "./answer.ts";
import { Connections, type Running } from "./connections.ts";
import { sendFile } from "./download.ts";
import { targetPath } from "./protocol.ts";
import { Slots } from "./slots.ts";
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

/**
 * Node reads files in four threads. One stays free, so that hundreds of downloads that begin at the same time do not
 * keep a small file waiting.
 */
const readsAtOnce = 3;

/** On one address, of all views. */
const mostConnections = 4096;

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
  readonly #reads = new Slots(readsAtOnce);

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
    server.maxConnections = mostConnections;
    // With TLS, this is before the handshake.
    server.on("connection", (socket: Socket) => this.#admit(socket, address));
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
    this.#connections.inTurn(request.socket, response, (view) => this.#serve(view, request, response, expectsContinue));
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
    // What a transfer moved; undefined while none began.
    let moved: (() => number) | undefined;
    const watch = (running: Running) => {
      moved = running.movedBytes;
      return this.#connections.watch(request.socket, running);
    };
    const tell = (outcome: EndedTransfer["outcome"]) => {
      const direction = isUpload(request) ? "from-board" : "to-board";
      view.ended?.({ protocol: "http", direction, movedBytes: moved?.() ?? 0, outcome });
    };
    try {
      log(await this.#answer(view, request, response, { expectsContinue, watch }));
      const { statusCode } = response;
      if (method !== "HEAD" && statusCode !== 304) tell(statusCode < 400 ? "complete" : "refused");
    } catch (error) {
      tell(response.destroyed || request.destroyed ? "aborted" : "failed");
      log(error instanceof Error ? error.message : String(error));
      if (!response.headersSent) await refuse(request, response, 500);
      // A body that cannot be completed must not look complete.
      else response.destroy();
    }
  }

  /** @returns what became of it, for the log */
  async #answer(
    view: HttpView,
    request: IncomingMessage,
    response: ServerResponse,
    { expectsContinue, watch: list }: { expectsContinue: boolean; watch: (running: Running) => () => void },
  ): Promise<string> {
    const path = targetPath(request.url ?? "");
    const watch = (direction: Running["direction"]) => (of: Pick<Running, "sizeBytes" | "movedBytes">) =>
      list({ ...of, name: path ?? "", direction, startedMs: performance.now() });
    if (isUpload(request) && view.uploads !== undefined && path?.startsWith(uploadsPath) === true) {
      const name = path.slice(uploadsPath.length);
      return await takeUpload(request, response, {
        name,
        uploads: view.uploads,
        expectsContinue,
        watch: watch("from-board"),
      });
    }
    if (request.method !== "GET" && request.method !== "HEAD") {
      response.setHeader("Allow", "GET, HEAD");
      return await refuse(request, response, 405);
    }
    // What a GET brings along means nothing (RFC 9110 section 9.3.1) and is not waited for.
    if (hasBody(request)) response.setHeader("Connection", "close");
    if (path === undefined) return answer(response, 400);
    const file = await openInFolders(view.roots, path);
    if ("refused" in file) return answer(response, refusals[file.refused]);
    return await sendFile(request, response, file, this.#reads, watch("to-board"));
  }
}

function isUpload({ method }: IncomingMessage): boolean {
  return method === "PUT" || method === "POST";
}

function hasBody({ headers }: IncomingMessage): boolean {
  return headers["transfer-encoding"] !== undefined || Number(headers["content-length"] ?? 0) > 0;
}
