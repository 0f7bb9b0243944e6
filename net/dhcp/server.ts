import type { RemoteInfo } from "node:dgram";
import { AgentError, describeZodError, toAgentError } from "../../agent/driver/errors.ts";
import type { Logger } from "../../agent/driver/log.ts";
import {
  dhcpConfig,
  hostsOf,
  isInSubnet,
  type DhcpChanges,
  type DhcpConfig,
  type DhcpConfigInput,
  type Subnet,
} from "./config.ts";
import { LeaseTable, type Lease } from "./leases.ts";
import { bootRequest, parseMessage, pxePort, serverPort } from "./protocol.ts";
import { RateLimit } from "./rate-limit.ts";
import { Responder } from "./responder.ts";
import { openDhcpSocket, subnetOf, type DhcpSocket } from "./socket.ts";

/** No DHCP client sends more; what RFC 3396 allows beyond is nothing for us. */
const mostPacketBytes = 4096;
/** Answers that wait for the disk. */
const mostPending = 256;
/** A board that boots needs about four messages; a rack that is switched on, a few hundred in some seconds. */
const rates = { perMac: { burst: 20, perSecond: 5 }, all: { burst: 1000, perSecond: 500 }, macs: 4096 };

/**
 * A DHCP server, or proxy, on one interface.
 *
 *     const server = await DhcpServer.start({ interface: "usb0", boot: { file: "u-boot.img" }, leaseFile }, log);
 *     server.leases();          // who has which address
 *     server.macOf("10.77.0.9"); // "02:00:00:00:00:01"
 *     server.update({ boot: { boards: { "02:00:00:00:00:01": { file: "other.img" } } } });
 *     await server.stop();
 *
 * What can be configured: config.ts. What is answered: responder.ts.
 */
export class DhcpServer {
  /** As configured or found on the interface; the server identifier of all answers. */
  readonly subnet: Subnet;
  #input: DhcpConfigInput;
  readonly #leases: LeaseTable;
  readonly #log: Logger;
  readonly #limit = new RateLimit(rates);
  readonly #sockets: DhcpSocket[] = [];
  #config: DhcpConfig;
  #responder: Responder;
  #pending = 0;
  #stopped = false;

  private constructor(input: DhcpConfigInput, config: DhcpConfig, subnet: Subnet, leases: LeaseTable, log: Logger) {
    this.#input = input;
    this.#config = config;
    this.subnet = subnet;
    this.#leases = leases;
    this.#log = log;
    this.#responder = this.#newResponder();
  }

  /**
   * Resolves when requests are answered.
   * @throws AgentError E_INVALID for a wrong config; E_DEVICE_OFFLINE when the interface or its address is missing; E_IO when the port is taken or
   * forbidden; E_UNSUPPORTED without koffi. Nothing is left open then.
   */
  static async start(input: DhcpConfigInput, log: Logger): Promise<DhcpServer> {
    const config = checked(input);
    const subnet = await findSubnet(config);
    checkAddresses(config, subnet);
    const leases = await LeaseTable.open({
      pool: config.pool ?? hostsOf(subnet),
      excluded: [subnet.address, ...(config.router === undefined ? [] : [config.router])],
      reservations: config.reservations,
      file: config.mode === "server" ? config.leaseFile : undefined,
      log,
    });
    const server = new DhcpServer(input, config, subnet, leases, log);
    try {
      await server.#listen(serverPort);
      if (config.mode === "proxy") await server.#listen(pxePort);
    } catch (error) {
      await server.stop();
      throw error;
    }
    return server;
  }

  /** Every lease that is known, also the ones that ended. */
  leases(): Lease[] {
    return this.#leases.list();
  }

  /** Which board has this address now. */
  macOf(address: string): string | undefined {
    const lease = this.#leases.at(address);
    return lease?.state === "bound" ? lease.mac : undefined;
  }

  /**
   * Exchanges the given parts of the config; the next request is answered by them. A board whose reservation changed
   * gets its new address when it asks for more time, or boots.
   * @throws AgentError E_INVALID; nothing has changed then
   */
  update(changes: DhcpChanges): void {
    const input = { ...this.#input, ...changes };
    const config = checked(input);
    checkAddresses(config, this.subnet);
    this.#input = input;
    this.#config = config;
    this.#leases.reserve(config.reservations);
    this.#responder = this.#newResponder();
  }

  /** Frees the ports at once, and resolves when the leases are on the disk. Idempotent. */
  async stop(): Promise<void> {
    this.#stopped = true;
    for (const socket of this.#sockets.splice(0)) socket.close();
    await this.#leases.close();
  }

  #newResponder(): Responder {
    return new Responder({ config: this.#config, subnet: this.subnet, leases: this.#leases, log: this.#log });
  }

  async #listen(port: number): Promise<void> {
    const socket = await openDhcpSocket({
      interfaceName: this.#config.interface,
      port,
      onPacket: (packet, from) => {
        this.#onPacket(packet, port, from, socket).catch((error: unknown) => {
          this.#log.error(`DHCP: ${toAgentError(error).message}`);
        });
      },
      onError: (error) => this.#log.debug(`DHCP socket: ${error.message}`),
    });
    if (this.#stopped) socket.close();
    else this.#sockets.push(socket);
  }

  async #onPacket(packet: Uint8Array, localPort: number, from: RemoteInfo, socket: DhcpSocket): Promise<void> {
    if (packet.length > mostPacketBytes || this.#pending >= mostPending) return;
    const message = parseMessage(packet);
    if ("malformed" in message) return this.#log.debug(`DHCP: packet of ${from.address} ignored: ${message.malformed}`);
    if (message.op !== bootRequest || !this.#limit.allows(message.hardwareAddress)) return;
    this.#pending += 1;
    try {
      const answer = await this.#responder.answer(message, { localPort, address: from.address, port: from.port });
      if (answer !== undefined) socket.send(answer.packet, answer.port, answer.address);
    } finally {
      this.#pending -= 1;
    }
  }
}

function checked(input: DhcpConfigInput): DhcpConfig {
  const config = dhcpConfig.safeParse(input);
  if (config.success) return config.data;
  throw new AgentError("E_INVALID", `DHCP config: ${describeZodError(config.error)}`);
}

async function findSubnet({ interface: name, address, netmask }: DhcpConfig): Promise<Subnet> {
  if (address !== undefined && netmask !== undefined) return { address, netmask };
  const found = await subnetOf(name);
  return { address: address ?? found.address, netmask: netmask ?? found.netmask };
}

/** @throws AgentError E_INVALID */
function checkAddresses({ pool, reservations, router }: DhcpConfig, subnet: Subnet): void {
  const outside = [
    ...(pool === undefined ? [] : [pool.first, pool.last]),
    ...(router === undefined ? [] : [router]),
    ...Object.values(reservations).map(({ address }) => address),
  ].find((address) => !isInSubnet(subnet, address));
  if (outside === undefined) return;
  throw new AgentError("E_INVALID", `DHCP: ${outside} is not in the network of ${subnet.address} (${subnet.netmask})`, {
    hint: "pool, router and reservations must be in the network of the interface",
  });
}
