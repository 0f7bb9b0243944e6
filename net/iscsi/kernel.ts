import { execFile } from "node:child_process";
import { access, readFile } from "node:fs/promises";
import { promisify } from "node:util";
import { Configfs } from "./configfs.ts";

const execute = promisify(execFile);

/** Where targets are configured. */
export interface Kernel {
  readonly configfs: Configfs;
  /** Has it load its iSCSI target, unless it is there. @returns why there is none, in words; undefined when all is there */
  load(): Promise<string | undefined>;
}

/** The one that we run on. Nothing is touched before it is used. */
export function thisKernel(): Kernel {
  const root = "/sys/kernel/config/target";
  return { configfs: new Configfs(root), load: () => loadTarget(root) };
}

/** What the kernel needs for targets of files and block devices. */
export const targetModules = ["target_core_mod", "target_core_file", "target_core_iblock", "iscsi_target_mod"];

const modprobeLimitMs = 20_000;

async function loadTarget(root: string): Promise<string | undefined> {
  const mount = root.slice(0, root.lastIndexOf("/"));
  const reasons: string[] = [];
  for (const module of targetModules) {
    if (await isThere(`/sys/module/${module}`)) continue;
    await execute("modprobe", [module], { timeout: modprobeLimitMs, env: withSbin() }).catch((error: unknown) => {
      const { stderr = "", message } = error as Error & { stderr?: string };
      reasons.push((stderr.trim() || message).split("\n")[0] ?? module);
    });
  }
  if (await isThere(root)) return undefined;
  if (!(await isMounted(mount))) return `configfs is not mounted at ${mount}: mount -t configfs configfs ${mount}`;
  return `the kernel has no iSCSI target: ${reasons[0] ?? `there is no ${root}`}`;
}

async function isMounted(path: string): Promise<boolean> {
  const mounts = await readFile("/proc/self/mounts", "utf8").catch(() => "");
  return mounts.split("\n").some((line) => line.split(" ")[1] === path);
}

const withSbin = () => ({ ...process.env, PATH: `${process.env["PATH"] ?? ""}:/usr/sbin:/sbin` });

async function isThere(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    () => false,
  );
}
