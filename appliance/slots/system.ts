import { realpath } from "node:fs/promises";
import { dirname, join } from "node:path";
import { AgentError } from "../../agent/driver/errors.ts";
import { attribute, entriesOf } from "../../agent/sys/sysfs.ts";
import { otherSlot, type SlotName } from "./boot-state.ts";

/** Where the kernel and the system tell of themselves; tests have trees of their own. */
export interface SystemRoots {
  readonly proc: string;
  readonly sys: string;
  readonly dev: string;
  /** Where `usr/lib/os-release` is. */
  readonly root: string;
}

export const systemRoots: SystemRoots = { proc: "/proc", sys: "/sys", dev: "/dev", root: "/" };

/** A partition of the disk that the system runs from. */
export interface Partition {
  /** `/dev/mmcblk0p3` */
  readonly path: string;
  /** `179:3`, as in mountinfo. */
  readonly number: string;
  readonly sizeBytes: number;
}

/** The appliance, as it runs now. */
export interface RunningSystem {
  readonly slot: SlotName;
  /** Why GRUB started this one: see image/grub.cfg. */
  readonly startedAs: "trial" | "confirmed" | "fallback";
  /** IMAGE_VERSION of os-release(5). */
  readonly version: string;
  /** IMAGE_ID of os-release(5): what an update must be made for. */
  readonly imageId: string;
  /** As Debian names it. */
  readonly architecture: string;
  /** The FAT partition that GRUB was started from. */
  readonly boot: Partition;
  /** Where the other system is. */
  readonly otherRoot: Partition;
}

/** What the image calls its partitions. */
const bootLabel = "esp";
const rootLabel = (slot: SlotName) => `root-${slot}`;

/** Of the sizes in sysfs, whatever the disk's own sectors have. */
const sectorBytes = 512;

const architectures: Partial<Record<string, string>> = { x64: "amd64", arm64: "arm64", arm: "armhf" };

/** @returns undefined on hosts that did not start from the image */
export async function runningSlot({ proc }: Pick<SystemRoots, "proc"> = systemRoots): Promise<SlotName | undefined> {
  const slot = await commandLineWord("slot", proc);
  return slot === "a" || slot === "b" ? slot : undefined;
}

/**
 * Looks at the system that runs. Partitions are looked for on its own disk only: a stick with another copy of the image has the same labels.
 * @throws AgentError E_UNSUPPORTED on hosts that did not start from the image
 */
export async function findRunningSystem(roots: SystemRoots = systemRoots): Promise<RunningSystem> {
  const slot = await runningSlot(roots);
  if (slot === undefined) {
    throw new AgentError("E_UNSUPPORTED", "this host did not start from the agent's image; updates are for that only", {
      hint: "hosts with the package are updated with apt",
    });
  }
  const partitions = await partitionsBeside(rootLabel(slot), roots);
  const partition = (label: string): Partition => {
    const found = partitions.get(label);
    if (found === undefined) throw new AgentError("E_UNSUPPORTED", `the disk has no partition labelled ${label}`);
    return found;
  };
  const release = await readRelease(roots.root);
  const word = await commandLineWord("boot", roots.proc);
  return {
    slot,
    startedAs: word === "trial" || word === "fallback" ? word : "confirmed",
    version: release.get("IMAGE_VERSION") ?? "0",
    imageId: release.get("IMAGE_ID") ?? "",
    architecture: architectures[process.arch] ?? process.arch,
    boot: partition(bootLabel),
    otherRoot: partition(rootLabel(otherSlot(slot))),
  };
}

/** `jumpstarter.NAME=` of the kernel's command line; the last one counts. */
async function commandLineWord(name: string, proc: string): Promise<string | undefined> {
  const words = ((await attribute(proc, "cmdline")) ?? "").split(/\s+/);
  const start = `jumpstarter.${name}=`;
  return words.findLast((word) => word.startsWith(start))?.slice(start.length);
}

/** The partitions of the disk on which the partition with this label is mounted, by label in lower case. */
async function partitionsBeside(label: string, roots: SystemRoots): Promise<Map<string, Partition>> {
  const mounts = ((await attribute(roots.proc, "self/mountinfo")) ?? "").split("\n");
  for (const number of new Set(mounts.map((line) => line.split(" ")[2] ?? ""))) {
    const sysfs = await realpath(join(roots.sys, "dev/block", number)).catch(() => undefined);
    if (sysfs === undefined || (await describe(sysfs, roots))?.label !== label) continue;
    const disk = dirname(sysfs);
    const found = await Promise.all((await entriesOf(disk)).map((name) => describe(join(disk, name), roots)));
    return new Map(found.flatMap((one) => (one === undefined ? [] : [[one.label, one.partition] as const])));
  }
  throw new AgentError("E_UNSUPPORTED", `the system does not run from a partition labelled ${label}`);
}

async function describe(
  sysfs: string,
  roots: SystemRoots,
): Promise<{ label: string; partition: Partition } | undefined> {
  const [text, number, sectors] = await Promise.all(["uevent", "dev", "size"].map((name) => attribute(sysfs, name)));
  const value = (name: string) => new RegExp(`^${name}=(.*)$`, "m").exec(text ?? "")?.[1];
  const [label, device] = [value("PARTNAME"), value("DEVNAME")];
  if (label === undefined || device === undefined || number === undefined) return undefined;
  const sizeBytes = Number(sectors) * sectorBytes;
  return { label: label.toLowerCase(), partition: { path: join(roots.dev, device), number, sizeBytes } };
}

/** os-release(5), without what shells could do in it. */
async function readRelease(root: string): Promise<Map<string, string>> {
  const text = (await attribute(root, "usr/lib/os-release")) ?? "";
  return new Map(
    text.split("\n").flatMap((line) => {
      const [, name, quoted, plain] = /^([A-Z_]+)=(?:"([^"]*)"|([^"\s]*))$/.exec(line) ?? [];
      return name === undefined ? [] : [[name, quoted ?? plain ?? ""] as const];
    }),
  );
}
