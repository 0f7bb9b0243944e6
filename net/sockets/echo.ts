import { PassThrough } from "node:stream";
import * as z from "zod";
import { defineDriver } from "../../agent/driver/driver.ts";
import { network } from "./interface.ts";

export default defineDriver({
  types: ["jumpstarter_driver_network.driver.EchoNetwork", "jumpstarter.drivers.network.driver.EchoNetwork"],
  summary: "Gives every frame back; for trying out streams.",
  implements: network,
  config: z.looseObject({}),
  open: () => ({
    methods: {
      // Keeps frame boundaries, and takes no more frames than its reader reads.
      connect: () => new PassThrough({ objectMode: true }),
    },
  }),
});
