import type { Duplex } from "node:stream";
import { toAgentError } from "../driver/errors.ts";
import type { Logger } from "../driver/log.ts";

/** How long a client may take to say its first word. Clients dial once to see whether they could, and never come. */
const silentMs = 60_000;

export interface Tunnels {
  /** Meets a client at a router and serves it. Failures are logged: the client sees them at its own end. */
  open(routerEndpoint: string, routerToken: string): void;
  /** Cuts all that are open, and those on their way. */
  cut(): void;
  readonly size: number;
}

export interface TunnelOptions {
  /** Opens the byte stream that the router joins with the client's. */
  readonly dial: (routerEndpoint: string, routerToken: string) => Duplex;
  /** Serves what comes out of a tunnel: a client's whole HTTP/2 connection. */
  readonly serve: (connection: Duplex) => void;
  readonly log: Logger;
}

/** The connections of one lease's clients. Nothing of them outlives the lease. */
export function createTunnels({ dial, serve, log }: TunnelOptions): Tunnels {
  const open = new Set<Duplex>();
  return {
    get size() {
      return open.size;
    },
    open(routerEndpoint, routerToken) {
      try {
        const tunnel = dial(routerEndpoint, routerToken);
        open.add(tunnel);
        const silent = setTimeout(() => tunnel.destroy(), silentMs);
        tunnel.once("close", () => {
          clearTimeout(silent);
          open.delete(tunnel);
        });
        tunnel.once("error", (error) => {
          log.debug(`a client's connection broke: ${toAgentError(error).message}`);
        });
        serve(tunnel);
        tunnel.once("data", () => clearTimeout(silent));
      } catch (error) {
        log.warn(`Failed to handle client connection: ${toAgentError(error).message}`);
      }
    },
    cut() {
      for (const tunnel of open) tunnel.destroy();
    },
  };
}
