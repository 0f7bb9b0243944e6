import { createHash } from "node:crypto";
import { mkdir, open, readdir, rm, stat, statfs } from "node:fs/promises";
import { join } from "node:path";
import type { Readable } from "node:stream";
import { AgentError } from "../../agent/driver/errors.ts";
import type { Logger } from "../../agent/driver/log.ts";
import { syncDirectory } from "../../agent/stream/durable.ts";
import { loadBlockCalls } from "../../agent/sys/block.ts";
import { algorithmOf, type Expected } from "../../bundles/oci/digest.ts";
import type { Source } from "../../bundles/oci/source.ts";
import { formatBytes } from "../../boards/storage/block/facts.ts";
import type { Progress } from "../../boards/storage/block/progress.ts";
import { writeImage } from "../../boards/storage/block/write.ts";
import { mostTries, otherSlot, type BootStateStore, type SlotName } from "../slots/boot-state.ts";
import { replaceFile } from "../slots/replace-file.ts";
import type { Update } from "./artifact.ts";
import { blobStream } from "./blob-stream.ts";

/**
 * The states of an update, in their order. In each of them the running system can be started; the other one only before `invalidate` and
 * after `arm`. The kill test goes through this list.
 */
export const updateSteps = [
  /** From here on GRUB starts the running system only. */
  "invalidate",
  "remove kernel",
  "write root",
  "write kernel",
  "write initrd",
  /** The new system is whole: GRUB tries it from the next start on. */
  "arm",
  "done",
] as const;
export type UpdateStep = (typeof updateSteps)[number];

/** Where an update goes. */
export interface UpdatePlace {
  readonly running: SlotName;
  /** Where the boot partition is mounted, writable. */
  readonly boot: string;
  readonly state: BootStateStore;
  /** Block device of the other system's root. */
  readonly root: string;
  /** How much fits there. */
  readonly rootBytes: number;
}

export interface UpdateContext {
  readonly signal: AbortSignal;
  readonly log: Logger;
  /** Told of each step before it begins, and waited for. */
  readonly onStep?: ((step: UpdateStep) => Promise<void> | void) | undefined;
  readonly onProgress?: ((progress: Progress) => void) | undefined;
}

/** FAT takes whole clusters and names. */
const bootSpareBytes = 256 * 1024;

/** Called before anything is touched. @throws AgentError E_INCOMPATIBLE if the update is too large, E_UNSUPPORTED where disks cannot be written */
export async function mustFit(update: Update, { boot, running, rootBytes }: UpdatePlace): Promise<void> {
  await loadBlockCalls();
  if (update.root.size > rootBytes) {
    const sizes = `${formatBytes(update.root.size)} > ${formatBytes(rootBytes)}`;
    throw new AgentError("E_INCOMPATIBLE", `the root of the update is larger than its partition: ${sizes}`);
  }
  const { bavail, bsize } = await statfs(boot);
  const there = await bytesIn(slotFolder(boot, otherSlot(running)));
  const needed = update.kernel.size + update.initrd.size + bootSpareBytes;
  if (needed <= bavail * bsize + there) return;
  const sizes = `${formatBytes(needed)} > ${formatBytes(bavail * bsize + there)}`;
  throw new AgentError("E_INCOMPATIBLE", `the boot partition has no room for the update's kernel: ${sizes}`);
}

/**
 * Writes an update to the other slot, reads it back and puts it on trial. Every byte is compared with the digests in the update's manifest,
 * whose own digest was signed. When this throws, or the power goes, the running system is the one that starts.
 * @throws AgentError E_DIGEST, E_CONNECTION, E_TIMEOUT, E_TARGET, E_IO; the signal's reason
 */
export async function writeUpdate(
  update: Update,
  source: Source,
  place: UpdatePlace,
  context: UpdateContext,
): Promise<void> {
  const { running, boot, state } = place;
  const { signal, log, onStep, onProgress } = context;
  const other = otherSlot(running);
  const folder = slotFolder(boot, other);
  const step = async (name: UpdateStep): Promise<void> => {
    signal.throwIfAborted();
    await onStep?.(name);
  };
  const blob = (part: "root" | "kernel" | "initrd"): Readable =>
    blobStream(source, update[part], `the ${part} of the update`, signal);

  await step("invalidate");
  await state.write({ slot: running, trial: undefined, tries: 0, invalid: other });
  await step("remove kernel");
  // Also for a GRUB that can read neither copy of its state: what has no kernel is not started.
  await rm(folder, { recursive: true, force: true });
  await mkdir(folder, { recursive: true });
  await syncDirectory(join(boot, "slots"));
  await step("write root");
  const root = await writeImage(
    blob("root"),
    { locate: () => place.root, absent: `there is no ${place.root}` },
    {
      format: "raw",
      verify: true,
      allowPartition: true,
      imageBytes: update.root.size,
      givenBytes: update.root.size,
      leewayMs: 0,
      timeoutMs: 10_000,
      fsyncTimeoutMs: 600_000,
    },
    { signal, log, onProgress },
  );
  // The stream and the medium were compared with what came; this says that what came is what was signed.
  if (`sha256:${root.mappedSha256}` !== update.root.digest && algorithmOf(update.root.digest) === "sha256") {
    throw new AgentError("E_DIGEST", "the root of the update was not written as it is");
  }
  await step("write kernel");
  await writeBootFile(join(folder, kernelName), blob("kernel"), update.kernel);
  await step("write initrd");
  await writeBootFile(join(folder, initrdName), blob("initrd"), update.initrd);
  await step("arm");
  await state.write({ slot: running, trial: other, tries: mostTries, invalid: undefined });
  await step("done");
}

/** Writes a file of the boot partition and reads it back from the disk. */
async function writeBootFile(path: string, content: Readable, expected: Expected): Promise<void> {
  await replaceFile(path, content);
  const calls = await loadBlockCalls();
  const hash = createHash(algorithmOf(expected.digest));
  const file = await open(path, "r");
  try {
    await calls.forget(file.fd);
    for await (const chunk of file.createReadStream({ autoClose: false })) hash.update(chunk as Buffer);
  } finally {
    await file.close();
  }
  if (`${algorithmOf(expected.digest)}:${hash.digest("hex")}` === expected.digest) return;
  throw new AgentError("E_DIGEST", `${path} is not on the disk as it was written`);
}

/** What GRUB loads of a system. */
export const bootFiles = (boot: string, slot: SlotName) =>
  [kernelName, initrdName].map((name) => join(slotFolder(boot, slot), name));

const kernelName = "vmlinuz";
const initrdName = "initrd";
const slotFolder = (boot: string, slot: SlotName) => join(boot, "slots", slot);

async function bytesIn(folder: string): Promise<number> {
  const names = await readdir(folder).catch(() => []);
  const files = await Promise.all(names.map((name) => stat(join(folder, name))));
  return files.reduce((sum, { size }) => sum + size, 0);
}
