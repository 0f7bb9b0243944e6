import type { ListenResponse } from "../../proto/gen/jumpstarter/v1/jumpstarter.ts";
import { toAgentError } from "../driver/errors.ts";
import type { Logger } from "../driver/log.ts";
import { Backoff } from "./backoff.ts";
import type { Clock } from "./clock.ts";
import type { ControllerClient } from "./controller-client.ts";

export interface ListenOptions {
  readonly controller: ControllerClient;
  readonly lease: string;
  readonly clock: Clock;
  readonly log: Logger;
  readonly signal: AbortSignal;
}

/** A stream that ends in good order is opened again after this. */
const pauseMs = 250;

/** The clients of a lease that want to be met at a router, until the signal aborts, through any outage. */
export async function* listenForClients({
  controller,
  lease,
  clock,
  log,
  signal,
}: ListenOptions): AsyncGenerator<ListenResponse, void, undefined> {
  const backoff = new Backoff();
  let lastFailure: string | undefined;
  while (!signal.aborted) {
    let pause = pauseMs;
    const begunMs = clock.now();
    try {
      for await (const client of controller.listen(lease, signal)) {
        backoff.reset();
        lastFailure = undefined;
        yield client;
      }
    } catch (thrown) {
      if (signal.aborted) return;
      const error = toAgentError(thrown);
      pause = backoff.next(error, clock.now() - begunMs);
      if (error.message !== lastFailure) log.warn(`Listening for clients is interrupted: ${error.message}`);
      lastFailure = error.message;
    }
    await clock.sleep(pause, signal).catch(() => {});
  }
}
