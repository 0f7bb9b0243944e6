import * as z from "zod";
import { defineDriver } from "../../agent/driver/driver.ts";
import * as lax from "../../agent/driver/lax.ts";
import { dialVsock } from "../../agent/sys/vsock.ts";
import { network } from "./interface.ts";

export default defineDriver({
  types: ["jumpstarter_driver_network.driver.VsockNetwork"],
  summary: "Connects to a virtual socket (AF_VSOCK) of a guest of this host, or of the host of this guest.",
  implements: network,
  config: z.strictObject({
    cid: lax.int(0, 0xffff_ffff).describe("address of the guest; 2 is the host, 1 this system itself"),
    port: lax.int(0, 0xffff_ffff),
  }),
  needs: () => ({ rights: ["vsock"] }),
  open: ({ config: { cid, port } }) => ({
    methods: { connect: ({ signal }) => dialVsock(cid, port, signal) },
  }),
});
