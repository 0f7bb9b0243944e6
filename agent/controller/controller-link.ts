import type { DriverInstanceReport, StatusResponse } from "../../proto/gen/jumpstarter/v1/jumpstarter.ts";
import { AgentError, toAgentError } from "../driver/errors.ts";
import type { Logger } from "../driver/log.ts";
import type { Backoff } from "./backoff.ts";
import type { Clock } from "./clock.ts";
import type { ControllerClient } from "./controller-client.ts";

export interface ControllerLinkOptions {
  readonly controller: ControllerClient;
  /** What the exporter registers with. */
  readonly registration: () => {
    readonly labels: Readonly<Record<string, string>>;
    readonly reports: readonly DriverInstanceReport[];
  };
  /** Called once, when the controller knows the exporter. */
  readonly firstRegistered: () => void;
  /** Called when the controller can be told again what it may have forgotten. */
  readonly reconnected: () => void;
  /** What the controller says of the exporter, each time it does. */
  readonly told: (status: StatusResponse) => void;
  /** Reads again what lets the exporter in; true if it has changed. */
  readonly refreshCredentials: () => Promise<boolean>;
  readonly backoff: Backoff;
  readonly clock: Clock;
  readonly log: Logger;
  readonly signal: AbortSignal;
}

export interface ControllerLink {
  /** Whether a registration has ever been taken. */
  readonly registered: boolean;
  /** Whether the controller is heard now. */
  readonly online: boolean;
  /** How often it was heard again, the first time included. */
  readonly connections: number;
  registerAgain(): void;
}

/** A status stream that ends in good order is opened again after this. */
const pauseMs = 250;

/** While the controller is out of reach, new credentials are looked for this often. */
const lookMs = 2_000;

/**
 * Registers the exporter and follows what the controller says of it, until the signal aborts. Nothing that the
 * network or the controller does ends it. It registers again before each status stream: whoever answers now may be
 * another one, or have forgotten the exporter, also when the last stream has ended in good order.
 */
export function startControllerLink(options: ControllerLinkOptions): ControllerLink {
  const { controller, backoff, clock, log, signal } = options;
  let registered = false;
  let online = false;
  let connections = 0;
  let attempt = new AbortController();
  let lastFailure: string | undefined;
  // Not AbortSignal.any() for each attempt: Node 20 keeps a trace of every one in a signal that outlives them.
  signal.addEventListener("abort", () => attempt.abort(signal.reason), { once: true });

  async function follow(): Promise<void> {
    attempt = new AbortController();
    const { labels, reports } = options.registration();
    await controller.register({ labels: { ...labels }, reports: [...reports] }, attempt.signal);
    if (!registered) options.firstRegistered();
    registered = true;
    for await (const status of controller.status(attempt.signal)) {
      if (!online) {
        if (lastFailure !== undefined) log.info("The controller answers again");
        lastFailure = undefined;
        online = true;
        connections += 1;
        backoff.reset();
        options.reconnected();
      }
      options.told(status);
    }
    // A stream that ends before its first word says nothing good of the other side.
    if (!online) throw new AgentError("E_CONNECTION", "the controller ended the status stream at once");
  }

  /** Hours of outage must not fill the log. */
  function tell(error: AgentError): void {
    if (error.message === lastFailure) return;
    log.warn(`The controller at ${controller.address} cannot be used, trying again until it can: ${error.message}`, {
      code: error.code,
    });
    lastFailure = error.message;
  }

  async function wait(ms: number): Promise<void> {
    for (let left = ms; left > 0 && !signal.aborted; left -= lookMs) {
      await clock.sleep(Math.min(left, lookMs), signal).catch(() => {});
      if (await options.refreshCredentials()) return;
    }
  }

  void (async () => {
    while (!signal.aborted) {
      let pause = pauseMs;
      const begunMs = clock.now();
      try {
        await follow();
      } catch (thrown) {
        if (signal.aborted) return;
        if (!attempt.signal.aborted) {
          const error = toAgentError(thrown);
          pause = backoff.next(error, clock.now() - begunMs);
          tell(error);
        }
      }
      online = false;
      await wait(pause);
    }
  })();

  return {
    get registered() {
      return registered;
    },
    get online() {
      return online;
    },
    get connections() {
      return connections;
    },
    registerAgain: () => attempt.abort(),
  };
}
