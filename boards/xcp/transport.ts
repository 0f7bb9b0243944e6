import { createSocket } from "node:dgram";
import { once } from "node:events";
import { isIPv6 } from "node:net";
import { lookup } from "node:dns/promises";
import type { OpenContext } from "../../agent/driver/driver.ts";
import { AgentError, toAgentError } from "../../agent/driver/errors.ts";
import { dial } from "../../agent/stream/dial.ts";
import { openBus, type BusSettings } from "../can/open.ts";
import { EthernetFramer } from "./framing.ts";

/** Carries packets to one slave and back. */
export interface XcpLink {
  readonly longestPacketBytes: number;
  /** @throws AgentError E_CONNECTION, E_TIMEOUT */
  send(packet: Uint8Array): Promise<void>;
  close(): void;
}

interface LinkHost {
  /** Must not throw. */
  readonly onPacket: (packet: Uint8Array) => void;
  /** Nothing comes after it; may be called again. */
  readonly onLost: (reason: AgentError) => void;
}

export type OpenLink = (host: LinkHost, signal: AbortSignal) => Promise<XcpLink>;

const connectTimeoutMs = 5_000;
const mostUnsentBytes = 1 << 20;
/** A MAX_CTO is a byte. */
const longestEthernetBytes = 0xff;
/** Of frames that are not CAN FD. */
const longestCanBytes = 8;

const lost = (where: string, error: unknown) =>
  new AgentError("E_CONNECTION", `the connection to the slave at ${where} is lost: ${toAgentError(error).message}`, {
    cause: error,
  });

/** XCP on TCP/IP, part 3: each packet after its length and a counter. */
export function overTcp(host: string, port: number): OpenLink {
  const where = `${host}:${port}`;
  return async ({ onPacket, onLost }, signal) => {
    const socket = await dial({ host, port, noDelay: true }, where, signal, connectTimeoutMs).catch(
      (error: unknown) => {
        signal.throwIfAborted();
        const text = `XCP slave at ${where} cannot be reached: ${toAgentError(error).message}`;
        throw new AgentError("E_CONNECTION", text, { cause: error });
      },
    );
    const framer = new EthernetFramer();
    socket.on("data", (chunk: Buffer) => {
      for (const packet of framer.push(chunk)) onPacket(packet);
    });
    socket.on("error", (error) => onLost(lost(where, error)));
    socket.on("end", () => socket.destroy());
    socket.on("close", () => onLost(new AgentError("E_CONNECTION", `the slave at ${where} has closed the connection`)));
    return {
      longestPacketBytes: longestEthernetBytes,
      async send(packet) {
        if (socket.writableLength > mostUnsentBytes) throw new AgentError("E_TIMEOUT", "the slave takes no more data");
        socket.write(framer.frame(packet));
      },
      close: () => socket.destroy(),
    };
  };
}

/** XCP on UDP/IP: the same in datagrams, each of which may hold several packets. */
export function overUdp(host: string, port: number): OpenLink {
  const where = `${host}:${port}`;
  return async ({ onPacket, onLost }, signal) => {
    const { address } = await lookup(host).catch((error: unknown) => {
      const text = `XCP slave at ${where} cannot be reached: ${toAgentError(error).message}`;
      throw new AgentError("E_CONNECTION", text, { cause: error });
    });
    signal.throwIfAborted();
    const socket = createSocket(isIPv6(address) ? "udp6" : "udp4");
    // Connected: only what the slave sends is received, and a port that nobody listens at is told.
    socket.connect(port, address);
    await once(socket, "connect");
    const framer = new EthernetFramer();
    socket.on("message", (datagram) => {
      // A datagram is complete: what is cut off in it stays away.
      for (const packet of new EthernetFramer().push(datagram)) onPacket(packet);
    });
    socket.on("error", (error) => onLost(lost(where, error)));
    let isClosed = false;
    return {
      longestPacketBytes: longestEthernetBytes,
      send: (packet) =>
        new Promise((resolve, reject) => {
          socket.send(framer.frame(packet), (error) => {
            if (error === null) resolve();
            else reject(lost(where, error));
          });
        }),
      close() {
        if (!isClosed) socket.close();
        isClosed = true;
      },
    };
  };
}

export interface CanIds {
  /** That the master sends with. */
  readonly master: number;
  readonly slave: number;
}

/** In ids, this bit says that they have 29 bits. */
const extendedBit = 0x8000_0000;
const longestShortId = 0x7ff;

/** XCP on CAN: a packet is the data of a frame. */
export function overCan(
  settings: BusSettings,
  ids: CanIds,
  context: Pick<OpenContext<unknown>, "sharedOnHost" | "log">,
): OpenLink {
  const plain = (id: number) => (id & ~extendedBit) >>> 0;
  const isExtended = (id: number) => id >= extendedBit || id > longestShortId;
  return async ({ onPacket, onLost }, signal) => {
    const bus = await openBus(settings, context);
    bus.listen(
      (frame) => {
        const isSlaves = frame.id === plain(ids.slave) && frame.extended === isExtended(ids.slave);
        if (isSlaves && !frame.error && !frame.remote) onPacket(frame.data);
      },
      (error) => onLost(lost(bus.channelInfo, error)),
    );
    const still = { remote: false, error: false, errorStateIndicator: false, channel: null, timestampS: 0 };
    signal.throwIfAborted();
    return {
      longestPacketBytes: longestCanBytes,
      async send(packet) {
        const frame = { ...still, id: plain(ids.master), extended: isExtended(ids.master), dlc: packet.length };
        await bus.send({ ...frame, data: packet, fd: false, bitrateSwitch: false });
      },
      close: () => bus.close(),
    };
  };
}
