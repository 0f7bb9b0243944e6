import { constants } from "node:fs";
import { open, rename, stat, unlink, type FileHandle } from "node:fs/promises";
import { AgentError, toAgentError } from "../driver/errors.ts";

export interface RotatingFileOptions {
  readonly file: string;
  /** The file is set aside as `FILE.1` before it would grow beyond this. */
  readonly maxBytes: number;
  /** How many old files stay. */
  readonly keep: number;
  /** Told once when lines begin to be lost. */
  readonly warn: (message: string) => void;
  /** The line that stands for lost ones, written when lines can be written again. */
  readonly lost: (count: number) => string;
}

/** A file of lines that takes all it is given at once, and writes when it can. */
export interface RotatingFile {
  /** @param line without its newline */
  write(line: string): void;
  /** Settles when all that was given is written or lost, but not later than `limitMs`. */
  close(limitMs?: number): Promise<void>;
}

/** A disk that does not answer may cost this much memory. */
const maxWaitingBytes = 1024 * 1024;

/** Lines for the disk. What cannot be written is lost, and counted; the writer never learns of it. */
export function rotatingFile({ file, maxBytes, keep, warn, lost }: RotatingFileOptions): RotatingFile {
  let waiting: string[] = [];
  let waitingBytes = 0;
  let lostLines = 0;
  let writing: Promise<void> | undefined;
  let handle: FileHandle | undefined;
  let closed = false;

  function lose(count: number, why: string): void {
    if (lostLines === 0 && count > 0) warn(`cannot write to ${file}: ${why}`);
    lostLines += count;
  }

  async function drain(): Promise<void> {
    while (waiting.length > 0) {
      const lines = waiting;
      waiting = [];
      waitingBytes = 0;
      let written = 0;
      try {
        if (lostLines > 0) {
          await append([`${lost(lostLines)}\n`]);
          lostLines = 0;
        }
        while (written < lines.length) written += await append(lines.slice(written));
      } catch (thrown) {
        lose(lines.length - written, toAgentError(thrown).message);
        // The next line finds out whether it is better now.
        await shut();
      }
    }
  }

  /** Writes the first lines, as many as the file still takes, in one piece. @returns how many */
  async function append(lines: readonly string[]): Promise<number> {
    let { writer, size } = await current();
    if (size > 0 && size + Buffer.byteLength(lines[0] as string) > maxBytes) {
      await shut();
      await rotate();
      ({ writer, size } = await current());
    }
    let bytes = 0;
    let count = 0;
    for (const line of lines) {
      const length = Buffer.byteLength(line);
      if (count > 0 && size + bytes + length > maxBytes) break;
      bytes += length;
      count += 1;
    }
    try {
      await writer.appendFile(lines.slice(0, count).join(""));
    } catch (error) {
      // Half a line is worse than none.
      await writer.truncate(size).catch(() => {});
      throw error;
    }
    return count;
  }

  /** The file that has the name now: somebody else may have rotated or removed it. */
  async function current(): Promise<{ writer: FileHandle; size: number }> {
    if (handle !== undefined) {
      const [opened, named] = await Promise.all([handle.stat(), stat(file).catch(() => undefined)]);
      if (opened.ino === named?.ino && opened.dev === named.dev) return { writer: handle, size: opened.size };
      await shut();
    }
    const { O_RDWR, O_APPEND, O_CREAT, O_NONBLOCK } = constants;
    const writer = await open(file, O_RDWR | O_APPEND | O_CREAT | O_NONBLOCK, 0o600);
    try {
      const found = await writer.stat();
      if (!found.isFile()) throw new AgentError("E_IO", "it is not a regular file");
      // Whoever wrote last was cut off within a line.
      if (found.size > 0 && !(await endsLine(writer, found.size))) await writer.appendFile("\n");
      handle = writer;
      return { writer, size: (await writer.stat()).size };
    } catch (error) {
      await writer.close();
      throw error;
    }
  }

  async function rotate(): Promise<void> {
    if (keep === 0) return unlink(file);
    for (let number = keep - 1; number > 0; number -= 1) {
      await rename(`${file}.${number}`, `${file}.${number + 1}`).catch((error: NodeJS.ErrnoException) => {
        if (error.code !== "ENOENT") throw error;
      });
    }
    await rename(file, `${file}.1`);
  }

  async function shut(): Promise<void> {
    const old = handle;
    handle = undefined;
    await old?.close().catch(() => {});
  }

  return {
    write(line) {
      if (closed) return;
      const whole = `${line}\n`;
      if (waitingBytes + whole.length > maxWaitingBytes) return lose(1, "the disk is too slow");
      waiting.push(whole);
      waitingBytes += whole.length;
      writing ??= drain().finally(() => (writing = undefined));
    },
    async close(limitMs = 5_000) {
      closed = true;
      let limit: NodeJS.Timeout | undefined;
      const late = new Promise<void>((resolve) => (limit = setTimeout(resolve, limitMs)));
      await Promise.race([Promise.resolve(writing).then(shut), late]);
      clearTimeout(limit);
    },
  };
}

async function endsLine(handle: FileHandle, size: number): Promise<boolean> {
  const { buffer } = await handle.read(Buffer.alloc(1), 0, 1, size - 1);
  return buffer[0] === 0x0a;
}
