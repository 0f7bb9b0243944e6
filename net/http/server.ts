import { once } from "node:events";
import { createServer, STATUS_CODES, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo, Socket } from "node:net";
import { pipeline } from "node:stream/promises";
import { hostPort } from "../addresses.ts";
import { openInFolders, type Refusal, type ServedFile } from "../files.ts";
import { SharedPort, type Listener, type ServedView } from "../shared-port.ts";
import type { View } from "../views.ts";
import { select, targetPath } from "./protocol.ts";

/** What a board may fetch over HTTP. */
export interface HttpView extends View {
  readonly limits?: Partial<HttpLimits>;
}

/** Of one view. */
export interface HttpLimits {
  readonly connections: number;
  /** Of `connections`, how many one address may have. */
  readonly connectionsPerPeer: number;
  /** A download must move {@link stallBytes} in so long. */
  readonly stallMs: number;
}

const defaultLimits: HttpLimits = { connections: 256, connectionsPerPeer: 16, stallMs: 600_000 };

export interface HttpTimeouts {
  /** Time for a request's head, and for the whole of it. */
  readonly headersMs: number;
  readonly requestMs: number;
}

const defaultTimeouts: HttpTimeouts = { headersMs: 10_000, requestMs: 30_000 };

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

/** A static file server on one port: GET and HEAD, ranges, conditions; what a view has and nothing else. */
export class HttpServer {
  readonly #port: SharedPort<HttpView>;
  readonly #timeouts: HttpTimeouts;
  readonly #connections = new Map<Socket, ServedView<HttpView>>();

  /** @param port 0 lets the system choose; all addresses then share the port. */
  constructor(port: number, timeouts: HttpTimeouts = defaultTimeouts) {
    this.#timeouts = timeouts;
    this.#port = new SharedPort(port, (address, at) => this.#listen(address, at));
  }

  /** The port that is bound, on every address. */
  get port(): number {
    return this.#port.port;
  }

  /** Open connections. */
  get connections(): number {
    return this.#connections.size;
  }

  /**
   * Shows a view on these addresses or names; a wildcard stands for every address of the host. `stop` frees the port
   * at once, if no other view is shown there, and cuts the connections of the view's boards.
   * @throws AgentError E_IO when an address cannot be bound, or another view is shown to the same boards there.
   */
  async serve(view: HttpView, hosts: readonly string[]): Promise<{ readonly port: number; stop(): void }> {
    const served = await this.#port.serve(view, hosts);
    return {
      port: this.#port.port,
      stop: () => {
        served.stop();
        for (const [socket, of] of this.#connections) if (of.view === view) socket.destroy();
      },
    };
  }

  async #listen(address: string, port: number): Promise<Listener> {
    const { headersMs, requestMs } = this.#timeouts;
    const server = createServer({
      headersTimeout: headersMs,
      requestTimeout: requestMs,
      connectionsCheckingInterval: Math.min(1_000, headersMs),
      keepAliveTimeout: 5_000,
      noDelay: true,
    });
    server.on("connection", (socket) => this.#admit(socket, address));
    server.on("request", (request, response) => {
      const served = this.#connections.get(request.socket);
      if (served !== undefined) served.run(() => void this.#serve(served.view, request, response));
    });
    server.listen({ host: address, port, exclusive: true });
    await once(server, "listening");
    return {
      port: (server.address() as AddressInfo).port,
      close: () => {
        server.close();
        server.closeAllConnections();
      },
    };
  }

  /** Counts a connection, or cuts it when there are too many or nothing is there for it. */
  #admit(socket: Socket, local: string): void {
    const peer = socket.remoteAddress ?? "";
    const served = this.#port.find(local, peer);
    if (served === undefined) return void socket.destroy();
    const { view } = served;
    const { connections, connectionsPerPeer } = { ...defaultLimits, ...view.limits };
    const others = [...this.#connections].filter(([, of]) => of.view === view).map(([other]) => other);
    const ofPeer = others.filter((other) => other.remoteAddress === peer);
    if (others.length >= connections || ofPeer.length >= connectionsPerPeer) {
      view.log.debug(`HTTP connection of ${peer} refused: too many`);
      socket.destroy();
      return;
    }
    this.#connections.set(socket, served);
    socket.once("close", () => this.#connections.delete(socket));
  }

  async #serve(view: HttpView, request: IncomingMessage, response: ServerResponse): Promise<void> {
    const { log, roots } = view;
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
      const file = await openInFolders(roots, path);
      if ("refused" in file) {
        const status = refusals[file.refused];
        log.info(`${what}: ${status} ${STATUS_CODES[status]}`);
        return answer(response, status);
      }
      await this.#send(view, method, request, response, file);
      log.info(`${what}: ${response.statusCode}`);
    } catch (error) {
      log.info(`${what}: ${error instanceof Error ? error.message : String(error)}`);
      if (!response.headersSent) answer(response, 500);
      // A body that cannot be completed must not look complete.
      else response.destroy();
    }
  }

  async #send(
    view: HttpView,
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
      const stopWatching = watchProgress(request.socket, view.limits?.stallMs ?? defaultLimits.stallMs);
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
}

/** Cuts a download that hardly moves, so that it cannot hold its connection for ever. */
function watchProgress(socket: Socket, stallMs: number): () => void {
  const taken = () => socket.bytesWritten - socket.writableLength;
  let before = taken();
  const timer = setInterval(() => {
    const now = taken();
    if (now - before < stallBytes) socket.destroy(new Error("the client hardly reads"));
    before = now;
  }, stallMs);
  return () => clearInterval(timer);
}

function answer(response: ServerResponse, status: number): void {
  const text = `${status} ${STATUS_CODES[status]}\n`;
  response.setHeader("Content-Type", "text/plain");
  response.setHeader("Content-Length", text.length);
  response.writeHead(status).end(text);
}
