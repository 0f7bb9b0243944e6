import { close, constants, open } from "node:fs";
import { promisify } from "node:util";
import { AgentError, DeviceOffline, isSystemError } from "../driver/errors.ts";
import { asyncIoctl } from "./ioctl.ts";
import { loadKoffi } from "./native.ts";
import { describeUsb, type UsbDevice } from "./usb-devices.ts";

/** USB devices through the kernel's usbfs (linux/usbdevice_fs.h): control transfers, and who has an interface. */

/** struct usbdevfs_ctrltransfer, usbdevfs_bulktransfer and usbdevfs_ioctl on 64-bit systems; a test compares them with C's. */
export const layout = {
  ctrltransfer: { bytes: 24, requestType: 0, request: 1, value: 2, index: 4, length: 6, timeout: 8, data: 16 },
  bulktransfer: { bytes: 24, endpoint: 0, length: 4, timeout: 8, data: 16 },
  ioctl: { bytes: 16, interface: 0, code: 4, data: 8 },
} as const;

/** _IO('U', n), _IOWR('U', n, …): the numbers of x86, ARM and RISC-V. */
export const requests = {
  USBDEVFS_CONTROL: 0xc0185500,
  USBDEVFS_BULK: 0xc0185502,
  USBDEVFS_CLAIMINTERFACE: 0x8004550f,
  USBDEVFS_RELEASEINTERFACE: 0x80045510,
  USBDEVFS_IOCTL: 0xc0105512,
  USBDEVFS_RESET: 0x5514,
  USBDEVFS_DISCONNECT: 0x5516,
  USBDEVFS_CONNECT: 0x5517,
} as const;

/** What the first eight bytes of a control transfer say, without the length. */
export interface Setup {
  /** bmRequestType: direction (bit 7), kind (bits 6 and 5), recipient. */
  readonly requestType: number;
  readonly request: number;
  readonly value: number;
  readonly index: number;
}

export interface UsbHandle {
  /** @throws the system's error: ETIMEDOUT, EPIPE (the device refuses), EIO; DeviceOffline when it was unplugged */
  controlOut(setup: Setup, data: Uint8Array, timeoutMs: number): Promise<void>;
  /** @returns what came, at most `length` bytes. @throws as `controlOut` */
  controlIn(setup: Setup, length: number, timeoutMs: number): Promise<Buffer>;
  /** To a bulk or interrupt endpoint of a claimed interface. @throws as `controlOut` */
  transferOut(endpoint: number, data: Uint8Array, timeoutMs: number): Promise<void>;
  /** From such an endpoint (its address has the highest bit set). @returns what came, at most `length` bytes. @throws as `controlOut` */
  transferIn(endpoint: number, length: number, timeoutMs: number): Promise<Buffer>;
  /** Keeps other programs from an interface. @throws EBUSY while a kernel driver or a program has it */
  claim(interfaceNumber: number): Promise<void>;
  release(interfaceNumber: number): Promise<void>;
  /** Takes the kernel's driver off an interface; nothing happens if it has none. */
  detachDriver(interfaceNumber: number): Promise<void>;
  /** Lets the kernel find a driver for an interface; nothing happens if it has one. */
  attachDriver(interfaceNumber: number): Promise<void>;
  /** As if it was plugged in anew, without losing its place. */
  reset(): Promise<void>;
  close(): Promise<void>;
}

/** What system calls answer once a device is gone. */
const gone = new Set(["ENODEV", "ENOENT", "ESHUTDOWN"]);

/** `/dev/bus/usb/001/007` */
export function usbNode({ busNumber, deviceNumber }: Pick<UsbDevice, "busNumber" | "deviceNumber">): string {
  const digits = (value: number) => String(value).padStart(3, "0");
  return `/dev/bus/usb/${digits(busNumber)}/${digits(deviceNumber)}`;
}

/**
 * Opens a USB device. Transfers wait on a thread of their own, not in the event loop.
 * @throws DeviceOffline when it has gone; AgentError E_IO naming the device when this user may not, E_UNSUPPORTED on 32-bit systems
 */
export async function openUsb(device: UsbDevice): Promise<UsbHandle> {
  const koffi = await loadKoffi();
  if (koffi.sizeof("void *") !== 8)
    throw new AgentError("E_UNSUPPORTED", "USB devices are driven on 64-bit Linux only");
  const name = describeUsb(device);
  const node = usbNode(device);
  const fd = await promisify(open)(node, constants.O_RDWR).catch((error: unknown) => {
    if (isSystemError(error) && gone.has(error.code)) throw new DeviceOffline(`${name} has gone`, { cause: error });
    if (isSystemError(error) && error.code === "EACCES") {
      const hint = `give this user write access to ${node}, by a udev rule for ${name.split(" ")[0]}`;
      throw new AgentError("E_IO", `${name} may not be opened by this user`, { hint, cause: error });
    }
    throw error;
  });
  const ioctl = asyncIoctl(koffi);
  const call = async (request: number, what: string, argument: Buffer | bigint): Promise<number> => {
    try {
      return await ioctl(fd, request, `${what} of ${name}`, argument);
    } catch (error) {
      if (isSystemError(error) && gone.has(error.code)) throw new DeviceOffline(`${name} has gone`, { cause: error });
      throw error;
    }
  };

  const control = async (setup: Setup, data: Buffer, timeoutMs: number): Promise<number> => {
    const at = layout.ctrltransfer;
    const transfer = Buffer.alloc(at.bytes);
    transfer.writeUInt8(setup.requestType, at.requestType);
    transfer.writeUInt8(setup.request, at.request);
    transfer.writeUInt16LE(setup.value, at.value);
    transfer.writeUInt16LE(setup.index, at.index);
    transfer.writeUInt16LE(data.length, at.length);
    transfer.writeUInt32LE(timeoutMs, at.timeout);
    if (data.length > 0) transfer.writeBigUInt64LE(koffi.address(data), at.data);
    const moved = await call(requests.USBDEVFS_CONTROL, "control transfer", transfer);
    return Math.min(moved, data.length); // named here, so that it is not collected while the kernel uses it
  };
  const bulk = async (endpoint: number, data: Buffer, timeoutMs: number): Promise<number> => {
    const at = layout.bulktransfer;
    const transfer = Buffer.alloc(at.bytes);
    transfer.writeUInt32LE(endpoint, at.endpoint);
    transfer.writeUInt32LE(data.length, at.length);
    transfer.writeUInt32LE(timeoutMs, at.timeout);
    if (data.length > 0) transfer.writeBigUInt64LE(koffi.address(data), at.data);
    const moved = await call(requests.USBDEVFS_BULK, "transfer", transfer);
    return Math.min(moved, data.length); // named here, so that it is not collected while the kernel uses it
  };
  const ofInterface = (value: number) => {
    const bytes = Buffer.alloc(4);
    bytes.writeUInt32LE(value);
    return bytes;
  };
  const toDriver = async (interfaceNumber: number, code: number, what: string, done: string) => {
    const at = layout.ioctl;
    const command = Buffer.alloc(at.bytes);
    command.writeInt32LE(interfaceNumber, at.interface);
    command.writeInt32LE(code, at.code);
    await call(requests.USBDEVFS_IOCTL, what, command).catch((error: unknown) => {
      if (!isSystemError(error) || error.code !== done) throw error;
    });
  };

  return {
    async controlOut(setup, data, timeoutMs) {
      // Memory of its own: the kernel reads it while JavaScript goes on.
      await control(setup, Buffer.from(data), timeoutMs);
    },
    async controlIn(setup, length, timeoutMs) {
      const data = Buffer.alloc(length);
      return data.subarray(0, await control(setup, data, timeoutMs));
    },
    async transferOut(endpoint, data, timeoutMs) {
      await bulk(endpoint, Buffer.from(data), timeoutMs);
    },
    async transferIn(endpoint, length, timeoutMs) {
      const data = Buffer.alloc(length);
      return data.subarray(0, await bulk(endpoint, data, timeoutMs));
    },
    claim: async (interfaceNumber) =>
      void (await call(requests.USBDEVFS_CLAIMINTERFACE, "claim", ofInterface(interfaceNumber))),
    release: async (interfaceNumber) =>
      void (await call(requests.USBDEVFS_RELEASEINTERFACE, "release", ofInterface(interfaceNumber))),
    // ENODATA: it has no driver. EBUSY: it has one.
    detachDriver: (interfaceNumber) =>
      toDriver(interfaceNumber, requests.USBDEVFS_DISCONNECT, "detach driver", "ENODATA"),
    attachDriver: (interfaceNumber) => toDriver(interfaceNumber, requests.USBDEVFS_CONNECT, "attach driver", "EBUSY"),
    reset: async () => void (await call(requests.USBDEVFS_RESET, "reset", 0n)),
    close: () => promisify(close)(fd),
  };
}
