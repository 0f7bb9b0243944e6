import { mkdir } from "node:fs/promises";
import * as z from "zod";
import { defineDriver } from "../../agent/driver/driver.ts";
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
import { tftp } from "./interface.ts";
import { TftpServer } from "./server.ts";
import type { TftpView } from "./view.ts";

export default defineDriver({
  types: ["jumpstarter_driver_tftp.driver.Tftp", "jumpstarter_driver_tftp.driver.TftpServer"],
  summary: "Serves boot files over TFTP; takes new ones where `uploads` allows it.",
  implements: tftp,
  config: z.strictObject({
    root_dir: z.string().min(1).default("/var/lib/tftpboot").describe("folder that is served; made if missing"),
    host: hostConfig,
    port: portConfig(69),
    remove_created_on_close: z.boolean().default(true).describe("delete what clients put there when the session ends"),
    advertise: advertiseConfig,
    uploads: uploadsConfig,
    boards: boardsConfig,
    global_root_dir: globalRootConfig,
    window_limit: z.coerce
      .number()
      .int()
      .min(1)
      .max(32_767)
      .default(16)
      .describe("largest RFC 7440 window; U-Boot's virtio-net hangs at 32 and more"),
    retransmit_floor_ms: z.coerce
      .number()
      .int()
      .min(1)
      .max(60_000)
      .nullish()
      .describe("shortest wait for an answer; else 10 ms for single blocks, and up to 100 ms for windows"),
    retransmit_ceiling_ms: z.coerce.number().int().min(1).max(60_000).default(2_000).describe("longest wait for one"),
    max_transfers: z.coerce.number().int().min(1).max(1024).default(128).describe("transfers at the same time"),
    max_transfers_per_client: z.coerce.number().int().min(1).max(1024).default(64).describe("of these, of one address"),
  }),
  children: ({ config }) => storageChild(config),
  needs: (config) => bootServerNeeds("udp", config),

  async open(context) {
    const { config, log } = context;
    await mkdir(config.root_dir, { recursive: true });
    const floorMs = config.retransmit_floor_ms;
    const view: TftpView = {
      ...viewOfDriver(context),
      uploads: await uploadsOf(config),
      limits: {
        ...(floorMs ? { retransmitFloorMs: floorMs, retransmitWindowFloorMs: floorMs } : {}),
        retransmitCeilingMs: config.retransmit_ceiling_ms,
        windowSize: config.window_limit,
        transfers: config.max_transfers,
        transfersPerPeer: config.max_transfers_per_client,
      },
    };
    let port: TftpServer | undefined;
    const make = () => new TftpServer(config.port);
    const server = new BootServer({
      name: "TFTP",
      hosts: config.host,
      advertise: config.advertise,
      log,
      listen: (hosts) => {
        // A free port of its own is nobody else's.
        port = config.port === 0 ? make() : context.sharedOnHost(`tftp:${config.port}`, make);
        return port.serve(view, hosts);
      },
    });
    const stop = () => void server.stop();
    return {
      methods: {
        start: () => server.start(),
        stop: () => {
          if (!server.stop()) log.warn("stop called - TFTP server is not running");
        },
        get_host: () => server.host(),
        get_port: () => server.port ?? config.port,
      },
      shows: () => ({ transfers: (port?.running() ?? []).filter((transfer) => transfer.view === view.name) }),
      release: stop,
      close: stop,
    };
  },
});
