import { isIP } from "node:net";
import * as z from "zod";
import * as lax from "../../agent/driver/lax.ts";
import type { DoipSettings } from "./transport.ts";

/** ISO 13400-2, table 48: UDP_DISCOVERY and TCP_DATA. */
const doipPort = 13_400;

/** What all drivers that speak with an ECU over DoIP are configured with. */
export const doipConfig = {
  ecu_ip: z
    .string()
    .refine((address) => isIP(address) !== 0, "must be an IPv4 or IPv6 address")
    .describe("address of the ECU or its gateway"),
  ecu_logical_address: lax.int(0, 0xffff).describe("of the ECU, such as 0x00E0"),
  tcp_port: lax.port().prefault(doipPort),
  protocol_version: lax.int(0, 255).prefault(2).describe("1: 2010, 2: 2012, 3: 2019"),
  client_logical_address: lax.int(0, 0xffff).prefault(0x0e00).describe("our own"),
  auto_reconnect_tcp: lax.boolean().prefault(false).describe("connect anew when the ECU has closed the connection"),
};

type DoipConfig = z.output<z.ZodObject<typeof doipConfig>>;

export function doipSettings(config: DoipConfig, activationType: number | null): DoipSettings {
  return {
    host: config.ecu_ip,
    tcpPort: config.tcp_port,
    udpPort: doipPort,
    version: config.protocol_version,
    ecuAddress: config.ecu_logical_address,
    clientAddress: config.client_logical_address,
    activationType,
  };
}
