import { mkdir } from "node:fs/promises";
import * as z from "zod";
import { defineDriver } from "../../agent/driver/driver.ts";
import { hostPort } from "../addresses.ts";
import {
  advertiseConfig,
  boardsConfig,
  BootServer,
  globalRootConfig,
  hostConfig,
  portConfig,
  storageChild,
  viewOfDriver,
} from "../boot-server.ts";
import { http } from "./interface.ts";
import { HttpServer, type HttpView } from "./server.ts";

export default defineDriver({
  types: ["jumpstarter_driver_http.driver.HttpServer"],
  summary: "Serves files over HTTP, read-only, with ranges.",
  implements: http,
  config: z.strictObject({
    root_dir: z.string().min(1).default("/var/www").describe("folder that is served; made if missing"),
    host: hostConfig,
    port: portConfig(8080),
    timeout: z.coerce
      .number()
      .positive()
      .max(86_400)
      .default(600)
      .describe("seconds after which a download that hardly moves is cut"),
    remove_created_on_close: z.boolean().default(true).describe("delete what clients put there when the session ends"),
    advertise: advertiseConfig,
    boards: boardsConfig,
    global_root_dir: globalRootConfig,
  }),
  children: ({ config }) => storageChild(config),

  async open(context) {
    const { config, log } = context;
    await mkdir(config.root_dir, { recursive: true });
    const view: HttpView = { ...viewOfDriver(context), limits: { stallMs: config.timeout * 1000 } };
    const make = () => new HttpServer(config.port);
    const server = new BootServer({
      name: "HTTP",
      hosts: config.host,
      advertise: config.advertise,
      log,
      listen: (hosts) => {
        // A free port of its own is nobody else's.
        const port = config.port === 0 ? make() : context.sharedOnHost(`http:${config.port}`, make);
        return port.serve(view, hosts);
      },
    });
    const stop = () => void server.stop();
    return {
      methods: {
        start: () => server.start(),
        stop: () => {
          if (!server.stop()) log.warn("HTTP server is not running.");
        },
        // Clients up to 0.7 ask for the URL before they start the server.
        get_url: async () => `http://${hostPort(await server.host(), server.port ?? config.port)}`,
        get_host: () => server.host(),
        get_port: () => server.port ?? 0,
      },
      release: stop,
      close: stop,
    };
  },
});
