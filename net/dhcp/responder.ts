import type { Logger } from "../../agent/driver/log.ts";
import { answeredClass, chooseBoot, machineOf, type BootAnswer, type Machine } from "./boot-choice.ts";
import { broadcastOf, isInSubnet, type DhcpConfig, type Subnet } from "./config.ts";
import type { LeaseTable } from "./leases.ts";
import {
  bootReply,
  buildMessage,
  clientPort,
  encapsulate,
  longestFileBytes,
  messageType,
  noAddress,
  optionCode,
  pxePort,
  serverPort,
  type DhcpMessage,
  type DhcpOptions,
  type OptionName,
} from "./protocol.ts";

/** Which of our ports a message came to, and from where. */
export interface Arrival {
  readonly localPort: number;
  readonly address: string;
  readonly port: number;
}

/** A packet and where it goes. */
export interface Answer {
  readonly packet: Uint8Array;
  readonly address: string;
  readonly port: number;
}

export interface ResponderOptions {
  readonly config: DhcpConfig;
  readonly subnet: Subnet;
  readonly leases: LeaseTable;
  readonly log: Logger;
}

const broadcast = "255.255.255.255";
/** RFC 2131 section 4.4.5. */
const renewalShare = 0.5;
const rebindingShare = 0.875;
/** However little a client wishes. */
const leastLeaseSeconds = 60;
const infiniteSeconds = 0xffff_ffff;

/** PXE 2.1 table 2-1: discovery control with bit 3, "no menu, no prompt, no other server: boot the file that is named here". */
const bootTheFile = encapsulate(new Map([[6, Uint8Array.of(8)]]));

/** Says what a message is answered with; knows no socket. */
export class Responder {
  readonly #options: ResponderOptions;

  constructor(options: ResponderOptions) {
    this.#options = options;
  }

  /** @returns undefined when the message is none of our business */
  async answer(message: DhcpMessage, arrival: Arrival): Promise<Answer | undefined> {
    const machine = machineOf(message);
    if (message.hardwareAddress.length === 0 || !this.#serves(machine.mac)) return undefined;
    const boot = chooseBoot(this.#options.config.boot, machine);
    const request: Request = { message, machine, boot, arrival };
    return this.#options.config.mode === "proxy" ? this.#asProxy(request) : await this.#asServer(request);
  }

  #serves(mac: string): boolean {
    const { ignore, onlyKnown, reservations, boot } = this.#options.config;
    if (ignore.includes(mac)) return false;
    return !onlyKnown || Object.hasOwn(reservations, mac) || Object.hasOwn(boot.boards ?? {}, mac);
  }

  async #asServer(request: Request): Promise<Answer | undefined> {
    const { message, machine } = request;
    const { subnet, leases, log } = this.#options;
    const { mac } = machine;
    const asked = message.options.requestedAddress;
    // A relay stands in another network, for which there are no addresses here.
    if (message.relayAddress !== noAddress && !isInSubnet(subnet, message.relayAddress)) return undefined;
    switch (message.options.messageType) {
      case messageType.discover: {
        const address = leases.offer(mac, asked);
        if (address !== undefined) return this.#reply(request, messageType.offer, address);
        log.warn(`DHCP: there is no address left for ${mac}`);
        return undefined;
      }
      case messageType.request:
        return await this.#onRequest(request);
      case messageType.decline:
        if (this.#isForUs(message) && asked !== undefined && (await leases.decline(mac, asked))) {
          log.warn(`DHCP: ${mac} found ${asked} taken by another machine; nobody gets it for an hour`);
        }
        return undefined;
      case messageType.release:
        if (this.#isForUs(message) && (await leases.release(mac, message.clientAddress))) {
          log.info(`DHCP: ${mac} released ${message.clientAddress}`);
        }
        return undefined;
      case messageType.inform:
        // It has its address from elsewhere and wants to know the rest (RFC 2131 section 4.3.5).
        if (!isInSubnet(subnet, message.clientAddress)) return undefined;
        return this.#reply(request, messageType.ack, noAddress);
      // Of a client that speaks plain BOOTP, or what is not for servers.
      case undefined:
      default:
        return undefined;
    }
  }

  /**
   * The four states in which a client asks (RFC 2131 table 4) differ in where the address stands: SELECTING has our identifier and option 50,
   * INIT-REBOOT option 50 alone, RENEWING and REBINDING `ciaddr` alone. As we are the only server here, an address that we do not know is given
   * if it is free (our file may be lost) and refused aloud if not, which lets a board that comes from another network begin anew at once.
   */
  async #onRequest(request: Request): Promise<Answer | undefined> {
    const { message, machine, boot } = request;
    const { subnet, leases, log } = this.#options;
    const { mac } = machine;
    if (!this.#isForUs(message)) {
      leases.withdraw(mac);
      return undefined;
    }
    const { requestedAddress, hostName } = message.options;
    const address = requestedAddress ?? message.clientAddress;
    if (address === noAddress) return undefined;
    if (!isInSubnet(subnet, address) || !leases.mayHave(mac, address)) {
      log.info(`DHCP: ${mac} may not have ${address}`);
      return this.#refuse(request, `${address} is not yours here`);
    }
    await leases.bind(mac, address, this.#leaseSeconds(message), hostName);
    log.info(`DHCP: ${mac} has ${address}${boot === undefined ? "" : `, boots ${JSON.stringify(boot.file)}`}`);
    return this.#reply(request, messageType.ack, address);
  }

  #isForUs({ options }: DhcpMessage): boolean {
    return (options.serverIdentifier ?? this.#options.subnet.address) === this.#options.subnet.address;
  }

  #asProxy(request: Request): Answer | undefined {
    const { message, machine, boot, arrival } = request;
    const { messageType: type, serverIdentifier } = message.options;
    if (boot === undefined || answeredClass(machine) === undefined) return undefined;
    // PXE clients have one (PXE 2.1 table 2-1). U-Boot as a UEFI calls itself PXEClient without it, and would take an offer that
    // has no address for the one it was waiting for.
    if (message.options.clientMachineIdentifier === undefined) return undefined;
    if (arrival.localPort === pxePort) {
      if (type !== messageType.request && type !== messageType.inform) return undefined;
      return this.#reply(request, messageType.ack, noAddress);
    }
    if (type === messageType.discover) return this.#reply(request, messageType.offer, noAddress);
    if (type === messageType.request && serverIdentifier === this.#options.subnet.address) {
      return this.#reply(request, messageType.ack, noAddress);
    }
    return undefined;
  }

  /** An OFFER or an ACK. `yourAddress` 0.0.0.0: nothing of addresses, as for INFORM and from a proxy. */
  #reply(request: Request, type: number, yourAddress: string): Answer {
    const { message, machine, boot, arrival } = request;
    const { config, subnet } = this.#options;
    const isProxy = config.mode === "proxy";
    // UEFI takes a proxy's offer for its boot file only if it has PXE menus in it; without them it asks at 4011 (edk2, PxeBcDhcp4.c).
    const asksAgain = isProxy && type === messageType.offer && machine.firmware === "pxe" && isUefi(machine);
    const file = asksAgain ? undefined : boot?.file;
    const fitsField = file !== undefined && Buffer.byteLength(file) <= longestFileBytes;
    const server = boot?.server ?? subnet.address;
    const answered = boot === undefined ? undefined : answeredClass(machine);
    const addressed: DhcpOptions = yourAddress === noAddress ? {} : this.#times(this.#leaseSeconds(message));
    const configured: DhcpOptions = isProxy ? {} : this.#network(machine.mac);
    const requested: DhcpOptions = {
      ...configured,
      ...(file !== undefined && { bootFile: file, tftpServerName: server, tftpServers: [server] }),
    };
    const isNeeded = (name: string) =>
      name === "subnetMask" || (name === "bootFile" && (!fitsField || machine.firmware === "http"));
    return this.#send(
      request,
      {
        ...this.#frame(message),
        clientAddress: type === messageType.ack ? message.clientAddress : noAddress,
        yourAddress,
        nextServerAddress: server,
        file: fitsField ? file : "",
        options: {
          ...onlyRequested(requested, message.options.parameterRequestList, isNeeded),
          ...addressed,
          ...this.#echoed(message.options),
          messageType: type,
          serverIdentifier: subnet.address,
          ...(answered !== undefined && {
            vendorClass: answered,
            clientMachineIdentifier: message.options.clientMachineIdentifier,
            ...(answered === "PXEClient" && file !== undefined && { vendorInformation: bootTheFile }),
          }),
        },
      },
      arrival.localPort === pxePort ? arrival : undefined,
    );
  }

  #refuse(request: Request, reason: string): Answer {
    const { message } = request;
    return this.#send(request, {
      ...this.#frame(message),
      // So that a relay broadcasts it (RFC 2131 section 4.3.2).
      broadcast: message.broadcast || message.relayAddress !== noAddress,
      options: {
        ...this.#echoed(message.options),
        messageType: messageType.nak,
        serverIdentifier: this.#options.subnet.address,
        message: reason,
      },
    });
  }

  /** What every answer has of its request (RFC 2131 table 3). */
  #frame(message: DhcpMessage): Omit<DhcpMessage, "options"> {
    return {
      ...message,
      op: bootReply,
      hops: 0,
      seconds: 0,
      clientAddress: noAddress,
      yourAddress: noAddress,
      nextServerAddress: noAddress,
      serverName: "",
      file: "",
    };
  }

  /** RFC 3046 section 2.2, RFC 6842 section 3. */
  #echoed({ relayAgentInformation, clientIdentifier }: DhcpOptions): DhcpOptions {
    return { relayAgentInformation, clientIdentifier };
  }

  #times(seconds: number): DhcpOptions {
    return {
      leaseSeconds: seconds,
      renewalSeconds: Math.floor(seconds * renewalShare),
      rebindingSeconds: Math.floor(seconds * rebindingShare),
    };
  }

  /** As the client wishes, within what the config allows. */
  #leaseSeconds({ options }: DhcpMessage): number {
    const { leaseSeconds } = this.#options.config;
    const wanted = options.leaseSeconds ?? infiniteSeconds;
    return Math.min(Math.max(wanted, leastLeaseSeconds), leaseSeconds);
  }

  #network(mac: string): DhcpOptions {
    const { config, subnet } = this.#options;
    return {
      subnetMask: subnet.netmask,
      broadcastAddress: broadcastOf(subnet),
      routers: config.router === undefined ? undefined : [config.router],
      dnsServers: config.dns.length === 0 ? undefined : config.dns,
      ntpServers: config.ntp.length === 0 ? undefined : config.ntp,
      domainName: config.domain,
      hostName: config.reservations[mac]?.hostName,
    };
  }

  /**
   * RFC 2131 section 4.1, but who has no address yet gets a broadcast whatever its broadcast flag says, which that section allows: a unicast
   * to an address that the client cannot answer ARP for would need an entry in the kernel's ARP table for it, thus CAP_NET_ADMIN, and
   * would leave false entries behind for boards that never take the offer. On a network of boards a broadcast costs nothing.
   */
  #send({ message }: Request, answer: DhcpMessage, asker?: Arrival): Answer {
    const packet = buildMessage(answer, message.options.maxSizeBytes);
    if (asker !== undefined) return { packet, address: asker.address, port: asker.port };
    if (message.relayAddress !== noAddress) return { packet, address: message.relayAddress, port: serverPort };
    const isRefusal = answer.options.messageType === messageType.nak;
    if (message.clientAddress === noAddress || isRefusal) return { packet, address: broadcast, port: clientPort };
    return { packet, address: message.clientAddress, port: clientPort };
  }
}

interface Request {
  readonly message: DhcpMessage;
  readonly machine: Machine;
  readonly boot: BootAnswer | undefined;
  readonly arrival: Arrival;
}

function isUefi({ architecture }: Machine): boolean {
  return architecture?.startsWith("efi-") === true;
}

/** A client that lists what it wants has room for nothing else (RFC 2131 section 4.3.1). */
function onlyRequested(
  options: DhcpOptions,
  list: readonly number[] | undefined,
  isNeeded: (name: string) => boolean,
): DhcpOptions {
  if (list === undefined) return options;
  const kept = Object.entries(options).filter(
    ([name]) => isNeeded(name) || list.includes(optionCode(name as OptionName)),
  );
  return Object.fromEntries(kept);
}
