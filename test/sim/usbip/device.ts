/** What a simulated USB device is, and the requests that every device answers (USB 2.0, chapter 9). */

export interface Setup {
  /** bmRequestType: 0x80 is to the host, 0x20 a class's and 0x40 a vendor's request, the low bits who is asked. */
  readonly requestType: number;
  readonly request: number;
  readonly value: number;
  readonly index: number;
  readonly length: number;
}

/** What a control request brings: data (none for requests to the device), or undefined for a stall. */
export type ControlReply = Buffer | undefined;

export interface DeviceModel {
  readonly vendorId: number;
  readonly productId: number;
  /** bcdDevice. Default 0x0100. */
  readonly version?: number;
  readonly manufacturer?: string;
  readonly product?: string;
  readonly serial?: string;
  /** Default "high". */
  readonly speed?: "low" | "full" | "high";
  /** What it consists of: one, or several of a composite device. Endpoints of different functions differ. */
  readonly functions: readonly DeviceFunction[];
  /** Requests that no function takes, say a vendor's. A promise that never settles is a device that hangs. */
  control?(setup: Setup, data: Buffer): ControlReply | Promise<ControlReply>;
}

export interface DeviceFunction {
  /** @param first number of its first interface in this device */
  interfaces(first: number): readonly InterfaceModel[];
  /** Class requests and standard requests to its interfaces. Undefined: not its own, or a stall. */
  control?(setup: Setup, data: Buffer): ControlReply | Promise<ControlReply>;
  /** The device was plugged in, anew: what was under way is forgotten. */
  reset?(): void;
}

export interface InterfaceModel {
  readonly class: number;
  readonly subclass: number;
  readonly protocol: number;
  /** Class descriptors between the interface's own and those of its endpoints. */
  readonly descriptors?: readonly Buffer[];
  readonly endpoints: readonly (InEndpoint | OutEndpoint)[];
}

export interface EndpointOptions {
  /** 1 to 15. */
  readonly number: number;
  readonly type: "bulk" | "interrupt";
  /** Default: 512 for bulk, 64 for interrupt endpoints. */
  readonly maxPacketBytes?: number;
}

abstract class Endpoint {
  readonly number: number;
  readonly type: "bulk" | "interrupt";
  readonly maxPacketBytes: number;
  /** Transfers fail until the host clears it. */
  halted = false;
  constructor({ number, type, maxPacketBytes = type === "bulk" ? 512 : 64 }: EndpointOptions) {
    this.number = number;
    this.type = type;
    this.maxPacketBytes = maxPacketBytes;
  }
}

/** From the device to the host. */
export class InEndpoint extends Endpoint {
  readonly address: number;
  #queue: Buffer[] = [];
  #listener = () => {};

  constructor(options: EndpointOptions) {
    super(options);
    this.address = 0x80 | options.number;
  }

  /** What the host gets when it asks the next time: one transfer, or more if the host asks for less. */
  send(data: Uint8Array): void {
    this.#queue.push(Buffer.from(data));
    this.#listener();
  }

  halt(): void {
    this.halted = true;
    this.#listener();
  }

  reset(): void {
    this.halted = false;
    this.#queue = [];
  }

  /** Calls when there may be something to take. */
  onReady(listener: () => void): void {
    this.#listener = listener;
  }

  /** Undefined: nothing yet. */
  take(maxBytes: number): Buffer | "stall" | undefined {
    if (this.halted) return "stall";
    const [first] = this.#queue;
    if (first === undefined) return undefined;
    if (first.length <= maxBytes) return this.#queue.shift();
    this.#queue[0] = first.subarray(maxBytes);
    return first.subarray(0, maxBytes);
  }
}

/** From the host to the device. */
export class OutEndpoint extends Endpoint {
  readonly address: number;
  /** @returns "stall" if the device refuses it */
  readonly receive: (data: Buffer) => void | "stall";

  constructor(options: EndpointOptions, receive: (data: Buffer) => void | "stall") {
    super(options);
    this.address = options.number;
    this.receive = receive;
  }
}

const descriptorType = { device: 1, configuration: 2, string: 3, interface: 4, endpoint: 5 };
const standard = {
  getStatus: 0,
  clearFeature: 1,
  setFeature: 3,
  getDescriptor: 6,
  getConfiguration: 8,
  setConfiguration: 9,
};
const setInterface = 11;
const getInterface = 10;
const endpointHalt = 0;
const americanEnglish = 0x0409;

/** A device as the bus sees it: descriptors, standard requests, endpoints by address. */
export class BusDevice {
  readonly model: DeviceModel;
  readonly endpoints = new Map<number, InEndpoint | OutEndpoint>();
  readonly interfaces: readonly InterfaceModel[];
  readonly #strings: readonly (string | undefined)[];
  #configuration = 0;

  constructor(model: DeviceModel) {
    this.model = model;
    this.#strings = [undefined, model.manufacturer, model.product, model.serial];
    const interfaces: InterfaceModel[] = [];
    for (const part of model.functions) interfaces.push(...part.interfaces(interfaces.length));
    this.interfaces = interfaces;
    for (const endpoint of interfaces.flatMap((one) => one.endpoints)) {
      if (this.endpoints.has(endpoint.address)) throw new Error(`two endpoints have the address ${endpoint.address}`);
      this.endpoints.set(endpoint.address, endpoint);
    }
    this.reset();
  }

  reset(): void {
    this.#configuration = 0;
    for (const endpoint of this.endpoints.values()) {
      endpoint.halted = false;
      if (endpoint instanceof InEndpoint) endpoint.reset();
    }
    for (const part of this.model.functions) part.reset?.();
  }

  async control(setup: Setup, data: Buffer): Promise<ControlReply> {
    const reply = this.#standard(setup);
    if (reply !== undefined) return reply.subarray(0, setup.length);
    for (const part of this.model.functions) {
      const own = await part.control?.(setup, data);
      if (own !== undefined) return own.subarray(0, setup.length);
    }
    return (await this.model.control?.(setup, data))?.subarray(0, setup.length);
  }

  #standard({ requestType, request, value, index }: Setup): ControlReply {
    const none = Buffer.alloc(0);
    if ((requestType & 0x60) !== 0) return undefined;
    switch (request) {
      case standard.getDescriptor:
        // Others, say a HID device's reports, are asked of an interface.
        return requestType === 0x80 ? this.#descriptor(value >> 8, value & 0xff) : undefined;
      case standard.getStatus:
        return Buffer.from([this.endpoints.get(index)?.halted === true && requestType === 0x82 ? 1 : 0, 0]);
      case standard.getConfiguration:
        return Buffer.from([this.#configuration]);
      case standard.setConfiguration:
        this.#configuration = value;
        return none;
      case standard.clearFeature:
      case standard.setFeature: {
        const endpoint = requestType === 0x02 && value === endpointHalt ? this.endpoints.get(index) : undefined;
        if (endpoint !== undefined) endpoint.halted = request === standard.setFeature;
        return none;
      }
      case getInterface:
        return Buffer.from([0]);
      case setInterface:
        return none;
      default:
        return undefined;
    }
  }

  #descriptor(type: number, index: number): ControlReply {
    if (type === descriptorType.device) return this.#device();
    if (type === descriptorType.configuration && index === 0) return this.#configurationDescriptor();
    if (type !== descriptorType.string) return undefined;
    if (index === 0) return Buffer.from([4, descriptorType.string, americanEnglish & 0xff, americanEnglish >> 8]);
    const text = this.#strings[index];
    if (text === undefined) return undefined;
    const content = Buffer.from(text, "utf16le");
    return Buffer.concat([Buffer.from([content.length + 2, descriptorType.string]), content]);
  }

  #device(): Buffer {
    const { vendorId, productId, version = 0x0100 } = this.model;
    const bytes = Buffer.alloc(18);
    bytes.set([18, descriptorType.device, 0x00, 0x02, 0, 0, 0, 64]);
    bytes.writeUInt16LE(vendorId, 8);
    bytes.writeUInt16LE(productId, 10);
    bytes.writeUInt16LE(version, 12);
    const strings = [1, 2, 3].map((index) => (this.#strings[index] === undefined ? 0 : index));
    bytes.set([...strings, 1], 14);
    return bytes;
  }

  #configurationDescriptor(): Buffer {
    const busPowered = 0x80;
    const milliamps = 100;
    const header = [9, descriptorType.configuration, 0, 0, this.interfaces.length, 1, 0, busPowered, milliamps / 2];
    const bytes = Buffer.concat([
      Buffer.from(header),
      ...this.interfaces.flatMap((one, number) => [
        Buffer.from(
          [9, descriptorType.interface, number, 0, one.endpoints.length].concat([
            one.class,
            one.subclass,
            one.protocol,
            0,
          ]),
        ),
        ...(one.descriptors ?? []),
        ...one.endpoints.map((endpoint) => endpointDescriptor(endpoint, this.model.speed)),
      ]),
    ]);
    bytes.writeUInt16LE(bytes.length, 2);
    return bytes;
  }
}

function endpointDescriptor({ address, type, maxPacketBytes }: InEndpoint | OutEndpoint, speed = "high"): Buffer {
  const attributes = type === "bulk" ? 2 : 3;
  // Every millisecond: in frames, or in 2^(n-1) eighths of one.
  const interval = type === "bulk" ? 0 : speed === "high" ? 4 : 1;
  return Buffer.from([
    7,
    descriptorType.endpoint,
    address,
    attributes,
    maxPacketBytes & 0xff,
    maxPacketBytes >> 8,
    interval,
  ]);
}
