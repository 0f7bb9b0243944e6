import { createHash } from "node:crypto";
import { lstat, mkdir } from "node:fs/promises";
import { join } from "node:path";
import { AgentError, isSystemError, toAgentError } from "../../../agent/driver/errors.ts";
import { stateDirectory } from "../../../agent/sys/state-directory.ts";

/** A file name may have 255 bytes. */
const longestNameBytes = 200;

/** Where records are kept unless the configuration says otherwise: systemd's state directory, else that of root or of this user. */
export function defaultRecordDirectory(env: NodeJS.ProcessEnv = process.env): string {
  return join(stateDirectory(env), "consoles");
}

/** All places where a tool looks for records: it is not told what a service manager tells the agent. */
export function searchedRecordDirectories(env: NodeJS.ProcessEnv = process.env): string[] {
  return [...new Set([defaultRecordDirectory(env), "/var/lib/jumpstarter-agent/consoles"])];
}

/** The name of an exporter or driver as that of a folder. */
export function folderName(name: string): string {
  const encoded = encodeURIComponent(name).replace(/^\./, "%2E") || "%";
  if (encoded.length <= longestNameBytes) return encoded;
  const digest = createHash("sha256").update(name).digest("hex").slice(0, 16);
  return `${encoded.slice(0, longestNameBytes - digest.length - 1)}~${digest}`;
}

/** What a folder is named after, as far as its name says it. */
export function nameOfFolder(folder: string): string {
  try {
    return decodeURIComponent(folder);
  } catch {
    return folder;
  }
}

/**
 * Makes the folder of one console below the directory of all records; nobody else can look into it.
 * @throws AgentError E_IO, the system's error
 */
export async function claimRecordFolder(directory: string, exporter: string, driver: string): Promise<string> {
  await mkdir(directory, { recursive: true, mode: 0o700 });
  let folder = directory;
  for (const name of [exporter, driver]) {
    folder = join(folder, folderName(name));
    await mkdir(folder, { mode: 0o700 }).catch((error: unknown) => {
      if (!isSystemError(error) || error.code !== "EEXIST") throw toAgentError(error);
    });
    const found = await lstat(folder);
    if (!found.isDirectory()) throw new AgentError("E_IO", `${folder} is not a directory`);
    if (found.uid !== process.geteuid?.()) throw new AgentError("E_IO", `${folder} belongs to another user`);
    if ((found.mode & 0o077) !== 0) throw new AgentError("E_IO", `${folder} is open to other users: chmod 700 it`);
  }
  return folder;
}
