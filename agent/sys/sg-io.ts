import { close, constants, open } from "node:fs";
import { promisify } from "node:util";
import { AgentError, DeviceOffline, isSystemError } from "../driver/errors.ts";
import { loadKoffi, systemError } from "./native.ts";

/** SCSI commands of one's own through the kernel's generic driver (scsi/sg.h, SG_IO). */

/** struct sg_io_hdr on 64-bit systems; a test compares it with C's. */
export const layout = {
  bytes: 88,
  interfaceId: 0,
  direction: 4,
  commandLength: 8,
  senseLimit: 9,
  dataLength: 12,
  data: 16,
  command: 24,
  sense: 32,
  timeout: 40,
  status: 64,
  senseLength: 67,
  hostStatus: 68,
  driverStatus: 70,
  residue: 72,
} as const;

export const SG_IO = 0x2285;
const directions = { none: -1, toDevice: -2, fromDevice: -3 } as const;
const senseBytes = 64;

export interface ScsiReply {
  /** 0 good, 2 check condition. */
  readonly status: number;
  /** Of the host adapter: 0, or why the command did not get through. */
  readonly hostStatus: number;
  readonly sense: Buffer;
  /** What came. */
  readonly data: Buffer;
}

export interface ScsiDevice {
  /**
   * @param transfer bytes that go along, or how many are wanted
   * @throws DeviceOffline when it has gone; the system's error, EPERM without the capability CAP_SYS_RAWIO among them
   */
  command(cdb: Uint8Array, transfer: Uint8Array | number, timeoutMs: number): Promise<ScsiReply>;
  close(): Promise<void>;
}

const gone = new Set(["ENODEV", "ENXIO", "ENOENT", "ESHUTDOWN"]);

/** What the kernel has filled in. Never more data than was asked for, whatever the header claims. */
export function readReply(header: Buffer, sense: Buffer, data: Buffer): ScsiReply {
  const residue = header.readInt32LE(layout.residue);
  const received = Math.min(Math.max(data.length - residue, 0), data.length);
  return {
    status: header.readUInt8(layout.status),
    hostStatus: header.readUInt16LE(layout.hostStatus),
    sense: sense.subarray(0, header.readUInt8(layout.senseLength)),
    data: data.subarray(0, received),
  };
}

/**
 * @param node `/dev/sg1`
 * @param name the device, for errors
 * @throws DeviceOffline when it has gone; AgentError E_IO when this user may not open it
 */
export async function openScsi(node: string, name: string): Promise<ScsiDevice> {
  const koffi = await loadKoffi();
  if (koffi.sizeof("void *") !== 8)
    throw new AgentError("E_UNSUPPORTED", "SCSI commands are sent on 64-bit Linux only");
  const ioctl = koffi.load(null).func("int ioctl(int fd, unsigned long request, void *argument)");
  const explain = (error: Error): Error => {
    if (!isSystemError(error)) return error;
    if (gone.has(error.code)) return new DeviceOffline(`${name} has gone`, { cause: error });
    if (error.code === "EACCES" || error.code === "EPERM") {
      const hint = `give this user write access to ${node} and the process the capability CAP_SYS_RAWIO`;
      return new AgentError("E_IO", `${name} takes no commands from this user`, { hint, cause: error });
    }
    return error;
  };
  const fd = await promisify(open)(node, constants.O_RDWR | constants.O_NONBLOCK).catch((error: Error) => {
    throw explain(error);
  });

  return {
    async command(cdb, transfer, timeoutMs) {
      // One piece of memory, not that of the caller: the kernel uses all of it while JavaScript goes on, and the collector sees only the header.
      const dataLength = typeof transfer === "number" ? transfer : transfer.length;
      const memory = Buffer.from(new ArrayBuffer(layout.bytes + senseBytes + cdb.length + dataLength));
      const header = memory.subarray(0, layout.bytes);
      const sense = memory.subarray(header.length, header.length + senseBytes);
      const data = memory.subarray(memory.length - dataLength);
      const command = memory.subarray(header.length + sense.length, memory.length - dataLength);
      command.set(cdb);
      if (typeof transfer !== "number") data.set(transfer);
      const direction = data.length === 0 ? "none" : typeof transfer === "number" ? "fromDevice" : "toDevice";
      header.writeInt32LE("S".charCodeAt(0), layout.interfaceId);
      header.writeInt32LE(directions[direction], layout.direction);
      header.writeUInt8(command.length, layout.commandLength);
      header.writeUInt8(sense.length, layout.senseLimit);
      header.writeUInt32LE(data.length, layout.dataLength);
      if (data.length > 0) header.writeBigUInt64LE(koffi.address(data), layout.data);
      header.writeBigUInt64LE(koffi.address(command), layout.command);
      header.writeBigUInt64LE(koffi.address(sense), layout.sense);
      header.writeUInt32LE(timeoutMs, layout.timeout);
      await new Promise<void>((resolve, reject) => {
        ioctl.async(fd, SG_IO, header, (error: Error | null, result: number) => {
          const errno = koffi.errno();
          if (error !== null) reject(error);
          else if (result !== -1) resolve();
          else reject(explain(systemError(errno, `SCSI command to ${name}`)));
        });
      });
      const reply = readReply(header, sense, data);
      return typeof transfer === "number" ? reply : { ...reply, data: Buffer.alloc(0) };
    },
    close: () => promisify(close)(fd),
  };
}
