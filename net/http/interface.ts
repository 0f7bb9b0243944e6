import * as z from "zod";
import { defineInterface, unary } from "../../agent/driver/interface.ts";

/** An HTTP server whose files are put there through its child `storage`. */
export const http = defineInterface({
  driverType: "network",
  client: "jumpstarter_driver_http.client.HttpServerClient",
  methods: {
    start: unary({ args: [], result: z.null(), help: "Start the HTTP server" }),
    stop: unary({ args: [], result: z.null(), help: "Stop the HTTP server" }),
    get_url: unary({ args: [], result: z.string(), help: "Base URL, without a slash at its end" }),
    get_host: unary({ args: [], result: z.string(), help: "Address under which boards reach the server" }),
    get_port: unary({ args: [], result: z.number(), help: "TCP port of the running server, 0 when it is stopped" }),
  },
});
