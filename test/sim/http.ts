import type { TestContext } from "node:test";
import { LogBus } from "../../agent/driver/log.ts";
import { HttpServer, type HttpServerOptions } from "../../net/http/server.ts";
import type { RunningTransfer } from "../../agent/driver/shown.ts";
import type { HttpView } from "../../net/http/view.ts";

/** An HTTP server that shows one view. */
export interface ServedHttp {
  readonly port: number;
  /** Open connections. */
  readonly connections: number;
  running(): RunningTransfer[];
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
    uploads,
    ...options
  }: { hosts?: readonly string[]; port?: number } & Pick<HttpView, "limits" | "uploads"> & HttpServerOptions = {},
): Promise<ServedHttp> {
  const log = new LogBus().logger({ source: "driver", logger: "http" });
  const server = new HttpServer(port, options);
  const served = await server.serve({ name: "test", roots: [root], boards: [], log, limits, uploads }, hosts);
  t.after(() => served.stop());
  return {
    ...served,
    running: () => server.running(),
    get connections() {
      return server.connections;
    },
  };
}
