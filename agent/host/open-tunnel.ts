import type { Duplex } from "node:stream";
import { parseEndpoint } from "../client/address.ts";
import { openRouterStream } from "../client/stream.ts";
import type { ChannelPool } from "../controller/channel-pool.ts";
import type { ControllerSettings } from "../controller/settings.ts";

/** Meets a client at a router; tunnels to one router share a connection. @throws AgentError E_INVALID for a wrong endpoint */
export function openTunnel(
  channels: ChannelPool,
  settings: ControllerSettings,
  routerEndpoint: string,
  routerToken: string,
): Duplex {
  const { channel, release } = channels.acquire(parseEndpoint(routerEndpoint), settings.routerChannel);
  try {
    const metadata = { authorization: `Bearer ${routerToken}` };
    return openRouterStream(channel, metadata, { what: "a client's connection" }).once("close", release);
  } catch (error) {
    release();
    throw error;
  }
}
