import { randomBytes } from "node:crypto";
import { link, mkdir, open, readFile, rm } from "node:fs/promises";
import { join } from "node:path";
import ssh2 from "ssh2";
import type { Logger } from "../../agent/driver/log.ts";
import { syncDirectory } from "../../agent/stream/durable.ts";

/** A new host key in OpenSSH's format. Ed25519: every client since 2014 knows it, and it takes no time to make. */
export function makeHostKey(): string {
  for (;;) {
    const key = ssh2.utils.generateKeyPairSync("ed25519").private;
    // ssh2 1.17 cuts zeros off the front of the public half (lib/keygen.js): one key in 256 is none.
    if (!(ssh2.utils.parseKey(key) instanceof Error)) return key;
  }
}

/**
 * The host key that an exporter shows to its clients: the same after each restart, so that clients may pin it. Where it cannot
 * be kept, the log tells so, and the key lives as long as the process.
 */
export async function keptHostKey(directory: string, exporter: string, log: Logger): Promise<string> {
  const path = join(directory, encodeURIComponent(exporter));
  try {
    const kept = await readKey(path);
    if (kept !== undefined) return kept;
    const made = makeHostKey();
    return (await keep(directory, path, made)) ? made : ((await readKey(path)) ?? made);
  } catch (error) {
    log.warn(`the SSH host key of this exporter cannot be kept: ${(error as Error).message}`);
    return makeHostKey();
  }
}

/** @throws Error if there is a file that holds no key: nobody may overwrite what clients know */
async function readKey(path: string): Promise<string | undefined> {
  let text: string;
  try {
    text = await readFile(path, "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
  if (ssh2.utils.parseKey(text) instanceof Error) throw new Error(`${path} is not a private key`);
  return text;
}

/** @returns false if another process of this host was faster */
async function keep(directory: string, path: string, key: string): Promise<boolean> {
  await mkdir(directory, { recursive: true, mode: 0o700 });
  const beside = `${path}.${randomBytes(6).toString("hex")}.tmp`;
  try {
    const file = await open(beside, "wx", 0o600);
    try {
      await file.writeFile(key);
      await file.sync();
    } finally {
      await file.close();
    }
    await link(beside, path);
    await syncDirectory(directory);
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "EEXIST") return false;
    throw error;
  } finally {
    await rm(beside, { force: true });
  }
}
