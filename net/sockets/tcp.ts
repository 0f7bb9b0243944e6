import * as z from "zod";
import { defineDriver } from "../../agent/driver/driver.ts";
import * as lax from "../../agent/driver/lax.ts";
import { formatAddress, requireAddressEnabled } from "./address.ts";
import { dial } from "../../agent/stream/dial.ts";
import { addressedNetwork } from "./interface.ts";

/** How long one address of a host may take before the next is tried; Node's 250 ms would give up on slow links. */
const perAddressTimeoutMs = 1_000;

/** A DUT that was powered off never closes its connections: ask after this long. */
const keepAliveAfterMs = 30_000;

export default defineDriver({
  types: ["jumpstarter_driver_network.driver.TcpNetwork", "jumpstarter.drivers.network.driver.TcpNetwork"],
  summary: "Connects to a TCP server that the exporter can reach.",
  implements: addressedNetwork,
  config: z.strictObject({
    host: z.string().min(1).describe("name, IPv4 or IPv6 address"),
    port: lax.port(),
    enable_address: lax.boolean().prefault(true).describe("tell clients the address, so they may connect directly"),
  }),
  open: ({ config: { host, port, enable_address } }) => ({
    methods: {
      connect: ({ signal }) =>
        dial(
          {
            host,
            port,
            noDelay: true,
            keepAlive: true,
            keepAliveInitialDelay: keepAliveAfterMs,
            autoSelectFamily: true,
            autoSelectFamilyAttemptTimeout: perAddressTimeoutMs,
          },
          `${host}:${port}`,
          signal,
        ),
      address: async () => {
        requireAddressEnabled(enable_address);
        return `tcp://${await formatAddress(host, port)}`;
      },
    },
  }),
});
