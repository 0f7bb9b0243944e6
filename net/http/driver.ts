import { mkdir } from "node:fs/promises";
import * as z from "zod";
import { defineDriver } from "../../agent/driver/driver.ts";
import { TlsFiles } from "../../agent/sys/tls-files.ts";
import { hostPort } from "../addresses.ts";
import {
  advertiseConfig,
  boardsConfig,
  BootServer,
  bootServerNeeds,
  globalRootConfig,
  hostConfig,
  portConfig,
  storageChild,
  uploadsConfig,
  uploadsOf,
  viewOfDriver,
} from "../boot-server.ts";
import { http } from "./interface.ts";
import { HttpServer } from "./server.ts";
import type { HttpView } from "./view.ts";

const config = z
  .strictObject({
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
    uploads: uploadsConfig,
    tls_cert: z
      .string()
      .min(1)
      .nullish()
      .describe("serve HTTPS with this certificate chain (PEM); renewed files are taken over"),
    tls_key: z.string().min(1).nullish().describe("private key of tls_cert (PEM)"),
    boards: boardsConfig,
    global_root_dir: globalRootConfig,
  })
  .superRefine(({ tls_cert, tls_key }, context) => {
    if (typeof tls_cert === typeof tls_key) return;
    const path = [tls_cert ? "tls_key" : "tls_cert"];
    context.addIssue({ code: "custom", path, message: "tls_cert and tls_key go together" });
  });

export default defineDriver({
  types: ["jumpstarter_driver_http.driver.HttpServer"],
  summary: "Serves files over HTTP or HTTPS, with ranges; takes new ones where `uploads` allows it.",
  implements: http,
  config,
  children: ({ config }) => storageChild(config),
  needs: (config) => bootServerNeeds("tcp", config),

  async open(context) {
    const { config, log } = context;
    await mkdir(config.root_dir, { recursive: true });
    const view: HttpView = {
      ...viewOfDriver(context),
      uploads: await uploadsOf(config),
      limits: { stallMs: config.timeout * 1000 },
    };
    const tls = config.tls_cert && config.tls_key ? { cert: config.tls_cert, key: config.tls_key } : undefined;
    let port: HttpServer | undefined;
    const make = () => new HttpServer(config.port, { tls: tls && new TlsFiles(tls, log) });
    const server = new BootServer({
      name: "HTTP",
      hosts: config.host,
      advertise: config.advertise,
      log,
      listen: (hosts) => {
        // Exporters that share a port share its certificate. A free port of its own is nobody else's.
        const key = ["http", config.port, tls?.cert, tls?.key].join(":");
        port = config.port === 0 ? make() : context.sharedOnHost(key, make);
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
        get_url: async () =>
          `${tls === undefined ? "http" : "https"}://${hostPort(await server.host(), server.port ?? config.port)}`,
        get_host: () => server.host(),
        get_port: () => server.port ?? 0,
      },
      shows: () => ({ transfers: (port?.running() ?? []).filter((transfer) => transfer.view === view.name) }),
      release: stop,
      close: stop,
    };
  },
});
