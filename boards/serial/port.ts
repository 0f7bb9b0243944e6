import { setTimeout as sleep } from "node:timers/promises";
import { AgentError, DeviceOffline, toAgentError } from "../../agent/driver/errors.ts";
import type { Logger } from "../../agent/driver/log.ts";
import type { LineErrors, ModemLine } from "../../agent/sys/termios.ts";
import type { Pacer } from "./pacing.ts";
import { SerialStream, type PortSide } from "./serial-stream.ts";
import type { OpenHandle, PortSettings, SerialHandle } from "./transport.ts";

interface Sending {
  readonly from: SerialStream;
  readonly data: Buffer;
  readonly sent: () => void;
}

/** A break has its place among what is sent. */
interface Break {
  readonly durationMs: number;
  /** It is over, or never came to be: then with the reason. */
  readonly done: (error?: Error) => void;
}

const LF = 0x0a;

/** Sent in pieces of this, so that little of it goes on when its sender has to stop. */
const pieceBytes = 4 * 1024;

/** What a port has done since the exporter started. */
export interface PortCounts {
  readonly receivedBytes: number;
  readonly sentBytes: number;
  /** Ends of lines among the received bytes. */
  readonly lines: number;
  /** What clients did not read in time. The recorder has it. */
  readonly droppedBytes: number;
}

/** One opening of the port, from its first stream to its last byte sent. */
interface Session {
  readonly handle: SerialHandle;
  readonly settings: PortSettings;
  /** Aborted when the port is lost or closed by force. */
  readonly over: AbortController;
}

/**
 * A serial port that any number of streams use at once: each receives everything, writes go out one after the other.
 * Open as long as somebody uses it or something is left to send. Can be opened again after it was lost or closed.
 */
export class SerialPort implements PortSide {
  /** For logs and errors: the device path or URL. */
  readonly name: string;
  readonly #open: OpenHandle;
  readonly #log: Logger;
  readonly #streams = new Set<SerialStream>();
  readonly #lines = new Map<ModemLine, boolean>();
  #sending: (Sending | Break)[] = [];
  #counts = { receivedBytes: 0, sentBytes: 0, lines: 0, droppedBytes: 0 };
  #pumping = false;
  #session: Session | undefined;
  /** Opening and closing take turns. */
  #turn: Promise<unknown> = Promise.resolve();
  /** How many wait for their turn to open; closing does not dawdle then. */
  #arriving = 0;

  constructor(name: string, open: OpenHandle, log: Logger) {
    this.name = name;
    this.#open = open;
    this.#log = log;
  }

  /**
   * Opens the port if it is not, and joins its readers.
   * @throws DeviceOffline if it is missing; E_FAILED if it is in use with other settings; the system's error
   */
  async attach(
    settings: PortSettings,
    pacer: Pacer | undefined,
    signal: AbortSignal,
    options: { keeps?: boolean } = {},
  ): Promise<SerialStream> {
    this.#arriving += 1;
    try {
      return await this.#inTurn(async () => {
        signal.throwIfAborted();
        const session = this.#session ?? (await this.#start(settings, signal));
        if (session.settings.baudRate !== settings.baudRate) {
          throw new AgentError(
            "E_FAILED",
            `${this.name} is in use at ${session.settings.baudRate} baud, so it cannot be opened at ${settings.baudRate}`,
          );
        }
        const stream = new SerialStream(this, pacer, options);
        this.#streams.add(stream);
        session.handle.stream.resume();
        return stream;
      });
    } finally {
      this.#arriving -= 1;
    }
  }

  /** Sets a modem line now, and at every opening from now on until `close`. */
  async setLine(settings: PortSettings, line: ModemLine, on: boolean, signal: AbortSignal): Promise<void> {
    await this.#inTurn(async () => {
      if (this.#session !== undefined) {
        this.#session.handle.setLine(line, on);
      } else {
        const handle = await this.#open(settings, this.#lines, signal);
        handle.stream.on("error", () => {});
        try {
          handle.setLine(line, on);
        } finally {
          await handle.close();
        }
      }
      this.#lines.set(line, on);
    });
  }

  get isOpen(): boolean {
    return this.#session !== undefined;
  }

  get counts(): PortCounts {
    let { droppedBytes } = this.#counts;
    for (const stream of this.#streams) droppedBytes += stream.droppedBytes;
    return { ...this.#counts, droppedBytes };
  }

  /** How many read it now, without those that keep it open. */
  get clients(): number {
    return [...this.#streams].filter(({ keeps }) => !keeps).length;
  }

  /** Of the open port; undefined while it is closed, or where nobody counts. @throws the system's error */
  lineErrors(): LineErrors | undefined {
    return this.#session?.handle.lineErrors();
  }

  /**
   * Holds the line in the break condition for a while, after what was written before it.
   * @throws AgentError E_UNSUPPORTED where the port cannot; what `attach` throws; DeviceOffline if it goes meanwhile
   */
  async sendBreak(settings: PortSettings, durationMs: number, signal: AbortSignal): Promise<void> {
    const holder = await this.attach(settings, undefined, signal);
    holder.resume();
    try {
      await new Promise<void>((resolve, reject) => {
        this.#sending.push({ durationMs, done: (error) => (error === undefined ? resolve() : reject(error)) });
        if (!this.#pumping) void this.#pump();
      });
    } finally {
      holder.destroy();
    }
  }

  /**
   * Ends what clients have: their streams, what they have not sent yet, how they set the lines. Lets go of the port
   * unless somebody keeps it.
   */
  async hangUp(): Promise<void> {
    const isClient = ({ keeps }: SerialStream) => !keeps;
    this.#end(isClient);
    await this.#inTurn(async () => {
      this.#end(isClient); // what arrived before its turn came
      const set = [...this.#lines.keys()];
      this.#lines.clear();
      if (this.#streams.size === 0) return this.#stop();
      const handle = this.#session?.handle;
      handle?.discard();
      // As an opening of the port would find them.
      for (const line of set) handle?.setLine(line, true);
    });
  }

  /**
   * Lets go of the port for somebody who needs it alone, such as a program that flashes through it. All streams end first; whoever opens the
   * port meanwhile waits until it is given back.
   * @param use gets a way to open the port by itself, with settings of its own
   */
  async lend<T>(
    signal: AbortSignal,
    use: (open: (settings: PortSettings) => Promise<SerialHandle>) => Promise<T>,
  ): Promise<T> {
    this.#end(() => true);
    return this.#inTurn(async () => {
      signal.throwIfAborted();
      this.#end(() => true); // what arrived before its turn came
      await this.#stop();
      return use((settings) => this.#open(settings, this.#lines, signal));
    });
  }

  /** Ends all streams and lets go of the port. */
  async close(): Promise<void> {
    this.#end(() => true);
    await this.#inTurn(async () => {
      this.#end(() => true); // what arrived before its turn came
      this.#lines.clear();
      await this.#stop();
    });
  }

  send(from: SerialStream, data: Buffer, sent: () => void): void {
    this.#sending.push({ from, data, sent });
    if (!this.#pumping) void this.#pump();
  }

  hasRoom(): void {
    this.#session?.handle.stream.resume();
  }

  detach(from: SerialStream): void {
    if (!this.#streams.delete(from)) return;
    if (from.droppedBytes > 0) {
      this.#counts.droppedBytes += from.droppedBytes;
      this.#log.warn(`${this.name}: ${from.droppedBytes} bytes were not read in time and dropped`);
    }
    if (!from.writableEnded) this.#drop((sending) => "from" in sending && sending.from === from);
    this.hasRoom(); // it may have been the one that all waited for
    this.#closeWhenIdle();
  }

  /** Runs openings and closings one after the other. */
  #inTurn<T>(step: () => Promise<T>): Promise<T> {
    const done = this.#turn.then(step);
    this.#turn = done.catch(() => {});
    return done;
  }

  async #start(settings: PortSettings, signal: AbortSignal): Promise<Session> {
    const handle = await this.#open(settings, this.#lines, signal);
    const session: Session = { handle, settings, over: new AbortController() };
    handle.stream.on("data", (chunk: Buffer) => this.#received(chunk));
    handle.stream.on("error", (error) => this.#lost(session, toAgentError(error).message));
    handle.stream.on("end", () => this.#lost(session, "it was unplugged or closed by its other side"));
    handle.stream.on("close", () => this.#lost(session, "closed"));
    this.#session = session;
    return session;
  }

  /** Hands a chunk to every stream. Reading pauses only when all of them are full: one sleeper does not stop the rest. */
  #received(chunk: Buffer): void {
    this.#counts.receivedBytes += chunk.length;
    for (let end = chunk.indexOf(LF); end !== -1; end = chunk.indexOf(LF, end + 1)) this.#counts.lines += 1;
    let room = false;
    for (const stream of this.#streams) {
      stream.deliver(chunk);
      room ||= !stream.full;
    }
    if (!room && this.#streams.size > 0) this.#session?.handle.stream.pause();
  }

  #lost(session: Session, reason: string): void {
    if (this.#session !== session) return;
    this.#log.warn(`${this.name} is gone: ${reason}`);
    this.#session = undefined;
    session.handle.stream.destroy();
    session.over.abort();
    this.#end(() => true, new DeviceOffline(`serial port ${this.name} is gone: ${reason}`));
  }

  #end(which: (stream: SerialStream) => boolean, error?: Error): void {
    for (const stream of this.#streams) {
      if (!which(stream)) continue;
      this.#counts.droppedBytes += stream.droppedBytes;
      stream.finish(error);
      this.#streams.delete(stream);
    }
    if (this.#streams.size === 0) this.#session?.over.abort();
    this.#drop((sending) => !("from" in sending) || sending.from.isOver, error);
  }

  #drop(which: (sending: Sending | Break) => boolean, error?: Error): void {
    const dropped = this.#sending.filter(which);
    this.#sending = this.#sending.filter((sending) => !which(sending));
    for (const sending of dropped) {
      if ("from" in sending) sending.sent();
      else sending.done(error ?? new AgentError("E_CANCELLED", `${this.name} was closed`));
    }
  }

  /** Sends the queue, each stream at its own pace, until it is empty or the session is over. */
  async #pump(): Promise<void> {
    this.#pumping = true;
    try {
      for (let next = this.#sending.shift(); next !== undefined; next = this.#sending.shift()) {
        const session = this.#session;
        if (!("from" in next)) {
          await holdBreak(session, next).then(
            () => next.done(),
            (error: Error) => next.done(error),
          );
          continue;
        }
        if (session !== undefined && next.data.length > 0) this.#counts.sentBytes += await transmit(session, next);
        next.sent();
      }
    } finally {
      this.#pumping = false;
      this.#closeWhenIdle();
    }
  }

  #closeWhenIdle(): void {
    const idle = () => this.#streams.size === 0 && this.#sending.length === 0 && !this.#pumping;
    if (!idle() || this.#session === undefined) return;
    void this.#inTurn(async () => {
      const session = this.#session;
      if (session === undefined || !idle()) return;
      await session.handle.drain(() => session.over.signal.aborted || this.#arriving > 0);
      if (idle() && this.#arriving === 0) await this.#stop();
    }).catch((error: unknown) => this.#log.warn(`closing ${this.name}: ${toAgentError(error).message}`));
  }

  async #stop(): Promise<void> {
    const session = this.#session;
    this.#session = undefined;
    await session?.handle.close();
  }
}

/** Hands bytes to the system at their stream's pace, until all are taken, the stream is abandoned or the session over. @returns how many */
async function transmit({ handle, over: { signal } }: Session, { from, data }: Sending): Promise<number> {
  const frames = handle.stream.writableObjectMode;
  const abandoned = () => signal.aborted || from.isOver || (from.destroyed && !from.writableEnded);
  let offset = 0;
  while (offset < data.length && !abandoned()) {
    let count = frames ? data.length - offset : Math.min(data.length - offset, pieceBytes);
    if (from.pacer !== undefined) {
      // A paced loop gives every character back as a frame of its own.
      count = from.pacer.take(frames ? 1 : count, performance.now());
      if (count === 0) {
        await sleep(from.pacer.waitMs, undefined, { signal }).catch(() => {});
        continue;
      }
    }
    await write(handle, data.subarray(offset, offset + count), signal);
    offset += count;
  }
  return offset;
}

async function holdBreak(session: Session | undefined, { durationMs }: Break): Promise<void> {
  const over = session?.over.signal;
  const gone = () => new AgentError("E_CANCELLED", "the port was closed before the break was over");
  await session?.handle.drain(() => over?.aborted === true);
  if (session === undefined || over?.aborted === true) throw gone();
  await session.handle.setBreak(true);
  await sleep(durationMs, undefined, { signal: over }).catch(() => {
    throw gone(); // its descriptor may be another's by now
  });
  await session.handle.setBreak(false);
}

/** Never rejects: a port that breaks tells so by itself. */
function write({ stream }: SerialHandle, data: Buffer, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const done = () => {
      signal.removeEventListener("abort", done);
      resolve();
    };
    signal.addEventListener("abort", done);
    stream.write(data, done);
  });
}
