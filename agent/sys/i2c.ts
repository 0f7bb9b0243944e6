import { close, constants, open } from "node:fs";
import { promisify } from "node:util";
import { AgentError, DeviceOffline, isSystemError } from "../driver/errors.ts";
import { asyncIoctl } from "./ioctl.ts";
import { loadKoffi } from "./native.ts";

/** I2C buses through the kernel's i2c-dev (linux/i2c-dev.h, linux/i2c.h). */

/** Structures by the size of a pointer in bytes; a test compares those of its machine with C's. */
export const layouts = {
  4: {
    message: { bytes: 12, address: 0, flags: 2, length: 4, buffer: 8 },
    transfer: { bytes: 8, messages: 0, count: 4 },
    smbus: { bytes: 12, readWrite: 0, command: 1, size: 4, data: 8 },
  },
  8: {
    message: { bytes: 16, address: 0, flags: 2, length: 4, buffer: 8 },
    transfer: { bytes: 16, messages: 0, count: 8 },
    smbus: { bytes: 16, readWrite: 0, command: 1, size: 4, data: 8 },
  },
} as const;

export const requests = { I2C_SLAVE: 0x0703, I2C_FUNCS: 0x0705, I2C_RDWR: 0x0707, I2C_SMBUS: 0x0720 } as const;

const I2C_M_RD = 1;

/** I2C_FUNC_*: the numbers of the bits. */
export const functionBits = {
  I2C: 0,
  SMBUS_QUICK: 16,
  SMBUS_READ_BYTE: 17,
  SMBUS_WRITE_BYTE: 18,
  SMBUS_READ_BYTE_DATA: 19,
  SMBUS_WRITE_BYTE_DATA: 20,
  SMBUS_READ_WORD_DATA: 21,
  SMBUS_WRITE_WORD_DATA: 22,
  SMBUS_READ_I2C_BLOCK: 26,
  SMBUS_WRITE_I2C_BLOCK: 27,
} as const;
export type I2cFunction = keyof typeof functionBits;

const I2C_SMBUS_READ = 1;
const I2C_SMBUS_WRITE = 0;
/** I2C_SMBUS_BLOCK_MAX */
export const longestBlockBytes = 32;
/** union i2c_smbus_data: a length and 33 bytes, or a byte, or a word. */
export const smbusDataBytes = longestBlockBytes + 2;

/** One transaction of SMBus 2.0, in the kernel's words for its size. */
export const smbusSizes = { QUICK: 0, BYTE: 1, BYTE_DATA: 2, WORD_DATA: 3, I2C_BLOCK_DATA: 8 } as const;
export interface SmbusCall {
  readonly read: boolean;
  /** The byte after the address; of a byte that is written without a register, the byte itself. */
  readonly command: number;
  readonly size: keyof typeof smbusSizes;
  /** What is written; of a block that is read, bytes of the length that is wanted. */
  readonly data: Uint8Array;
}

export type I2cMessage = { readonly write: Uint8Array } | { readonly read: number };

export interface I2cBus {
  can(what: I2cFunction): boolean;
  /**
   * Writes and reads in one transaction with repeated starts: up to 42 messages of up to 8192 bytes. @returns what each read brought, in their order
   * @throws the system's error: ENXIO or EREMOTEIO if nobody acknowledges, EBUSY while a driver of the kernel has the address
   */
  transfer(address: number, messages: readonly I2cMessage[]): Promise<Buffer[]>;
  /** @returns what was read. @throws as `transfer` */
  smbus(address: number, call: SmbusCall): Promise<Buffer>;
  close(): Promise<void>;
}

/**
 * Opens a bus. Its calls wait on a thread, one after the other.
 * @param path `/dev/i2c-1`
 * @throws DeviceOffline when there is none; AgentError E_IO when this user may not open it
 */
export async function openI2c(path: string): Promise<I2cBus> {
  const koffi = await loadKoffi();
  const ioctl = asyncIoctl(koffi);
  const pointerBytes = koffi.sizeof("void *") === 4 ? 4 : 8;
  const at = layouts[pointerBytes];
  const fd = await promisify(open)(path, constants.O_RDWR).catch((error: unknown) => {
    if (isSystemError(error) && ["ENOENT", "ENODEV", "ENXIO"].includes(error.code)) {
      const hint = "load the kernel module i2c-dev, or enable the bus in the board's configuration";
      throw new DeviceOffline(`there is no I2C bus ${path}`, { hint, cause: error });
    }
    if (isSystemError(error) && ["EACCES", "EPERM"].includes(error.code)) {
      const hint = `give this user access to ${path}, as a rule by membership of the group i2c`;
      throw new AgentError("E_IO", `the I2C bus ${path} may not be opened by this user`, { hint, cause: error });
    }
    throw error;
  });
  const pointTo = (bytes: Buffer, offset: number, target: number) => {
    // Within the same memory, so that nothing is collected while the kernel works with it.
    const address = koffi.address(bytes) + BigInt(target);
    if (pointerBytes === 4) bytes.writeUInt32LE(Number(address), offset);
    else bytes.writeBigUInt64LE(address, offset);
  };
  let functions: number;
  try {
    const bytes = Buffer.alloc(8);
    await ioctl(fd, requests.I2C_FUNCS, "I2C_FUNCS", bytes);
    functions = bytes.readUInt32LE(0);
  } catch (error) {
    await promisify(close)(fd);
    throw error;
  }

  // The address belongs to the descriptor, so that calls must not mix.
  let last: Promise<unknown> = Promise.resolve();
  let closed = false;
  const inTurn = <T>(work: () => Promise<T>): Promise<T> => {
    // Another file may have the number by now.
    if (closed) return Promise.reject(new AgentError("E_CANCELLED", `the I2C bus ${path} is closed`));
    const done = last.then(work);
    last = done.catch(() => {});
    return done;
  };
  let address = -1;
  const choose = async (wanted: number) => {
    // Also before I2C_RDWR, which does not ask whether a driver of the kernel has the address.
    if (wanted === address) return;
    await ioctl(fd, requests.I2C_SLAVE, "I2C_SLAVE", BigInt(wanted));
    address = wanted;
  };

  return {
    can: (what) => (functions & (1 << functionBits[what])) !== 0,
    transfer: (address, messages) =>
      inTurn(async () => {
        await choose(address);
        const sizes = messages.map((each) => ("read" in each ? each.read : each.write.length));
        const firstMessage = at.transfer.bytes;
        let next = firstMessage + at.message.bytes * messages.length;
        const bytes = Buffer.alloc(sizes.reduce((sum, size) => sum + size, next));
        pointTo(bytes, at.transfer.messages, firstMessage);
        bytes.writeUInt32LE(messages.length, at.transfer.count);
        const results: Buffer[] = [];
        for (const [index, message] of messages.entries()) {
          const start = firstMessage + index * at.message.bytes;
          const size = sizes[index] ?? 0;
          bytes.writeUInt16LE(address, start + at.message.address);
          bytes.writeUInt16LE("read" in message ? I2C_M_RD : 0, start + at.message.flags);
          bytes.writeUInt16LE(size, start + at.message.length);
          pointTo(bytes, start + at.message.buffer, next);
          if ("read" in message) results.push(bytes.subarray(next, next + size));
          else bytes.set(message.write, next);
          next += size;
        }
        await ioctl(fd, requests.I2C_RDWR, "I2C_RDWR", bytes);
        return results;
      }),
    smbus: (address, call) =>
      inTurn(async () => {
        await choose(address);
        const block = call.size === "I2C_BLOCK_DATA";
        const bytes = Buffer.alloc(at.smbus.bytes + smbusDataBytes);
        const data = bytes.subarray(at.smbus.bytes);
        if (block) data[0] = call.data.length;
        if (!call.read) data.set(call.data, block ? 1 : 0);
        bytes.writeUInt8(call.read ? I2C_SMBUS_READ : I2C_SMBUS_WRITE, at.smbus.readWrite);
        bytes.writeUInt8(call.command, at.smbus.command);
        bytes.writeUInt32LE(smbusSizes[call.size], at.smbus.size);
        pointTo(bytes, at.smbus.data, at.smbus.bytes);
        await ioctl(fd, requests.I2C_SMBUS, "I2C_SMBUS", bytes);
        if (!call.read || call.size === "QUICK") return Buffer.alloc(0);
        if (block) return data.subarray(1, 1 + Math.min(data[0] ?? 0, longestBlockBytes));
        return data.subarray(0, call.size === "WORD_DATA" ? 2 : 1);
      }),
    close() {
      if (closed) return last.then(() => {});
      const closing = inTurn(() => promisify(close)(fd));
      closed = true;
      return closing;
    },
  };
}
