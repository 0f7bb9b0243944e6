import { loadKoffi, systemError } from "./native.ts";

/** Linux termios2 and modem lines. Numbers: asm-generic/termbits.h and ioctls.h (x86, ARM and RISC-V alike). */

const TCGETS2 = 0x802c542a;
const TCSETS2 = 0x402c542b;
const TCFLSH = 0x540b;
const TIOCOUTQ = 0x5411;
const TIOCMBIS = 0x5416;
const TIOCMBIC = 0x5417;
const TIOCSBRK = 0x5427;
const TIOCCBRK = 0x5428;
const TIOCGICOUNT = 0x545d;

/** struct termios2: c_iflag, c_oflag, c_cflag, c_lflag (u32 each), c_line (u8), c_cc[19], c_ispeed, c_ospeed (u32). */
export const termios2Bytes = 44;
const at = { iflag: 0, oflag: 4, cflag: 8, lflag: 12, cc: 17, ispeed: 36, ospeed: 40 } as const;
const VTIME = 5;
const VMIN = 6;

const CBAUD = 0o010017;
const CIBAUD = 0o02003600000;
const BOTHER = 0o010000;
const CSIZE = 0o000060;
const CS8 = 0o000060;
const CSTOPB = 0o000100;
const CREAD = 0o000200;
const PARENB = 0o000400;
const HUPCL = 0o002000;
const CLOCAL = 0o004000;
const CRTSCTS = 0o20000000000;

const modemLines = { dtr: 0x002, rts: 0x004 } as const;
export type ModemLine = keyof typeof modemLines;

export interface RawMode {
  /** Any rate; the driver of the port takes the nearest it can make. */
  readonly baudRate: number;
  /** False: DTR and RTS stay as they are when the port is closed. Undefined: as the port was set up before. */
  readonly hangUpOnClose?: boolean | undefined;
}

/** Changes a termios2 to raw 8N1 without flow control, carrier ignored. */
export function makeRaw(termios2: Buffer, { baudRate, hangUpOnClose }: RawMode): void {
  let cflag = termios2.readUInt32LE(at.cflag);
  cflag &= ~(CBAUD | CIBAUD | CSIZE | CSTOPB | PARENB | CRTSCTS);
  cflag |= BOTHER | CS8 | CREAD | CLOCAL;
  if (hangUpOnClose === true) cflag |= HUPCL;
  if (hangUpOnClose === false) cflag &= ~HUPCL;
  termios2.writeUInt32LE(0, at.iflag);
  termios2.writeUInt32LE(0, at.oflag);
  termios2.writeUInt32LE(cflag >>> 0, at.cflag);
  termios2.writeUInt32LE(0, at.lflag);
  termios2[at.cc + VTIME] = 0;
  termios2[at.cc + VMIN] = 1; // with 0, an idle port would read as end of file
  termios2.writeUInt32LE(baudRate, at.ispeed);
  termios2.writeUInt32LE(baudRate, at.ospeed);
}

/** struct serial_icounter_struct (linux/serial.h): eleven ints, and nine that mean nothing yet. */
export const icounterBytes = 80;
const counters = { frame: 24, overrun: 28, parity: 32, break: 36, buffer_overrun: 40 } as const;

/** How often a port has seen each kind of error since its driver was loaded or it was plugged in. */
export type LineErrors = Record<keyof typeof counters, number>;

/** What can be asked of an open terminal. All throw the system's error. */
export interface Termios {
  /** @returns the baud rate that the port really has now. */
  setRaw(fd: number, mode: RawMode): number;
  setLine(fd: number, line: ModemLine, on: boolean): void;
  /** Forgets what was received and not read, or what is not sent yet. */
  flush(fd: number, queue: "input" | "output"): void;
  /** Bytes that are written and not sent yet. */
  outputQueueBytes(fd: number): number;
  /** Begins or ends a break. Beginning waits until what was written is sent. */
  setBreak(fd: number, on: boolean): Promise<void>;
  /** Undefined where the driver of the port does not count (ENOTTY), as ptys do not. */
  lineErrors(fd: number): LineErrors | undefined;
}

/** EINVAL, ENOTTY: drivers without counters answer either. */
const uncounted = new Set([22, 25]);

export function readLineErrors(icounter: Buffer): LineErrors {
  const read = Object.entries(counters).map(([name, offset]) => [name, icounter.readInt32LE(offset)] as const);
  return Object.fromEntries(read) as LineErrors;
}

/** @throws AgentError E_UNSUPPORTED where native code cannot be loaded. */
export async function loadTermios(): Promise<Termios> {
  const koffi = await loadKoffi();
  const nativeIoctl = koffi.load(null).func("int ioctl(int fd, unsigned long request, ...)") as (
    ...args: unknown[]
  ) => number;
  const ioctl = (fd: number, request: number, name: string, type: "void *" | "int", argument: Buffer | number) => {
    if (nativeIoctl(fd, request, type, argument) === -1) throw systemError(koffi.errno(), name);
  };
  const plainIoctl = koffi.load(null).func("int ioctl(int fd, unsigned long request, void *argument)");
  return {
    setRaw(fd, mode) {
      const termios2 = Buffer.alloc(termios2Bytes);
      ioctl(fd, TCGETS2, "tcgetattr", "void *", termios2);
      makeRaw(termios2, mode);
      ioctl(fd, TCSETS2, "tcsetattr", "void *", termios2);
      ioctl(fd, TCGETS2, "tcgetattr", "void *", termios2);
      return termios2.readUInt32LE(at.ospeed);
    },
    setLine(fd, line, on) {
      const bits = Buffer.alloc(4);
      bits.writeInt32LE(modemLines[line]);
      ioctl(fd, on ? TIOCMBIS : TIOCMBIC, `set ${line}`, "void *", bits);
    },
    flush(fd, queue) {
      ioctl(fd, TCFLSH, "tcflush", "int", queue === "input" ? 0 : 1);
    },
    outputQueueBytes(fd) {
      const count = Buffer.alloc(4);
      ioctl(fd, TIOCOUTQ, "outq", "void *", count);
      return count.readInt32LE();
    },
    setBreak: (fd, on) =>
      new Promise((resolve, reject) => {
        plainIoctl.async(fd, on ? TIOCSBRK : TIOCCBRK, null, (error: Error | null, result: number) => {
          if (error !== null) reject(error);
          else if (result === -1) reject(systemError(koffi.errno(), on ? "begin break" : "end break"));
          else resolve();
        });
      }),
    lineErrors(fd) {
      const icounter = Buffer.alloc(icounterBytes);
      if (nativeIoctl(fd, TIOCGICOUNT, "void *", icounter) === -1) {
        const errno = koffi.errno();
        if (uncounted.has(errno)) return undefined;
        throw systemError(errno, "count line errors");
      }
      return readLineErrors(icounter);
    },
  };
}
