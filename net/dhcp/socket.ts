import { createSocket, type RemoteInfo, type Socket } from "node:dgram";
import { once } from "node:events";
import { AgentError, isSystemError, toAgentError } from "../../agent/driver/errors.ts";
import { loadInterfaceUdp, type InterfaceUdp } from "../../agent/sys/udp-interface.ts";
import type { Subnet } from "./config.ts";

/** A UDP port on one interface. */
export interface DhcpSocket {
  /** Packets that cannot be sent are lost, as on the wire. */
  send(packet: Uint8Array, port: number, address: string): void;
  close(): void;
}

export interface DhcpSocketOptions {
  readonly interfaceName: string;
  readonly port: number;
  readonly onPacket: (packet: Uint8Array, from: RemoteInfo) => void;
  readonly onError: (error: Error) => void;
}

/**
 * Bound to the interface, or requests of other networks would be answered with addresses of this one, and broadcasts would
 * leave where the default route goes. Shared with nobody (no SO_REUSEADDR): of two servers on one interface, only one gets the unicasts.
 * @throws AgentError that says what is missing
 */
export async function openDhcpSocket(options: DhcpSocketOptions): Promise<DhcpSocket> {
  const { interfaceName, port } = options;
  const native = await loadNative();
  let fd: number;
  try {
    fd = native.open({ device: interfaceName, address: "0.0.0.0", port });
  } catch (error) {
    throw openError(error, interfaceName, port);
  }
  const socket: Socket = createSocket("udp4");
  socket.on("error", options.onError);
  const listening = once(socket, "listening");
  socket.bind({ fd });
  await listening;
  socket.on("message", options.onPacket);
  let isOpen = true;
  return {
    send: (packet, toPort, address) => {
      if (isOpen) socket.send(packet, toPort, address, (error) => error && options.onError(error));
    },
    close: () => {
      if (isOpen) socket.close();
      isOpen = false;
    },
  };
}

/**
 * The address that the interface has now.
 * @throws AgentError E_DEVICE_OFFLINE when there is no such interface, or no address on it
 */
export async function subnetOf(interfaceName: string): Promise<Subnet> {
  const native = await loadNative();
  try {
    return native.addressOf(interfaceName);
  } catch (error) {
    throw openError(error, interfaceName, 0);
  }
}

async function loadNative(): Promise<InterfaceUdp> {
  try {
    return await loadInterfaceUdp();
  } catch (thrown) {
    const error = toAgentError(thrown);
    throw new AgentError(error.code, `DHCP needs sockets of one interface, and ${error.message}`, {
      cause: error,
      hint: error.hint,
    });
  }
}

function openError(error: unknown, interfaceName: string, port: number): AgentError {
  switch (isSystemError(error) ? error.code : "") {
    case "ENODEV":
      return new AgentError("E_DEVICE_OFFLINE", `there is no network interface ${interfaceName}`, {
        cause: error,
        hint: "`ip link` lists them; a USB adapter may have another name since it was plugged in again",
      });
    case "EADDRNOTAVAIL":
      return new AgentError("E_DEVICE_OFFLINE", `the network interface ${interfaceName} has no IPv4 address`, {
        cause: error,
        hint: `give it one: ip address add 10.77.0.1/24 dev ${interfaceName}`,
      });
    case "EADDRINUSE":
      return new AgentError("E_IO", `port already in use: ${port} on ${interfaceName}`, {
        cause: error,
        hint: `another DHCP server runs on this host (ss -ulpn 'sport = :${port}'); stop it, or keep it off this interface`,
      });
    case "EACCES":
      return new AgentError("E_IO", `permission denied for port ${port}`, {
        cause: error,
        hint: "ports below 1024 need CAP_NET_BIND_SERVICE (systemd: AmbientCapabilities=CAP_NET_BIND_SERVICE)",
      });
    case "EPERM":
      return new AgentError("E_IO", `permission denied to bind a socket to ${interfaceName}`, {
        cause: error,
        hint: "before Linux 5.7 this needs CAP_NET_RAW (systemd: AmbientCapabilities=CAP_NET_RAW)",
      });
    default: {
      const { message } = toAgentError(error);
      return new AgentError("E_IO", `cannot open DHCP port ${port} on ${interfaceName}: ${message}`, { cause: error });
    }
  }
}
