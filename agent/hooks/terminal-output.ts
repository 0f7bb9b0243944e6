import { readSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { ReadStream } from "node:tty";
import { splitLines } from "./lines.ts";

/** What comes through the terminal in the last moments of a hook. */
const settleMs = 200;
/** What a process in the background may still print, after the hook has ended. */
const drain = { limitMs: 2_000, limitBytes: 256 * 1024, pollMs: 100, emptyPolls: 10 };

/** Taken from one terminal in one turn of the event loop; some hundred lines. */
const bytesPerTurn = 16 * 1024;

export interface TerminalOutput {
  /** Waits for the last output of a program that has ended; then nothing more is read and the terminal is closed. */
  finish(): Promise<void>;
  close(): Promise<void>;
}

/** Reads the terminal whose controlling end `controller` is, and owns it from here on. */
export function readTerminal(controller: number, emit: (line: string) => void): TerminalOutput {
  const stream = new ReadStream(controller);
  const lines = splitLines(emit);
  let bytes = 0;
  let limitBytes = Infinity;
  let over = false;
  let resume: NodeJS.Immediate | undefined;
  const ended = new Promise<void>((resolve) => {
    stream.once("close", () => {
      clearImmediate(resume);
      lines.end();
      over = true;
      resolve();
    });
  });
  // EIO: nobody has the terminal open any more, and all is read.
  stream.on("error", () => {});
  // libuv takes a hangup for the end, whatever is still to be read then.
  stream.once("end", () => lines.push(readRest(controller)));
  let turnBytes = 0;
  // Taken as it comes, since an error would throw away what waits in the stream's buffer.
  stream.on("data", (chunk: Buffer) => {
    bytes += chunk.length;
    turnBytes += chunk.length;
    lines.push(chunk);
    if (bytes >= limitBytes) stream.destroy();
    if (turnBytes < bytesPerTurn) return;
    // A hook that floods its terminal waits for us, and the others do not wait for it.
    stream.pause();
    resume = setImmediate(() => {
      turnBytes = 0;
      stream.resume();
    });
  });

  const close = async () => {
    stream.destroy();
    await ended;
  };

  return {
    close,
    async finish() {
      await within(settleMs, ended);
      const end = performance.now() + drain.limitMs;
      limitBytes = bytes + drain.limitBytes;
      for (let empty = 0; !over && empty < drain.emptyPolls && performance.now() < end;) {
        const before = bytes;
        await within(drain.pollMs, ended);
        empty = bytes === before ? empty + 1 : 0;
      }
      await close();
    },
  };
}

async function within(limitMs: number, done: Promise<void>): Promise<void> {
  const late = new AbortController();
  await Promise.race([done, sleep(limitMs, undefined, { signal: late.signal }).catch(() => {})]);
  late.abort();
}

/** What the system has still stored of a terminal that nobody has open any more; it keeps some KiB at most. */
function readRest(controller: number): Buffer {
  const chunks: Buffer[] = [];
  for (;;) {
    const chunk = Buffer.alloc(4_096);
    try {
      const length = readSync(controller, chunk);
      if (length === 0) break;
      chunks.push(chunk.subarray(0, length));
    } catch {
      break; // EIO, or EAGAIN if somebody has opened it by its name meanwhile
    }
  }
  return Buffer.concat(chunks);
}
