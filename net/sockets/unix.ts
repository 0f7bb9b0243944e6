import * as z from "zod";
import { defineDriver } from "../../agent/driver/driver.ts";
import { dial } from "../../agent/stream/dial.ts";
import { network } from "./interface.ts";

export default defineDriver({
  types: ["jumpstarter_driver_network.driver.UnixNetwork"],
  summary: "Connects to a Unix domain socket of the exporter's host.",
  implements: network,
  config: z.strictObject({ path: z.string().min(1).describe("path of the socket") }),
  open: ({ config: { path } }) => ({
    methods: { connect: ({ signal }) => dial({ path }, path, signal) },
  }),
});
