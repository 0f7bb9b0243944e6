/** A host of exporters with a driver that forgets its errors, as a program: `host-process.ts CONFIG...`. SIGTERM ends it. */
import * as z from "zod";
import { loadConfig } from "../../agent/config/load.ts";
import { ChannelPool } from "../../agent/controller/channel-pool.ts";
import { systemClock } from "../../agent/controller/clock.ts";
import { createCatalog } from "../../agent/driver/catalog.ts";
import { defineDriver, type AnyDriver } from "../../agent/driver/driver.ts";
import { defineInterface, unary } from "../../agent/driver/interface.ts";
import { LogBus } from "../../agent/driver/log.ts";
import { compositeType } from "../../agent/driver/plan.ts";
import { ConfigFile } from "../../agent/host/config-file.ts";
import { startHost } from "../../agent/host/host.ts";
import composite from "../../boards/composite/driver.ts";

const forgetful = defineDriver({
  types: ["forgetful.driver.Forgetful"],
  summary: "For tests.",
  implements: defineInterface({
    driverType: "forgetful",
    client: "forgetful.client.ForgetfulClient",
    methods: {
      ping: unary({ args: [], result: z.string() }),
      throwLater: unary({ args: [], result: z.null() }),
      rejectLater: unary({ args: [], result: z.null() }),
    },
  }),
  config: z.object({}),
  open: () => ({
    methods: {
      ping: () => "pong",
      throwLater: () => {
        setTimeout(() => {
          throw new Error("the cable is loose");
        }, 20);
        return null;
      },
      rejectLater: () => {
        void Promise.reject(new Error("nobody waits for this"));
        return null;
      },
    },
  }),
});
const load = (driver: unknown) => async () => driver as AnyDriver;
const catalog = createCatalog(
  new Map([
    ["forgetful.driver.Forgetful", load(forgetful)],
    [compositeType, load(composite)],
  ]),
);

const openLogs = (exporter: string) => {
  const logs = new LogBus();
  logs.subscribe(({ severity, message }) => console.log(`${severity} ${exporter}: ${message}`));
  return logs;
};
const configured = [];
for (const path of process.argv.slice(2)) {
  const { config } = await loadConfig(path, { catalog });
  configured.push({ file: new ConfigFile(path), config });
}
const channels = new ChannelPool();
const host = startHost(configured, {
  ...{ clock: systemClock, channels, catalog, openLogs, env: process.env, audit: undefined },
  log: openLogs("host").logger({ source: "system", logger: "host" }),
});
process.once("SIGTERM", () => host.stop("now", 143));
const code = await host.done;
await channels.close();
process.exit(code);
