import type { Socket } from "node:net";
import { hostPort } from "../addresses.ts";
import type { ServedView } from "../shared-port.ts";
import type { RunningTransfer } from "../transfers.ts";
import { defaultLimits, type HttpView } from "./view.ts";

/** Less than this is no progress: who reads or writes byte by byte only holds a connection. */
const progressBytes = 1024;
const sampleMs = 500;
/** A connection that has stood still for so long may have to make room for a new one. */
const idleMs = 1_000;

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
  running: Running | undefined;
}

/**
 * The open connections of one port. They are counted by view and board, and watched: a transfer that stands still is
 * cut after its view's time, and one that only waits makes room for a board that is new.
 */
export class Connections {
  readonly #open = new Map<Socket, Connection>();
  #sampling: NodeJS.Timeout | undefined;

  get size(): number {
    return this.#open.size;
  }

  /** @returns whether there was room; the socket is destroyed if not. */
  admit(socket: Socket, served: ServedView<HttpView>): boolean {
    const { view } = served;
    const peer = socket.remoteAddress ?? "";
    const { connections, connectionsPerPeer } = { ...defaultLimits, ...view.limits };
    const ofView = [...this.#open.values()].filter((other) => other.served.view === view);
    const ofPeer = ofView.filter((other) => other.peer === peer);
    const room =
      (ofPeer.length < connectionsPerPeer || this.#evict(ofPeer)) &&
      (ofView.length < connections || this.#evict(ofView));
    if (!room) {
      view.log.debug(`HTTP connection of ${peer} refused: too many`);
      socket.destroy();
      return false;
    }
    const progressMs = performance.now();
    const port = socket.remotePort ?? 0;
    this.#open.set(socket, { socket, peer, port, served, movedBytes: 0, progressMs, running: undefined });
    socket.once("close", () => {
      this.#open.delete(socket);
      if (this.#open.size > 0) return;
      clearInterval(this.#sampling);
      this.#sampling = undefined;
    });
    this.#sampling ??= setInterval(() => this.#sample(), sampleMs).unref();
    return true;
  }

  /** The view that was chosen when this connection came. */
  servedTo(socket: Socket): ServedView<HttpView> | undefined {
    return this.#open.get(socket)?.served;
  }

  /** Watches a transfer of this connection. @returns what ends the watch */
  watch(socket: Socket, running: Running): () => void {
    const connection = this.#open.get(socket);
    if (connection === undefined) return () => {};
    connection.running = running;
    connection.progressMs = performance.now();
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
    for (const connection of this.#open.values()) {
      const { socket, served, running } = connection;
      const moved = socket.bytesRead + socket.bytesWritten - socket.writableLength;
      if (moved - connection.movedBytes >= progressBytes) {
        connection.movedBytes = moved;
        connection.progressMs = now;
      }
      const stallMs = served.view.limits?.stallMs ?? defaultLimits.stallMs;
      if (running !== undefined && now - connection.progressMs > stallMs) {
        socket.destroy(new Error(`no progress for ${stallMs / 1000} s`));
      }
    }
  }

  /** Cuts the one of these that has stood still longest, if any has. */
  #evict(connections: readonly Connection[]): boolean {
    const now = performance.now();
    const oldest = connections.reduce<Connection | undefined>(
      (found, one) => (found !== undefined && found.progressMs <= one.progressMs ? found : one),
      undefined,
    );
    if (oldest === undefined || now - oldest.progressMs < idleMs) return false;
    oldest.socket.destroy(new Error("idle, and others need the connection"));
    this.#open.delete(oldest.socket);
    return true;
  }
}
