import { close, closeSync, constants, open, readSync } from "node:fs";
import { promisify } from "node:util";
import { AgentError, DeviceOffline, isSystemError } from "../driver/errors.ts";
import { asyncIoctl } from "./ioctl.ts";
import { watchDescriptor } from "./poll.ts";
import { loadKoffi, systemError, type Koffi } from "./native.ts";

/** GPIO lines through the kernel's character device, second version of its interface (linux/gpio.h, since Linux 5.10). */

/** Offsets in the structures, the same on all machines; a test compares them with C's. */
export const layout = {
  chipInfo: { bytes: 68, name: 0, label: 32, lines: 64 },
  lineInfo: { bytes: 256, name: 0, consumer: 32, offset: 64, attributeCount: 68, flags: 72, attributes: 80 },
  attribute: { bytes: 16, id: 0, value: 8 },
  config: { bytes: 272, flags: 0, attributeCount: 8, attributes: 32 },
  configAttribute: { bytes: 24, mask: 16 },
  request: { bytes: 592, offsets: 0, consumer: 256, config: 288, lines: 560, bufferSize: 564, fd: 588 },
  values: { bytes: 16, bits: 0, mask: 8 },
  event: { bytes: 48, timestamp: 0, id: 8, offset: 12, sequence: 16, lineSequence: 20 },
} as const;

export const requests = {
  GPIO_GET_CHIPINFO_IOCTL: 0x8044b401,
  GPIO_V2_GET_LINEINFO_IOCTL: 0xc100b405,
  GPIO_V2_GET_LINE_IOCTL: 0xc250b407,
  GPIO_V2_LINE_SET_CONFIG_IOCTL: 0xc110b40d,
  GPIO_V2_LINE_GET_VALUES_IOCTL: 0xc010b40e,
  GPIO_V2_LINE_SET_VALUES_IOCTL: 0xc010b40f,
} as const;

/** enum gpio_v2_line_flag: the numbers of the bits. */
export const flagBits = {
  USED: 0,
  ACTIVE_LOW: 1,
  INPUT: 2,
  OUTPUT: 3,
  EDGE_RISING: 4,
  EDGE_FALLING: 5,
  OPEN_DRAIN: 6,
  OPEN_SOURCE: 7,
  BIAS_PULL_UP: 8,
  BIAS_PULL_DOWN: 9,
  BIAS_DISABLED: 10,
} as const;
type Flag = keyof typeof flagBits;

const attributeIds = { outputValues: 2, debounce: 3 } as const;
const risingEdge = 1;
const nameBytes = 32;
const mostAttributes = 10;
const EBADF = 9;
/** The most that the kernel keeps for a request; when it is full, the oldest go. */
const eventBufferSize = 1_024;
const eventsPerRead = 64;

export type Drive = "push_pull" | "open_drain" | "open_source";
export type Bias = "as_is" | "pull_up" | "pull_down" | "disabled";

/** How a line is to be. All values are logical: active or not, whatever that is in volts. */
export type LineSettings = { readonly activeLow: boolean } & (
  | { readonly direction: "as_is" }
  | { readonly direction: "input"; readonly bias: Bias; readonly edges: boolean; readonly debounceUs: number }
  | { readonly direction: "output"; readonly bias: Bias; readonly drive: Drive; readonly active: boolean }
);

export interface ChipInfo {
  /** `gpiochip0` */
  readonly name: string;
  /** What the chip is: `pinctrl-bcm2711`. */
  readonly label: string;
  readonly lines: number;
}

export interface LineInfo {
  readonly offset: number;
  /** Empty if the board's device tree gives none. */
  readonly name: string;
  /** Who has requested it; may be empty even while it is used. */
  readonly consumer: string;
  readonly used: boolean;
  readonly direction: "input" | "output";
  readonly activeLow: boolean;
  readonly drive: Drive;
  readonly bias: Bias;
  readonly debounceUs: number;
}

export interface LineEvent {
  readonly rising: boolean;
  /** CLOCK_MONOTONIC of the kernel when it happened. */
  readonly timestampNs: bigint;
  readonly offset: number;
  /** Counts the events of the line, so that gaps show; starts at 1 and wraps after 2^32. */
  readonly lineSequence: number;
}

const text = (bytes: Buffer, at: number): string => {
  const end = bytes.indexOf(0, at);
  return bytes.toString("utf8", at, end === -1 || end > at + nameBytes ? at + nameBytes : end);
};

export function decodeChipInfo(bytes: Buffer): ChipInfo {
  const at = layout.chipInfo;
  return { name: text(bytes, at.name), label: text(bytes, at.label), lines: bytes.readUInt32LE(at.lines) };
}

export function decodeLineInfo(bytes: Buffer): LineInfo {
  const at = layout.lineInfo;
  const flags = bytes.readUInt32LE(at.flags);
  const has = (flag: Flag) => (flags & (1 << flagBits[flag])) !== 0;
  let debounceUs = 0;
  const count = Math.min(bytes.readUInt32LE(at.attributeCount), mostAttributes);
  for (let index = 0; index < count; index += 1) {
    const start = at.attributes + index * layout.attribute.bytes;
    if (bytes.readUInt32LE(start + layout.attribute.id) !== attributeIds.debounce) continue;
    debounceUs = bytes.readUInt32LE(start + layout.attribute.value);
  }
  return {
    offset: bytes.readUInt32LE(at.offset),
    name: text(bytes, at.name),
    consumer: text(bytes, at.consumer),
    used: has("USED"),
    direction: has("OUTPUT") ? "output" : "input",
    activeLow: has("ACTIVE_LOW"),
    drive: has("OPEN_DRAIN") ? "open_drain" : has("OPEN_SOURCE") ? "open_source" : "push_pull",
    bias: has("BIAS_PULL_UP")
      ? "pull_up"
      : has("BIAS_PULL_DOWN")
        ? "pull_down"
        : has("BIAS_DISABLED")
          ? "disabled"
          : "as_is",
    debounceUs,
  };
}

/** Whole events only; the kernel hands out no parts of them. */
export function decodeEvents(bytes: Buffer): LineEvent[] {
  const at = layout.event;
  const events: LineEvent[] = [];
  for (let start = 0; start + at.bytes <= bytes.length; start += at.bytes) {
    events.push({
      rising: bytes.readUInt32LE(start + at.id) === risingEdge,
      timestampNs: bytes.readBigUInt64LE(start + at.timestamp),
      offset: bytes.readUInt32LE(start + at.offset),
      lineSequence: bytes.readUInt32LE(start + at.lineSequence),
    });
  }
  return events;
}

/** struct gpio_v2_line_config for one line. The kernel refuses bias, drive and edges without a direction. */
export function encodeConfig(settings: LineSettings): Buffer {
  const at = layout.config;
  const flags: Flag[] = settings.activeLow ? ["ACTIVE_LOW"] : [];
  const attributes: [id: number, value: number][] = [];
  if (settings.direction !== "as_is") {
    flags.push(settings.direction === "input" ? "INPUT" : "OUTPUT");
    if (settings.bias === "pull_up") flags.push("BIAS_PULL_UP");
    if (settings.bias === "pull_down") flags.push("BIAS_PULL_DOWN");
    if (settings.bias === "disabled") flags.push("BIAS_DISABLED");
  }
  if (settings.direction === "input") {
    if (settings.edges) flags.push("EDGE_RISING", "EDGE_FALLING");
    if (settings.debounceUs > 0) attributes.push([attributeIds.debounce, settings.debounceUs]);
  }
  if (settings.direction === "output") {
    if (settings.drive === "open_drain") flags.push("OPEN_DRAIN");
    if (settings.drive === "open_source") flags.push("OPEN_SOURCE");
    attributes.push([attributeIds.outputValues, settings.active ? 1 : 0]);
  }
  const bytes = Buffer.alloc(at.bytes);
  bytes.writeUInt32LE(
    flags.reduce((sum, flag) => sum | (1 << flagBits[flag]), 0),
    at.flags,
  );
  bytes.writeUInt32LE(attributes.length, at.attributeCount);
  for (const [index, [id, value]] of attributes.entries()) {
    const start = at.attributes + index * layout.configAttribute.bytes;
    bytes.writeUInt32LE(id, start + layout.attribute.id);
    bytes.writeUInt32LE(value, start + layout.attribute.value);
    bytes.writeUInt32LE(1, start + layout.configAttribute.mask);
  }
  return bytes;
}

/** struct gpio_v2_line_request for one line. */
export function encodeRequest(offset: number, settings: LineSettings, consumer: string): Buffer {
  const at = layout.request;
  const bytes = Buffer.alloc(at.bytes);
  bytes.writeUInt32LE(offset, at.offsets);
  bytes.write(consumer, at.consumer, nameBytes - 1, "utf8");
  encodeConfig(settings).copy(bytes, at.config);
  bytes.writeUInt32LE(1, at.lines);
  bytes.writeUInt32LE(eventBufferSize, at.bufferSize);
  return bytes;
}

/** A line that is ours until it is closed. After that its level is what the chip makes of it: most keep it. */
export interface RequestedLine {
  isActive(): Promise<boolean>;
  /** The line must be an output. */
  setActive(active: boolean): Promise<void>;
  configure(settings: LineSettings): Promise<void>;
  /**
   * Calls back for what the kernel has noticed from now on; what it kept from before is thrown away. `onLost` once when the chip has gone.
   * One at a time. @returns takes it back
   */
  listen(onEvents: (events: readonly LineEvent[]) => void, onLost: (error: Error) => void): () => void;
  close(): Promise<void>;
}

export interface GpioChip {
  readonly info: ChipInfo;
  /** @throws the system's error ENODEV when the chip has gone. */
  check(): Promise<void>;
  lineInfo(offset: number): Promise<LineInfo>;
  /** @throws the system's error: EBUSY while somebody has it, ENODEV when the chip has gone */
  request(offset: number, settings: LineSettings, consumer: string): Promise<RequestedLine>;
  close(): Promise<void>;
}

type GpioIoctl = (fd: number, request: keyof typeof requests, argument: Buffer) => Promise<void>;

/**
 * Opens a GPIO chip.
 * @param path `/dev/gpiochip0`
 * @throws DeviceOffline when there is none; AgentError E_IO when this user may not open it, E_UNSUPPORTED when the kernel has not the
 *   second version of this interface or the file is no GPIO chip
 */
export async function openChip(path: string): Promise<GpioChip> {
  const koffi = await loadKoffi();
  const anyIoctl = asyncIoctl(koffi);
  const ioctl: GpioIoctl = async (fd, request, argument) =>
    void (await anyIoctl(fd, requests[request], request, argument));
  const fd = await promisify(open)(path, constants.O_RDWR).catch((error: unknown) => {
    if (isSystemError(error) && ["ENOENT", "ENODEV", "ENXIO"].includes(error.code)) {
      throw new DeviceOffline(`there is no GPIO chip ${path}`, { cause: error });
    }
    if (isSystemError(error) && ["EACCES", "EPERM"].includes(error.code)) {
      const hint = `give this user write access to ${path}, as a rule by membership of the group gpio`;
      throw new AgentError("E_IO", `the GPIO chip ${path} may not be opened by this user`, { hint, cause: error });
    }
    throw error;
  });
  const lineInfo = async (offset: number) => {
    const bytes = Buffer.alloc(layout.lineInfo.bytes);
    bytes.writeUInt32LE(offset, layout.lineInfo.offset);
    await ioctl(fd, "GPIO_V2_GET_LINEINFO_IOCTL", bytes);
    return decodeLineInfo(bytes);
  };
  const chipInfo = async () => {
    const bytes = Buffer.alloc(layout.chipInfo.bytes);
    await ioctl(fd, "GPIO_GET_CHIPINFO_IOCTL", bytes);
    return decodeChipInfo(bytes);
  };
  try {
    const info = await chipInfo();
    if (info.lines > 0) await lineInfo(0);
    return {
      info,
      check: async () => void (await chipInfo()),
      lineInfo,
      async request(offset, settings, consumer) {
        const bytes = encodeRequest(offset, settings, consumer);
        await ioctl(fd, "GPIO_V2_GET_LINE_IOCTL", bytes);
        return requestedLine(koffi, ioctl, bytes.readInt32LE(layout.request.fd));
      },
      close: () => promisify(close)(fd),
    };
  } catch (error) {
    closeSync(fd);
    if (isSystemError(error) && ["EINVAL", "ENOTTY"].includes(error.code)) {
      const reason = `${path} does not speak version 2 of the GPIO interface (Linux 5.10)`;
      throw new AgentError("E_UNSUPPORTED", reason, { cause: error });
    }
    if (isSystemError(error) && error.code === "ENODEV") throw new DeviceOffline(`${path} has gone`, { cause: error });
    throw error;
  }
}

function requestedLine(koffi: Koffi, ioctl: GpioIoctl, fd: number): RequestedLine {
  // One call after the other, and none on a number that was closed and given to another file meanwhile.
  let last: Promise<unknown> = Promise.resolve();
  let closed = false;
  const inTurn = <T>(work: () => Promise<T>): Promise<T> => {
    const done = last.then(() => {
      if (closed) throw systemError(EBADF, "use of a GPIO line that is closed");
      return work();
    });
    last = done.catch(() => {});
    return done;
  };
  const values = (active: boolean) => {
    const bytes = Buffer.alloc(layout.values.bytes);
    bytes.writeUInt32LE(active ? 1 : 0, layout.values.bits);
    bytes.writeUInt32LE(1, layout.values.mask);
    return bytes;
  };
  const buffer = Buffer.alloc(layout.event.bytes * eventsPerRead);
  /** @returns nothing when there is nothing now. */
  const readNow = (): LineEvent[] => {
    try {
      return decodeEvents(buffer.subarray(0, readSync(fd, buffer)));
    } catch (error) {
      if (isSystemError(error) && error.code === "EAGAIN") return [];
      throw error;
    }
  };
  let stop: (() => void) | undefined;

  return {
    isActive: () =>
      inTurn(async () => {
        const bytes = values(false);
        await ioctl(fd, "GPIO_V2_LINE_GET_VALUES_IOCTL", bytes);
        return (bytes.readUInt32LE(layout.values.bits) & 1) === 1;
      }),
    setActive: (active) => inTurn(() => ioctl(fd, "GPIO_V2_LINE_SET_VALUES_IOCTL", values(active))),
    configure: (settings) => inTurn(() => ioctl(fd, "GPIO_V2_LINE_SET_CONFIG_IOCTL", encodeConfig(settings))),
    listen(onEvents, onLost) {
      const take = () => {
        try {
          const events = readNow();
          if (events.length > 0) onEvents(events);
        } catch (error) {
          stop?.();
          onLost(error as Error);
        }
      };
      // Makes the descriptor one that does not block, before the first read.
      const unwatch = watchDescriptor(koffi, fd, "readable", take);
      const over = () => {
        if (stop === over) stop = undefined;
        unwatch();
      };
      stop = over;
      try {
        while (readNow().length > 0);
      } catch (error) {
        over();
        throw error;
      }
      return () => {
        if (stop === over) over();
      };
    },
    async close() {
      stop?.();
      const closing = inTurn(async () => {
        closed = true;
        await promisify(close)(fd);
      });
      await closing.catch((error: unknown) => {
        if (!isSystemError(error) || error.code !== "EBADF") throw error;
      });
    },
  };
}
