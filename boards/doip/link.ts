import { AgentError } from "../../agent/driver/errors.ts";
import type { Logger } from "../../agent/driver/log.ts";
import { Turns } from "../power/turns.ts";
import { DoipConnection, type DoipSettings } from "./transport.ts";

const closed = () => new AgentError("E_CONNECTION", "the connection to the ECU is closed");

/** The connection to one ECU, made when it is first used: an ECU may be off when the agent starts. */
export class DoipLink {
  readonly #settings: DoipSettings;
  readonly #log: Logger;
  readonly #reconnects: boolean;
  readonly #turns = new Turns();
  #connection: DoipConnection | undefined;
  /** Told to stay closed. */
  #isShut = false;

  /** @param reconnects a connection that was lost is replaced by itself; else {@link reset} allows it */
  constructor(settings: DoipSettings, log: Logger, reconnects: boolean) {
    this.#settings = settings;
    this.#log = log;
    this.#reconnects = reconnects;
  }

  /** The connection as it stands. @throws AgentError E_CONNECTION; the signal's reason */
  use(signal: AbortSignal): Promise<DoipConnection> {
    return this.#turns.take(signal, async () => {
      if (this.#isShut) throw new AgentError("E_CONNECTION", "the connection to the ECU was closed; reconnect first");
      const known = this.#connection;
      if (known !== undefined && known.lost === undefined) return known;
      if (known?.lost !== undefined && !this.#reconnects) throw known.lost;
      this.#connection = undefined;
      this.#connection = await DoipConnection.open(this.#settings, this.#log, signal);
      return this.#connection;
    });
  }

  /** Closes, and opens none until {@link reset}. Idempotent. */
  shut(): void {
    this.#isShut = true;
    this.#connection?.close(closed());
  }

  /** Closes, and allows a new connection. Idempotent. */
  reset(): void {
    this.#isShut = false;
    this.#connection?.close(closed());
    this.#connection = undefined;
  }
}
