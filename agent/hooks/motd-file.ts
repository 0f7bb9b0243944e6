import { constants } from "node:fs";
import { open, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { toAgentError } from "../driver/errors.ts";
import type { Logger } from "../driver/log.ts";

const longestBytes = 64 * 1024;

/** The file in which a beforeLease hook leaves words for the client's shell. */
export interface MotdFile {
  readonly path: string;
  read(): Promise<string | undefined>;
  remove(): Promise<void>;
}

export async function createMotdFile(directory: string, log: Logger): Promise<MotdFile> {
  const path = join(directory, "motd");
  const remove = () => rm(path, { recursive: true, force: true });
  await remove();
  await writeFile(path, "", { flag: "wx", mode: 0o600 });
  return {
    path,
    remove,
    async read() {
      try {
        return (await readRegular(path)) || undefined;
      } catch (error) {
        log.warn(`The hook's motd file is ignored: ${toAgentError(error).message}`);
        return undefined;
      }
    },
  };
}

/** The hook may have put anything there: a FIFO must not hold us, and a device must not be read. */
async function readRegular(path: string): Promise<string> {
  const file = await open(path, constants.O_RDONLY | constants.O_NONBLOCK);
  try {
    if (!(await file.stat()).isFile()) throw new Error(`${path} is not a regular file`);
    const bytes = Buffer.alloc(longestBytes);
    let length = 0;
    for (;;) {
      const { bytesRead } = await file.read(bytes, length, longestBytes - length);
      length += bytesRead;
      if (bytesRead === 0 || length === longestBytes) break;
    }
    // Where the file is cut in the middle of a character, that one is left out.
    const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
    return decoder.decode(bytes.subarray(0, length), { stream: length === longestBytes }).trim();
  } finally {
    await file.close();
  }
}
