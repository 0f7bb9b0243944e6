import { constants } from "node:fs";
import { open, statfs, type FileHandle } from "node:fs/promises";
import { join } from "node:path";
import type { Call } from "../../agent/driver/driver.ts";
import { AgentError } from "../../agent/driver/errors.ts";
import type { ResourceHandle } from "../../agent/driver/resource.ts";
import { openNamelessFile, streamIntoFile } from "../../agent/stream/files.ts";
import { nameProblem } from "./protocol.ts";

/** More than any microcontroller's flash as text: what is staged must not fill the host. */
const largestBytes = 512 * 2 ** 20;
const pieceBytes = 64 * 1024;
/** Boards write at 20 KB/s and more, and an erase takes seconds. */
const stallTimeoutMs = 60_000;
const tellEveryMs = 2_000;

/** @throws AgentError E_INVALID */
export function requireFileName(name: string): string {
  const problem = nameProblem(name);
  if (problem !== undefined) throw new AgentError("E_INVALID", `Invalid target '${name}': ${problem}`);
  return name;
}

/**
 * Takes the whole of what a client lends before anything is done with it: half an image must not reach a board.
 * @throws AgentError E_INVALID if there is nothing in it, or far too much
 */
export async function staged<T>(
  call: Call,
  source: ResourceHandle,
  use: (image: FileHandle, bytes: number) => Promise<T>,
): Promise<T> {
  const image = await openNamelessFile();
  try {
    const stream = await call.source(source);
    let received = 0;
    stream.on("data", (chunk: Buffer) => {
      received += chunk.length;
      if (received > largestBytes) stream.destroy(tooLarge());
    });
    const bytes = await streamIntoFile(stream, image, { signal: call.signal });
    if (bytes === 0) throw new AgentError("E_INVALID", "the firmware is empty");
    return await use(image, bytes);
  } finally {
    await image.close();
  }
}

const tooLarge = () => new AgentError("E_INVALID", `the firmware is larger than ${largestBytes} bytes`);

/**
 * Writes a file into a volume, and has the system send it to the device.
 * @throws AgentError E_INVALID if it does not fit; E_TIMEOUT if the device takes nothing for a minute; the system's error, EIO or ENODEV if
 *   it goes away
 */
export async function copyInto(
  folder: string,
  name: string,
  image: FileHandle,
  bytes: number,
  { signal, log }: Pick<Call, "signal" | "log">,
): Promise<void> {
  const { blocks, bsize } = await statfs(folder);
  if (bytes > blocks * bsize) {
    throw new AgentError("E_INVALID", `${name} has ${bytes} bytes, and the whole volume ${blocks * bsize}`);
  }
  const { O_WRONLY, O_CREAT, O_TRUNC, O_NOFOLLOW } = constants;
  const file = await open(join(folder, name), O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW, 0o644);
  try {
    const buffer = Buffer.alloc(pieceBytes);
    let toldMs = performance.now();
    for (let at = 0; at < bytes;) {
      signal.throwIfAborted();
      const { bytesRead } = await image.read(buffer, 0, buffer.length, at);
      if (bytesRead === 0) throw new AgentError("E_IO", `${name} became shorter while it was copied`);
      const { bytesWritten } = await soon(file.write(buffer, 0, bytesRead, at), folder);
      at += bytesWritten;
      if (performance.now() - toldMs < tellEveryMs) continue;
      toldMs = performance.now();
      log.info(`${name}: ${Math.floor((at / bytes) * 100)} %`);
    }
    await soon(file.sync(), folder);
  } finally {
    // A device that hangs would hold up this call for as long as it hangs.
    await soon(file.close(), folder).catch(() => {});
  }
}

async function soon<T>(work: Promise<T>, folder: string): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    const error = new AgentError("E_TIMEOUT", `the volume at ${folder} takes nothing for ${stallTimeoutMs / 1000} s`);
    timer = setTimeout(() => reject(error), stallTimeoutMs);
  });
  try {
    return await Promise.race([work, late]);
  } finally {
    clearTimeout(timer);
  }
}
