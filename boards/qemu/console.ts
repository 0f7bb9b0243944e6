import { Duplex } from "node:stream";

/** What a stream may leave unread: 20 minutes of a 115200 baud console. */
const maxUnreadBytes = 16 * 2 ** 20;
/** Output kept while nobody listens, as a terminal's buffer would. */
const maxBacklogBytes = 256 * 2 ** 10;

/**
 * A serial console that outlives the machine behind it: streams stay open over power cycles and each
 * sees all output. Output that came while nobody listened goes to the first stream that is opened.
 */
export class Console {
  readonly #streams = new Set<ConsoleStream>();
  #backlog: Buffer[] = [];
  #backlogBytes = 0;
  #machine: Duplex | undefined;

  /** Connects a machine that was just switched on. */
  plug(machine: Duplex): void {
    this.#machine = machine;
    machine.on("data", (chunk: Buffer) => this.#output(chunk));
    // A terminal whose other side has gone breaks; that QEMU has ended is told by QEMU.
    machine.on("error", () => {});
    machine.once("close", () => {
      if (this.#machine === machine) this.#machine = undefined;
    });
  }

  /** A new stream to the console. Whoever gets it destroys it. */
  open(): Duplex {
    const stream = new ConsoleStream({
      send: (chunk, done) => this.#input(chunk, done),
      gone: () => this.#streams.delete(stream),
    });
    for (const chunk of this.#backlog.splice(0)) stream.push(chunk);
    this.#backlogBytes = 0;
    this.#streams.add(stream);
    return stream;
  }

  /** What nobody has heard is not told any more. */
  forget(): void {
    this.#backlog = [];
    this.#backlogBytes = 0;
  }

  /** Breaks all streams: their machine has died. */
  fail(error: Error): void {
    for (const stream of [...this.#streams]) stream.destroy(error);
  }

  /** Ends all streams. */
  close(): void {
    for (const stream of [...this.#streams]) stream.push(null);
    this.#streams.clear();
  }

  #output(chunk: Buffer): void {
    for (const stream of this.#streams) {
      if (stream.readableLength + chunk.length <= maxUnreadBytes) stream.push(chunk);
      else stream.destroy(new Error(`the reader of the console left ${maxUnreadBytes} bytes unread`));
    }
    if (this.#streams.size > 0) return;
    this.#backlog.push(chunk);
    this.#backlogBytes += chunk.length;
    while (this.#backlogBytes > maxBacklogBytes && this.#backlog.length > 1) {
      this.#backlogBytes -= this.#backlog.shift()?.length ?? 0;
    }
  }

  /** A board without power hears nothing: what is typed then is lost, not kept for the next start. */
  #input(chunk: Buffer, done: () => void): void {
    if (this.#machine?.writable !== true) return done();
    this.#machine.write(chunk, () => done());
  }
}

interface ConsoleEnd {
  send(chunk: Buffer, done: () => void): void;
  gone(): void;
}

class ConsoleStream extends Duplex {
  readonly #end: ConsoleEnd;

  constructor(end: ConsoleEnd) {
    // A caller that has no more to type still reads.
    super({ allowHalfOpen: true });
    this.#end = end;
    // It may break while nobody listens; it stays in `errored`.
    this.on("error", () => {});
  }

  override _read(): void {}

  override _write(chunk: Buffer, _encoding: BufferEncoding, done: () => void): void {
    this.#end.send(chunk, done);
  }

  override _destroy(error: Error | null, done: (error: Error | null) => void): void {
    this.#end.gone();
    done(error);
  }
}
