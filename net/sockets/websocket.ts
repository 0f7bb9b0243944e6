import * as z from "zod";
import { defineDriver } from "../../agent/driver/driver.ts";
import * as lax from "../../agent/driver/lax.ts";
import { maskCredentials, requireAddressEnabled } from "./address.ts";
import { dialWebSocket } from "../../agent/stream/dial-websocket.ts";
import { addressedNetwork } from "./interface.ts";

export default defineDriver({
  types: ["jumpstarter_driver_network.driver.WebsocketNetwork"],
  summary: "Connects to a WebSocket server; one message per frame.",
  implements: addressedNetwork,
  config: z.strictObject({
    url: z.url({ protocol: /^wss?$/, error: "must be a ws:// or wss:// URL" }),
    enable_address: lax.boolean().prefault(true).describe("tell clients the URL, so they may connect directly"),
    max_message_bytes: lax
      .int(1, 1024 * 1024 * 1024)
      .prefault(1024 * 1024)
      .describe("a longer message of the peer ends the stream"),
  }),
  open: ({ config: { url, enable_address, max_message_bytes }, log }) => ({
    methods: {
      connect({ signal }) {
        log.info(`Connecting to ${maskCredentials(url)}`);
        return dialWebSocket(url, maskCredentials(url), max_message_bytes, signal);
      },
      address: () => {
        requireAddressEnabled(enable_address);
        return maskCredentials(url);
      },
    },
  }),
});
