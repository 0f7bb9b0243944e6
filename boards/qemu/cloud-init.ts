import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { stringify } from "yaml";

export interface CloudInit {
  /** cloud-init does its work once for each. */
  readonly instanceId: string;
  readonly hostname: string;
  readonly username: string;
  readonly password: string;
}

/** The files of a NoCloud data source. */
export function cloudInitFiles({ instanceId, hostname, username, password }: CloudInit): Record<string, string> {
  const user = { name: username, plain_text_passwd: password, lock_passwd: false, sudo: "ALL=(ALL) NOPASSWD:ALL" };
  return {
    "meta-data": stringify({ "instance-id": instanceId, "local-hostname": hostname }),
    "user-data": `#cloud-config\n${stringify({ ssh_pwauth: true, users: [user] })}`,
  };
}

/** Writes them, for this user alone: one holds a password. */
export async function writeCloudInit(directory: string, settings: CloudInit): Promise<void> {
  await mkdir(directory, { recursive: true, mode: 0o700 });
  for (const [name, text] of Object.entries(cloudInitFiles(settings))) {
    await writeFile(join(directory, name), text, { mode: 0o600 });
  }
}
