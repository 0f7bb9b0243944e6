import { setTimeout as sleep } from "node:timers/promises";
import { ReadStream } from "node:tty";
import { splitLines } from "./lines.ts";

/** What comes through the terminal in the last moments of a hook. */
const settleMs = 200;
/** What a process in the background may still print, after the hook has ended. */
const drain = { limitMs: 2_000, limitBytes: 256 * 1024, pollMs: 100, emptyPolls: 10 };

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
  const closed = new Promise<void>((resolve) => stream.once("close", resolve));
  stream.on("error", () => {});
  const ended = (async () => {
    try {
      // The stream's buffer holds nothing, so this reads once per turn of the event loop: a hook that floods its
      // terminal waits for us, and the others do not wait for it.
      for await (const chunk of stream as AsyncIterable<Buffer>) {
        bytes += chunk.length;
        lines.push(chunk);
        if (bytes >= limitBytes) break;
      }
    } catch {
      // EIO: nobody has the terminal open any more. Or we closed it.
    }
    lines.end();
    over = true;
  })();

  const close = async () => {
    stream.destroy();
    await Promise.all([ended, closed]);
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
