import { once } from "node:events";
import { close, constants, open } from "node:fs";
import { PassThrough, type Duplex } from "node:stream";
import { setTimeout as sleep } from "node:timers/promises";
import { ReadStream } from "node:tty";
import { promisify } from "node:util";
import { AgentError, DeviceOffline, isSystemError, toAgentError } from "../../agent/driver/errors.ts";
import type { Logger } from "../../agent/driver/log.ts";
import { dial } from "../../agent/stream/dial.ts";
import type { LineErrors, ModemLine, Termios } from "../../agent/sys/termios.ts";

/** How a port is to be set up. */
export interface PortSettings {
  readonly baudRate: number;
  /** Clear HUPCL, so that closing the port leaves DTR and RTS alone (a drop resets many boards). */
  readonly disableHupcl: boolean;
}

/** An open port. An object-mode stream keeps frames. */
export interface SerialHandle {
  readonly stream: Duplex;
  setLine(line: ModemLine, on: boolean): void;
  /** @throws AgentError E_UNSUPPORTED where there is no line to hold */
  setBreak(on: boolean): Promise<void>;
  /** Undefined where nobody counts them. */
  lineErrors(): LineErrors | undefined;
  /** Forgets what was written and is not sent yet. */
  discard(): void;
  /** Waits until the hardware has sent what was written, the caller wants it to stop, or half a minute has passed. */
  drain(stop: () => boolean): Promise<void>;
  /** Closes at once; `drain` first to have everything sent. */
  close(): Promise<void>;
}

/** Lines that were set while the port was closed; others are asserted, as by every open of a terminal. */
export type Lines = ReadonlyMap<ModemLine, boolean>;

export type OpenHandle = (settings: PortSettings, lines: Lines, signal: AbortSignal) => Promise<SerialHandle>;

/** What an open answers when the adapter is not plugged in. */
const missing = new Set(["ENOENT", "ENODEV", "ENXIO"]);

/** How often the kernel's send queue is looked at while draining. */
const drainPollMs = 5;
const drainTimeoutMs = 30_000;

/**
 * Opens a terminal device (UART, USB adapter, pty) without taking it for oneself: flashing tools and old streams
 * overlap with us.
 * @throws DeviceOffline when it is missing; the system's error otherwise
 */
export async function openTty(
  path: string,
  { baudRate, disableHupcl }: PortSettings,
  lines: Lines,
  termios: Termios,
  log: Logger,
): Promise<SerialHandle> {
  const { O_RDWR, O_NOCTTY, O_NONBLOCK } = constants;
  // Non-blocking: an open would otherwise wait for a carrier.
  const opened = await promisify(open)(path, O_RDWR | O_NOCTTY | O_NONBLOCK).catch((error: unknown) => {
    throw explainOpen(path, error);
  });
  let stream: ReadStream;
  try {
    const reached = termios.setRaw(opened, { baudRate, hangUpOnClose: disableHupcl ? false : undefined });
    // 2 %: a UART tolerates about that much before the stop bit is missed.
    if (Math.abs(reached - baudRate) > baudRate * 0.02) {
      log.warn(`${path} runs at ${reached} baud, not ${baudRate}`);
    }
    for (const line of ["dtr", "rts"] as const) {
      setLineIfAny(termios, opened, line, lines.get(line) ?? true);
    }
    termios.flush(opened, "input");
    stream = new ReadStream(opened);
  } catch (error) {
    close(opened);
    throw isSystemError(error) && error.code === "ENOTTY" ? new AgentError("E_IO", `${path} is not a terminal`) : error;
  }
  const fd = ownFd(stream);
  if (fd !== opened) close(opened);
  return {
    stream,
    setLine: (line, on) => termios.setLine(fd, line, on),
    setBreak: (on) =>
      termios.setBreak(fd, on).catch((error: unknown) => {
        throw isSystemError(error) && withoutLine.has(error.code) ? unsupportedBreak(path, error) : error;
      }),
    lineErrors: () => termios.lineErrors(fd),
    discard: () => forgetUnsent(termios, fd),
    async drain(stop) {
      const deadline = performance.now() + drainTimeoutMs;
      while (!stream.destroyed && !stop() && performance.now() < deadline && termios.outputQueueBytes(fd) > 0) {
        await sleep(drainPollMs);
      }
    },
    async close() {
      // With bytes to send, the kernel would hold up the close, and with it this whole process.
      if (!stream.destroyed) forgetUnsent(termios, fd);
      await destroyed(stream);
    },
  };
}

/** libuv opens a terminal anew where it can, to have its non-blocking mode for itself, and forgets the first one. */
function ownFd(stream: ReadStream): number {
  return (stream as unknown as { readonly _handle: { readonly fd: number } })._handle.fd;
}

function explainOpen(path: string, error: unknown): unknown {
  if (isSystemError(error) && missing.has(error.code)) {
    return new DeviceOffline(`serial port ${path} is missing: ${toAgentError(error).message}`, { cause: error });
  }
  return error;
}

/** Forgets what is not sent yet. Without need it must not be called: a pty would lose what its reader has not fetched. */
function forgetUnsent(termios: Termios, fd: number): void {
  try {
    if (termios.outputQueueBytes(fd) > 0) termios.flush(fd, "output");
  } catch (error) {
    if (!isSystemError(error)) throw error; // unplugged a moment ago
  }
}

/** What ptys and other terminals without a line answer. */
const withoutLine = new Set(["ENOTTY", "EINVAL", "EOPNOTSUPP", "ENOTSUP"]);

function unsupportedBreak(name: string, cause?: unknown): AgentError {
  return new AgentError("E_UNSUPPORTED", `${name} cannot send a break`, { cause });
}

/** Ptys have no modem lines; nobody asked for these, so that is fine. */
function setLineIfAny(termios: Termios, fd: number, line: ModemLine, on: boolean): void {
  try {
    termios.setLine(fd, line, on);
  } catch (error) {
    if (!isSystemError(error) || !withoutLine.has(error.code)) throw error;
  }
}

/** A port behind a TCP server (ser2net in raw mode, a terminal server, QEMU). It has no lines to set. */
export async function openSocket(host: string, port: number, signal: AbortSignal): Promise<SerialHandle> {
  const stream = await dial({ host, port, noDelay: true, keepAlive: true }, `${host}:${port}`, signal);
  return {
    ...lineless(stream, `${host}:${port}`),
    async close() {
      stream.end(); // what was written still goes out
      await destroyed(stream);
    },
  };
}

/** A plug that connects TX with RX. */
export function openLoop(): SerialHandle {
  const stream = new PassThrough({ objectMode: true });
  return { ...lineless(stream, "loop://"), close: () => destroyed(stream) };
}

/** A port without a wire of its own. */
function lineless<S extends Duplex>(stream: S, name: string) {
  return {
    stream,
    setLine: () => {},
    setBreak: () => Promise.reject(unsupportedBreak(name)),
    lineErrors: () => undefined,
    discard: () => {},
    drain: async () => {},
  };
}

/** Resolves when the stream's resources are free, so that the port can be opened again. */
async function destroyed(stream: Duplex): Promise<void> {
  if (stream.closed) return;
  const closed = once(stream, "close");
  stream.destroy();
  await closed;
}
