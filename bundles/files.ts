import { createHash } from "node:crypto";
import { constants, createWriteStream } from "node:fs";
import { open } from "node:fs/promises";
import { Transform, Writable, type Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { AgentError } from "../agent/driver/errors.ts";
import { verifying, type Digest, type Expected } from "./oci/digest.ts";

/** A file of a bundle, its path relative to the bundle. */
export interface BundleFile extends Expected {
  readonly path: string;
}

const readBytes = 256 * 1024;

/** Writes a new file and waits until the disk has it. */
export async function writeNewFile(path: string, content: Readable, signal: AbortSignal): Promise<void> {
  await pipeline(content, createWriteStream(path, { flags: "wx", mode: 0o644, flush: true }), { signal });
}

/** Like {@link writeNewFile}, and says what was written. */
export async function writeHashedFile(
  path: string,
  content: AsyncIterable<Buffer>,
  signal: AbortSignal,
): Promise<{ digest: Digest; size: number }> {
  const hash = createHash("sha256");
  let size = 0;
  const count = new Transform({
    transform(chunk: Buffer, _encoding, done) {
      hash.update(chunk);
      size += chunk.length;
      done(null, chunk);
    },
  });
  const file = createWriteStream(path, { flags: "wx", mode: 0o644, flush: true });
  await pipeline(content, count, file, { signal });
  return { digest: `sha256:${hash.digest("hex")}`, size };
}

/** Reads a file and compares. @throws AgentError E_DIGEST, or the system's error if it cannot be read */
export async function checkFile(path: string, expected: Expected, name = path): Promise<void> {
  const file = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW);
  try {
    const { size } = await file.stat();
    if (size !== expected.size) throw new AgentError("E_DIGEST", `${name} has ${size} of ${expected.size} bytes`);
    const content = file.createReadStream({ highWaterMark: readBytes, autoClose: false });
    await pipeline(content, verifying(expected, name), new Writable({ write: (_chunk, _encoding, done) => done() }));
  } finally {
    await file.close();
  }
}
