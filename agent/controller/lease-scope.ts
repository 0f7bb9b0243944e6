import { mkdtemp, rm } from "node:fs/promises";
import { join } from "node:path";
import type { Duplex } from "node:stream";
import type { ListenResponse } from "../../proto/gen/jumpstarter/v1/jumpstarter.ts";
import { toAgentError } from "../driver/errors.ts";
import type { Exporter } from "../session/exporter.ts";
import { serve, serveTunnels, type Served } from "../session/server.ts";
import { createSession, type Session, type SessionEnding } from "../session/session.ts";
import type { Clock } from "./clock.ts";
import { createTunnels } from "./tunnels.ts";

export interface LeaseScopeOptions {
  readonly exporter: Exporter;
  readonly motd: string | undefined;
  readonly endSession: () => SessionEnding;
  /** Tokens of clients that want to come in, one after the other, until the signal aborts. */
  readonly listen: (signal: AbortSignal) => AsyncIterable<ListenResponse>;
  readonly dial: (routerEndpoint: string, routerToken: string) => Duplex;
  /** Where the lease's private directory is made; a name that ends in `jumpstarter-<pid>-`. */
  readonly directoryPrefix: string;
  readonly clock: Clock;
}

/** All that exists for one lease and ends with it. */
export interface LeaseScope {
  readonly session: Session;
  /** Private to this process's user: the hook's socket, its MOTD file, its `j`. */
  readonly directory: string;
  readonly hookSocket: string;
  /** Lets in the clients that wait, and those that come. */
  openGate(): void;
  /** Cuts the connections of a client that the lease was taken from. */
  cutTunnels(): void;
  close(): Promise<void>;
}

/** Clients that may wait for the beforeLease hook to end; the controller keeps no more either. */
const mostWaiting = 64;

/** Calls that run when a lease ends may take this long to end by themselves. */
const graceMs = 1_000;

/** A driver that hangs at the edge of a lease must not keep the exporter from its clients, or from its next lease. */
const driversLimitMs = 30_000;

/** Resets the drivers and opens the session of a lease. @throws if the private directory or socket cannot be made */
export async function openLeaseScope(options: LeaseScopeOptions): Promise<LeaseScope> {
  const { exporter, clock } = options;
  const log = exporter.logs.logger({ source: "system", logger: "lease" });
  const directory = await mkdtemp(options.directoryPrefix);
  const over = new AbortController();
  const session = createSession(exporter, { motd: options.motd, endSession: options.endSession });
  const clients = serveTunnels(session);
  const tunnels = createTunnels({ dial: options.dial, serve: (connection) => clients.inject(connection), log });

  const waiting: ListenResponse[] = [];
  let gateOpen = false;
  const take = (client: ListenResponse) => {
    if (gateOpen) tunnels.open(client.routerEndpoint, client.routerToken);
    else if (waiting.length < mostWaiting) waiting.push(client);
    else log.warn(`a client is turned away: ${mostWaiting} wait for the beforeLease hook already`);
  };
  let hooks: Served | undefined;
  let listening: Promise<void> = Promise.resolve();

  const close = async () => {
    over.abort();
    await Promise.all([clients.close(graceMs), hooks?.close(graceMs), listening]);
    tunnels.cut();
    session.close();
    await bounded("released", exporter.tree.release());
    await rm(directory, { recursive: true, force: true });
  };

  const bounded = async (what: string, work: Promise<void>) => {
    const ended = new AbortController();
    const late = clock.sleep(driversLimitMs, ended.signal).then(
      () => log.error(`drivers were not ${what} within ${driversLimitMs / 1_000} s`),
      () => {},
    );
    await Promise.race([work, late]);
    ended.abort();
  };

  try {
    const hookSocket = join(directory, "socket");
    await bounded("reset", exporter.tree.reset());
    hooks = await serve(session, { unix: hookSocket, caller: "hook" });
    listening = (async () => {
      for await (const client of options.listen(over.signal)) take(client);
    })().catch((error: unknown) => {
      if (!over.signal.aborted) log.error(`listening for clients ended: ${toAgentError(error).message}`);
    });
    return {
      session,
      directory,
      hookSocket,
      openGate() {
        gateOpen = true;
        for (const client of waiting.splice(0)) take(client);
      },
      cutTunnels: () => tunnels.cut(),
      close,
    };
  } catch (error) {
    await close();
    throw error;
  }
}
