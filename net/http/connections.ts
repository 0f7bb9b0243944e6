import type { ServerResponse } from "node:http";
import type { Socket } from "node:net";
import { hostPort } from "../addresses.ts";
import type { ServedView } from "../shared-port.ts";
import type { RunningTransfer } from "../../agent/driver/shown.ts";
import { defaultLimits, type HttpView } from "./view.ts";

/** Less than this is no progress: who reads or writes byte by byte only holds a connection. */
const progressBytes = 1024;
const sampleMs = 500;
/** A request that has stood still for so long may have to make room for a new connection. */
const stillMs = 1_000;
/** Requests that wait for their turn on one connection; apt, which has most of all clients, sends 10 ahead. */
const mostRequests = 64;

/** A file on its way over a connection; what has moved is told by the connection itself. */
export type Running = Pick<RunningTransfer, "name" | "direction" | "sizeBytes" | "startedMs"> & {
  readonly movedBytes: () => number;
};

interface Connection {
  readonly socket: Socket;
  /** Address of the board, also when the socket has gone. */
  readonly peer: string;
  readonly port: number;
  readonly served: ServedView<HttpView>;
  /** What had moved when progress was seen last, and when that was. */
  movedBytes: number;
  progressMs: number;
  /** Requests without an answer that is complete; with none, it is idle, or it is still sending a head. */
  requests: number;
  /** Resolves when these are answered. */
  answered: Promise<void>;
  running: Running | undefined;
}

/**
 * The open connections of one port. They are counted by view and board, and watched: a request that stands still is cut
 * after its view's time, and connections that only wait make room for those that are new.
 */
export class Connections {
  /** By what both ends call themselves: a TLS socket is another object than the one that was accepted. */
  readonly #open = new Map<string, Connection>();
  #sampling: NodeJS.Timeout | undefined;

  get size(): number {
    return this.#open.size;
  }

  /** Counts a connection that was accepted, or destroys it when there is no room. */
  admit(socket: Socket, served: ServedView<HttpView>): void {
    const { view } = served;
    const peer = socket.remoteAddress ?? "";
    if (!this.#makeRoom(view, peer)) {
      view.log.debug(`HTTP connection of ${peer} refused: too many`);
      socket.destroy();
      return;
    }
    const key = keyOf(socket);
    const connection: Connection = {
      socket,
      peer,
      port: socket.remotePort ?? 0,
      served,
      movedBytes: 0,
      progressMs: performance.now(),
      requests: 0,
      answered: Promise.resolve(),
      running: undefined,
    };
    this.#open.set(key, connection);
    socket.once("close", () => {
      if (this.#open.get(key) === connection) this.#open.delete(key);
      if (this.#open.size > 0) return;
      clearInterval(this.#sampling);
      this.#sampling = undefined;
    });
    this.#sampling ??= setInterval(() => this.#sample(), sampleMs).unref();
  }

  /**
   * Answers a request when those before it on its connection are answered: what a client sends ahead shall not open
   * files or take memory. `work` runs as work of the view's exporter, and must end when the response is closed.
   */
  inTurn(socket: Socket, response: ServerResponse, work: (view: HttpView) => Promise<void>): void {
    const connection = this.#open.get(keyOf(socket));
    if (connection === undefined || connection.requests >= mostRequests) return void socket.destroy();
    const { served } = connection;
    if (connection.requests === 0) connection.progressMs = performance.now();
    connection.requests += 1;
    connection.answered = connection.answered.then(async () => {
      // Without a socket in its turn, the connection ended with the answer before.
      if (response.socket !== null) {
        const closed = new Promise((resolve) => response.once("close", resolve));
        await served.run(() => work(served.view));
        await closed;
      }
      connection.requests -= 1;
    });
  }

  /** Lists a transfer of this connection. @returns what ends that */
  watch(socket: Socket, running: Running): () => void {
    const connection = this.#open.get(keyOf(socket));
    if (connection === undefined) return () => {};
    connection.running = running;
    return () => (connection.running = undefined);
  }

  running(): RunningTransfer[] {
    return [...this.#open.values()].flatMap(({ running, peer, port, served }) => {
      if (running === undefined) return [];
      const [view, movedBytes] = [served.view.name, running.movedBytes()];
      return [{ protocol: "http", view, peer: hostPort(peer, port), ...running, movedBytes }];
    });
  }

  /** Cuts every connection to boards of this view. */
  cut(view: HttpView): void {
    for (const { socket, served } of [...this.#open.values()]) if (served.view === view) socket.destroy();
  }

  #sample(): void {
    const now = performance.now();
    for (const connection of [...this.#open.values()]) {
      notice(connection, now);
      const { served, peer, port, requests, progressMs } = connection;
      const stallMs = served.view.limits?.stallMs ?? defaultLimits.stallMs;
      if (requests === 0 || now - progressMs <= stallMs) continue;
      served.view.log.info(`HTTP connection of ${hostPort(peer, port)} cut: no progress for ${stallMs / 1000} s`);
      this.#cut(connection);
    }
  }

  /**
   * A board that has all the connections it may have gives up one that only waits. When the view has no more, the board
   * with most of them gives one up to whoever has fewer, and among equals one that only waits goes.
   */
  #makeRoom(view: HttpView, peer: string): boolean {
    const { connections, connectionsPerPeer } = { ...defaultLimits, ...view.limits };
    const byPeer = new Map<string, Connection[]>();
    let count = 0;
    for (const connection of this.#open.values()) {
      if (connection.served.view !== view) continue;
      count += 1;
      const ofPeer = byPeer.get(connection.peer);
      if (ofPeer === undefined) byPeer.set(connection.peer, [connection]);
      else ofPeer.push(connection);
    }
    const own = byPeer.get(peer) ?? [];
    if (own.length >= connectionsPerPeer) return this.#evict(own, stillMs);
    if (count < connections) return true;
    const most = [...byPeer.values()].reduce((found, one) => (one.length > found.length ? one : found), own);
    // Between equals it would only change places.
    if (most.length > own.length + 1) return this.#evict(most, 0);
    return this.#evict([...byPeer.values()].filter(({ length }) => length >= own.length).flat(), stillMs);
  }

  /** Cuts the stillest of these: one without a request, or else one whose request has stood still for so long. */
  #evict(connections: readonly Connection[], forMs: number): boolean {
    const now = performance.now();
    for (const connection of connections) notice(connection, now);
    const [stillest] = connections.toSorted(
      (one, other) => Number(one.requests > 0) - Number(other.requests > 0) || one.progressMs - other.progressMs,
    );
    if (stillest === undefined || (stillest.requests > 0 && now - stillest.progressMs < forMs)) return false;
    this.#cut(stillest);
    return true;
  }

  /** Its place is free at once. */
  #cut({ socket }: Connection): void {
    this.#open.delete(keyOf(socket));
    // An error would be thrown by a socket below TLS, to which nobody listens.
    socket.destroy();
  }
}

function notice(connection: Connection, now: number): void {
  const { socket, movedBytes } = connection;
  const moved = socket.bytesRead + socket.bytesWritten - socket.writableLength;
  if (moved - movedBytes < progressBytes) return;
  connection.movedBytes = moved;
  connection.progressMs = now;
}

function keyOf({ localAddress, localPort, remoteAddress, remotePort }: Socket): string {
  return `${localAddress} ${localPort} ${remoteAddress} ${remotePort}`;
}
