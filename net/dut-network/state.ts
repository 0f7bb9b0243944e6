import { chmod, mkdir, readFile, readlink, rename, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import * as z from "zod";
import { isSystemError } from "../../agent/driver/errors.ts";
import type { Privileged } from "./privilege.ts";

/** What we have changed on the host and must undo, written before each change: an agent that was killed leaves it. */
const changes = z.object({
  /** The kernel's boot and the network namespace in which it was changed; elsewhere there is nothing to undo. */
  where: z.string(),
  aliases: z.array(z.object({ address: z.string(), interface: z.string() })),
  /** NetworkManager was told to leave the interface alone. */
  unmanaged: z.boolean(),
});

export type Changes = z.output<typeof changes>;

const fileName = "changes.json";

/** The directory of one network's files. */
export class StateDirectory {
  readonly path: string;
  readonly #privileged: Privileged;

  constructor(path: string, privileged: Privileged) {
    this.path = path;
    this.#privileged = privileged;
  }

  /** Makes the directory; everybody may look into it, as dnsmasq does not keep its rights. */
  async make(): Promise<void> {
    try {
      await mkdir(this.path, { recursive: true });
      await chmod(this.path, 0o755);
    } catch (error) {
      if (!isSystemError(error) || !["EACCES", "EPERM"].includes(error.code) || this.#privileged.direct) throw error;
      await this.#privileged.run(["mkdir", "-p", this.path]);
      await this.#privileged.run(["chown", `${process.getuid?.()}:${process.getgid?.()}`, this.path]);
      await this.#privileged.run(["chmod", "755", this.path]);
    }
  }

  async none(): Promise<Changes> {
    return { where: await here(), aliases: [], unmanaged: false };
  }

  /** What an agent that was killed has left. */
  async leftovers(): Promise<Changes> {
    const none = await this.none();
    try {
      const found = changes.parse(JSON.parse(await readFile(join(this.path, fileName), "utf8")));
      return found.where === none.where ? found : none;
    } catch {
      return none;
    }
  }

  async note(current: Changes): Promise<void> {
    const path = join(this.path, fileName);
    await writeFile(`${path}.new`, JSON.stringify(current));
    await rename(`${path}.new`, path);
  }

  async remove(): Promise<void> {
    try {
      await rm(this.path, { recursive: true, force: true });
    } catch (error) {
      if (this.#privileged.direct) throw error;
      await this.#privileged.run(["rm", "-rf", "--", this.path]);
    }
  }
}

async function here(): Promise<string> {
  const boot = await readFile("/proc/sys/kernel/random/boot_id", "latin1");
  return `${boot.trim()} ${await readlink("/proc/self/ns/net")}`;
}
