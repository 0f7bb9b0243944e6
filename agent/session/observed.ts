import { toAgentError } from "../driver/errors.ts";
import type { LiveDriver } from "../driver/live-driver.ts";
import type { Service } from "./exporter-service.ts";
import type { CallDone } from "./observer.ts";

/** The client's side of a stream. */
interface Counted {
  readonly receivedBytes: number;
  readonly sentBytes: number;
}

/** Tells the end of what has begun, once. Without an error it went well. */
export type Ended = (thrown?: unknown) => void;

const unobserved: Ended = () => {};

/** A method call begins. */
export function callBegins(service: Service, driver: LiveDriver, method: string): Ended {
  const { observer } = service.session;
  if (observer === undefined) return unobserved;
  return begin(service, (done) => observer.call({ ...done, ...named(driver, method) }));
}

/** A byte stream of a driver begins. Its end is told with the client's side of it, if it came to that. */
export function streamBegins(
  service: Service,
  driver: LiveDriver,
  method: string,
): (client: Counted | undefined, thrown?: unknown) => void {
  const { observer } = service.session;
  if (observer === undefined) return unobserved;
  let client: Counted | undefined;
  const ended = begin(service, (done) => observer.stream({ ...done, ...named(driver, method), ...bytes(client) }));
  return (side, thrown) => {
    client = side;
    ended(thrown);
  };
}

/** A resource of the client is lent. */
export function resourceBegins(service: Service, client: Counted): Ended {
  const { observer } = service.session;
  if (observer === undefined) return unobserved;
  return begin(service, (done) => observer.resource({ ...done, ...bytes(client) }));
}

type Done = Pick<CallDone, "caller" | "code" | "durationMs">;

function begin({ caller }: Service, tell: (done: Done) => void): Ended {
  const beganMs = performance.now();
  let over = false;
  return (thrown) => {
    if (over) return;
    over = true;
    const code = thrown === undefined ? undefined : toAgentError(thrown).code;
    tell({ caller, code, durationMs: performance.now() - beganMs });
  };
}

function named({ planned, bridge }: LiveDriver, method: string): Pick<CallDone, "driver" | "type" | "method"> {
  // What stands behind a bridge is not known here, nor declared.
  const declared =
    bridge !== undefined ? /^\w{1,64}$/.test(method) : Object.hasOwn(planned.driver.implements.methods, method);
  return { driver: planned.path, type: planned.type, method: declared ? method : "?" };
}

function bytes(client: Counted | undefined): { bytesIn: number; bytesOut: number } {
  return { bytesIn: client?.receivedBytes ?? 0, bytesOut: client?.sentBytes ?? 0 };
}
