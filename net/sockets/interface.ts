import * as z from "zod";
import { byteStream, defineInterface, unary } from "../../agent/driver/interface.ts";

const client = "jumpstarter_driver_network.client.NetworkClient";
const connect = byteStream({ help: "Opens a connection of its own" });

/** Something to connect to; every stream is a new connection. */
export const network = defineInterface({ driverType: "network", client, methods: { connect } });

/** A network whose address may be told to clients that can reach it without the exporter. */
export const addressedNetwork = defineInterface({
  driverType: "network",
  client,
  methods: { connect, address: unary({ args: [], result: z.string(), help: "Where the exporter connects to" }) },
});

/** A D-Bus bus; clients replace their own bus by it. */
export const dbusNetwork = defineInterface({
  driverType: "network",
  client: "jumpstarter_driver_network.client.DbusNetworkClient",
  methods: { connect },
});
