import { once } from "node:events";
import { createServer, STATUS_CODES, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo, Socket } from "node:net";
import { pipeline } from "node:stream/promises";
import type { Logger } from "../../agent/driver/log.ts";
import { hostPort, listenError } from "../addresses.ts";
import { openConfined, type Refusal, type ServedFile } from "../files.ts";
import { select, targetPath } from "./protocol.ts";

export interface HttpServerOptions {
  /** Only regular files below this folder are served. */
  readonly root: string;
  readonly hosts: readonly string[];
  /** 0 lets the system choose; all addresses then share the port. */
  readonly port: number;
  readonly log: Logger;
  readonly limits?: Partial<HttpLimits>;
}

export interface HttpLimits {
  readonly connections: number;
  /** Of `connections`, how many one address may have. */
  readonly connectionsPerPeer: number;
  /** Time for a request's head, and for the whole of it. */
  readonly headersMs: number;
  readonly requestMs: number;
  /** A download must move {@link stallBytes} in so long. */
  readonly stallMs: number;
}

const defaultLimits: HttpLimits = {
  connections: 256,
  connectionsPerPeer: 16,
  headersMs: 10_000,
  requestMs: 30_000,
  stallMs: 600_000,
};

/** A board that flashes slowly still takes far more than this; who reads byte by byte does not. */
const stallBytes = 64 * 1024;
const readBytes = 512 * 1024;

const refusals: Readonly<Record<Refusal, number>> = {
  missing: 404,
  folder: 403,
  special: 403,
  outside: 403,
  forbidden: 403,
};

/** A static file server: GET and HEAD, ranges, conditions; what is below `root` and nothing else. */
export class HttpServer {
  readonly #options: HttpServerOptions;
  readonly #limits: HttpLimits;
  readonly #servers: Server[] = [];
  readonly #perPeer = new Map<string, number>();
  #connections = 0;
  #port: number;

  private constructor(options: HttpServerOptions) {
    this.#options = options;
    this.#limits = { ...defaultLimits, ...options.limits };
    this.#port = options.port;
  }

  /**
   * Resolves when every address is bound.
   * @throws AgentError E_IO when an address cannot be bound; nothing is left open then.
   */
  static async start(options: HttpServerOptions): Promise<HttpServer> {
    const server = new HttpServer(options);
    try {
      for (const host of options.hosts) await server.#listen(host);
    } catch (error) {
      server.stop();
      throw error;
    }
    return server;
  }

  /** The port that is bound, on every address. */
  get port(): number {
    return this.#port;
  }

  /** Open connections. */
  get connections(): number {
    return this.#connections;
  }

  /** Frees the port at once and cuts running downloads. Idempotent. */
  stop(): void {
    for (const server of this.#servers.splice(0)) {
      server.close();
      server.closeAllConnections();
    }
  }

  async #listen(host: string): Promise<void> {
    const { headersMs, requestMs } = this.#limits;
    const server = createServer({
      headersTimeout: headersMs,
      requestTimeout: requestMs,
      connectionsCheckingInterval: Math.min(1_000, headersMs),
      keepAliveTimeout: 5_000,
      noDelay: true,
    });
    server.on("connection", (socket) => this.#admit(socket));
    server.on("request", (request, response) => void this.#serve(request, response));
    this.#servers.push(server);
    try {
      server.listen({ host, port: this.#port, exclusive: true });
      await once(server, "listening");
    } catch (error) {
      throw listenError(error, host, this.#port);
    }
    this.#port = (server.address() as AddressInfo).port;
  }

  /** Counts a connection, or cuts it when there are too many. */
  #admit(socket: Socket): void {
    const peer = socket.remoteAddress ?? "";
    const count = this.#perPeer.get(peer) ?? 0;
    if (this.#connections >= this.#limits.connections || count >= this.#limits.connectionsPerPeer) {
      this.#options.log.debug(`HTTP connection of ${peer} refused: too many`);
      socket.destroy();
      return;
    }
    this.#connections += 1;
    this.#perPeer.set(peer, count + 1);
    socket.once("close", () => {
      this.#connections -= 1;
      const left = (this.#perPeer.get(peer) ?? 1) - 1;
      if (left > 0) this.#perPeer.set(peer, left);
      else this.#perPeer.delete(peer);
    });
  }

  async #serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const { log, root } = this.#options;
    const { method = "", url = "" } = request;
    // Read before the socket goes.
    const peer = hostPort(request.socket.remoteAddress ?? "?", request.socket.remotePort ?? 0);
    const what = `HTTP ${method} ${JSON.stringify(url.slice(0, 255))} of ${peer}`;
    try {
      if (method !== "GET" && method !== "HEAD") {
        // Whatever body it sends is not read.
        response.setHeader("Allow", "GET, HEAD").setHeader("Connection", "close");
        return answer(response, 405);
      }
      const path = targetPath(url);
      if (path === undefined) return answer(response, 400);
      const file = await openConfined(root, path);
      if ("refused" in file) {
        const status = refusals[file.refused];
        log.info(`${what}: ${status} ${STATUS_CODES[status]}`);
        return answer(response, status);
      }
      await this.#send(method, request, response, file);
      log.info(`${what}: ${response.statusCode}`);
    } catch (error) {
      log.info(`${what}: ${error instanceof Error ? error.message : String(error)}`);
      if (!response.headersSent) answer(response, 500);
      // A body that cannot be completed must not look complete.
      else response.destroy();
    }
  }

  async #send(
    method: "GET" | "HEAD",
    request: IncomingMessage,
    response: ServerResponse,
    file: ServedFile,
  ): Promise<void> {
    const { handle, sizeBytes, modified } = file;
    try {
      const etag = `"${file.tag}"`;
      const selection = select(method, request.headers, { sizeBytes, etag, modified });
      response.setHeader("Accept-Ranges", "bytes");
      response.setHeader("ETag", etag);
      response.setHeader("Last-Modified", modified.toUTCString());
      if (selection.status === 416) response.setHeader("Content-Range", `bytes */${sizeBytes}`);
      if (selection.status === 304) return void response.writeHead(304).end();
      if (selection.status !== 200 && selection.status !== 206) return answer(response, selection.status);
      const [start, end] = selection.status === 206 ? [selection.first, selection.last] : [0, sizeBytes - 1];
      if (selection.status === 206) response.setHeader("Content-Range", `bytes ${start}-${end}/${sizeBytes}`);
      // Never a Content-Encoding: what is stored as .gz is sent as it is.
      response.setHeader("Content-Type", "application/octet-stream");
      response.setHeader("Content-Length", end - start + 1);
      response.writeHead(selection.status);
      if (method === "HEAD" || end < start) return void response.end();
      const stopWatching = this.#watchProgress(request.socket);
      try {
        const body = handle.createReadStream({ start, end, highWaterMark: readBytes, autoClose: false });
        await pipeline(body, response);
      } finally {
        stopWatching();
      }
    } finally {
      await handle.close();
    }
  }

  /** Cuts a download that hardly moves, so that it cannot hold its connection for ever. */
  #watchProgress(socket: Socket): () => void {
    const taken = () => socket.bytesWritten - socket.writableLength;
    let before = taken();
    const timer = setInterval(() => {
      const now = taken();
      if (now - before < stallBytes) socket.destroy(new Error("the client hardly reads"));
      before = now;
    }, this.#limits.stallMs);
    return () => clearInterval(timer);
  }
}

function answer(response: ServerResponse, status: number): void {
  const text = `${status} ${STATUS_CODES[status]}\n`;
  response.setHeader("Content-Type", "text/plain");
  response.setHeader("Content-Length", text.length);
  response.writeHead(status).end(text);
}
