import type { TestContext } from "node:test";
import { LogBus } from "../../agent/driver/log.ts";
import { HttpServer, type HttpLimits, type HttpTimeouts } from "../../net/http/server.ts";

/** An HTTP server that shows one view. */
export interface ServedHttp {
  readonly port: number;
  /** Open connections. */
  readonly connections: number;
  stop(): void;
}

/** An HTTP server on a free loopback port, stopped after the test. */
export async function startHttp(
  t: TestContext,
  root: string,
  {
    hosts = ["127.0.0.1"],
    port = 0,
    limits = {},
    timeouts,
  }: {
    hosts?: readonly string[];
    port?: number;
    limits?: Partial<HttpLimits>;
    timeouts?: HttpTimeouts;
  } = {},
): Promise<ServedHttp> {
  const log = new LogBus().logger({ source: "driver", logger: "http" });
  const server = new HttpServer(port, timeouts);
  const served = await server.serve({ name: "test", roots: [root], boards: [], log, limits }, hosts);
  t.after(() => served.stop());
  return {
    ...served,
    get connections() {
      return server.connections;
    },
  };
}
