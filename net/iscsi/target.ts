import { randomUUID } from "node:crypto";
import { readFile, realpath, stat } from "node:fs/promises";
import { basename } from "node:path";
import { AgentError } from "../../agent/driver/errors.ts";
import type { Configfs } from "./configfs.ts";
import type { Lun } from "./interface.ts";
import {
  backstoreSteps,
  freeLun,
  isBlockstore,
  lunSteps,
  nameOf,
  removeBackstoreSteps,
  removeLunSteps,
  removeTargetSteps,
  sizeOf,
  startSteps,
  type Portal,
  type TargetState,
} from "./protocol.ts";
import { filestoresBelow, readTarget } from "./state.ts";

/** How many adapters of a kind are tried for a free number. */
const mostAdapters = 10_000;

/** One target of the kernel. What there is of it is read from the kernel each time: others configure there as well. */
export class Target {
  readonly #configfs: Configfs;
  readonly #iqn: string;

  constructor(configfs: Configfs, iqn: string) {
    this.#configfs = configfs;
    this.#iqn = iqn;
  }

  async exists(): Promise<boolean> {
    return (await readTarget(this.#configfs, this.#iqn)) !== undefined;
  }

  /** What is there already stays. */
  async start(portal: Portal): Promise<void> {
    await this.#configfs.take(startSteps(portal));
  }

  /** Takes all of it away; its sessions end. None: nothing happens. */
  async remove(): Promise<void> {
    const state = await readTarget(this.#configfs, this.#iqn);
    if (state !== undefined) await this.#configfs.undo(removeTargetSteps(this.#iqn, state));
  }

  async luns(): Promise<Lun[]> {
    const state = await readTarget(this.#configfs, this.#iqn);
    const luns: Lun[] = [];
    for (const { id, backstore } of state?.luns ?? []) {
      if (backstore === undefined) continue;
      const path = await this.#configfs.read(`${backstore}/udev_path`);
      const isBlock = isBlockstore(backstore);
      const size = isBlock ? await blockBytes(path) : sizeOf(await this.#configfs.read(`${backstore}/info`));
      luns.push({ name: nameOf(backstore), path, size: size ?? 0, lun_id: id, is_block: isBlock });
    }
    return luns;
  }

  /** @throws AgentError E_FAILED; what was made of the LUN is taken away again */
  async add(name: string, disk: { isBlock: boolean; backing: string; sizeBytes: number }): Promise<void> {
    const state = await this.#state();
    const path = `${await this.#newAdapter(disk.isBlock ? "iblock" : "fileio")}/${name}`;
    const lun = freeLun(state.luns);
    const initiators = state.acls.map(({ initiator }) => initiator);
    try {
      await this.#configfs.take(backstoreSteps({ path, ...disk, serial: randomUUID() }));
      await this.#configfs.take(lunSteps(this.#iqn, lun, path, initiators));
    } catch (error) {
      const left = await readTarget(this.#configfs, this.#iqn);
      const half = left?.luns.find(({ id }) => id === lun);
      if (left !== undefined && half !== undefined) {
        await this.#configfs.undo(removeLunSteps(this.#iqn, left, { ...half, backstore: undefined })).catch(() => {});
      }
      await this.#configfs.undo(removeBackstoreSteps(path)).catch(() => {});
      throw error;
    }
  }

  /** @returns false if there is no such LUN */
  async removeLun(name: string): Promise<boolean> {
    const state = await this.#state();
    const lun = state.luns.find(({ backstore }) => backstore !== undefined && nameOf(backstore) === name);
    if (lun === undefined) return false;
    await this.#configfs.undo(removeLunSteps(this.#iqn, state, lun));
    return true;
  }

  /** Takes away every LUN, and every backstore of files below `root` that is left of others. */
  async clear(root: string): Promise<void> {
    const state = await this.#state();
    for (const lun of state.luns) await this.#configfs.undo(removeLunSteps(this.#iqn, state, lun));
    // One that another target offers is refused by the kernel, and stays.
    for (const path of await filestoresBelow(this.#configfs, root)) {
      await this.#configfs.undo(removeBackstoreSteps(path)).catch(() => {});
    }
  }

  async #state(): Promise<TargetState> {
    const state = await readTarget(this.#configfs, this.#iqn);
    if (state !== undefined) return state;
    throw new AgentError("E_FAILED", "iSCSI target not started, call start() first");
  }

  /** A directory of `core` for one backstore. Others take numbers at the same time. */
  async #newAdapter(kind: string): Promise<string> {
    for (let number = 0; number < mostAdapters; number += 1) {
      const path = `core/${kind}_${number}`;
      if (await this.#configfs.makeNew(path)) return path;
    }
    throw new AgentError("E_LIMIT", `the kernel has ${mostAdapters} backstores already`);
  }
}

async function blockBytes(path: string): Promise<number | undefined> {
  const device = basename(await realpath(path).catch(() => path));
  const sectors = await readFile(`/sys/class/block/${device}/size`, "utf8").catch(() => undefined);
  return sectors === undefined ? undefined : Number(sectors) * 512;
}

/** The real path of a block device that the configuration allows. @throws AgentError E_FAILED with the texts that clients know */
export async function allowedDevice(given: string, allowlist: readonly string[]): Promise<string> {
  const resolve = (path: string) => realpath(path).catch(() => path);
  if (!given.startsWith("/")) {
    throw new AgentError("E_FAILED", "For block devices, file_path must be an absolute path");
  }
  if (allowlist.length === 0) {
    const text = "block_device_allowlist is empty; configure allowed block device paths to use is_block=True";
    throw new AgentError("E_FAILED", text);
  }
  const path = await resolve(given);
  // Links to devices come and go: the list is looked up now.
  if (!(await Promise.all(allowlist.map(resolve))).includes(path)) {
    throw new AgentError("E_FAILED", `Block device path '${path}' is not in the configured allowlist`);
  }
  const found = await stat(path).catch(() => undefined);
  if (found === undefined) throw new AgentError("E_FAILED", `Failed to add LUN: Block device ${path} does not exist`);
  if (!found.isBlockDevice()) throw new AgentError("E_FAILED", `Failed to add LUN: ${path} is not a block device`);
  return path;
}
