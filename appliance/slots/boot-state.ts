import { open, readFile } from "node:fs/promises";
import { join } from "node:path";
import { isSystemError } from "../../agent/driver/errors.ts";
import { replaceFile } from "./replace-file.ts";
import { readEnvironment, writeEnvironment } from "./grubenv.ts";

/** One of the two systems of a disk. */
export type SlotName = "a" | "b";

export const otherSlot = (slot: SlotName): SlotName => (slot === "a" ? "b" : "a");

/** What GRUB goes by: image/grub.cfg has the rules. */
export interface BootState {
  /** The system that was confirmed. */
  readonly slot: SlotName;
  /** The system that is on trial. */
  readonly trial: SlotName | undefined;
  /** How often the trial may still be started; GRUB lowers it before each start. */
  readonly tries: number;
  /** The system that is being written: never started. */
  readonly invalid: SlotName | undefined;
}

/** How often a trial is started before it is given up. */
export const mostTries = 3;

const slotOf = (text: string | undefined): SlotName | undefined => (text === "a" || text === "b" ? text : undefined);

/** @returns undefined for a damaged one, of which GRUB uses the copy */
export function readBootState(bytes: Uint8Array): BootState | undefined {
  let variables;
  try {
    variables = readEnvironment(bytes);
  } catch {
    return undefined;
  }
  const slot = slotOf(variables.get("slot"));
  if (slot === undefined) return undefined;
  const tries = variables.get("tries") ?? "";
  return {
    slot,
    trial: slotOf(variables.get("trial")),
    tries: /^[0-9]$/.test(tries) ? Math.min(Number(tries), mostTries) : 0,
    invalid: slotOf(variables.get("invalid")),
  };
}

/** All of it lies in the first sector of 512 bytes, which a disk writes whole or not at all. */
export function writeBootState({ slot, trial, tries, invalid }: BootState): Buffer {
  return writeEnvironment(
    new Map([
      ["slot", slot],
      ["trial", trial ?? ""],
      ["tries", trial === undefined ? "" : String(tries)],
      ["invalid", invalid ?? ""],
    ]),
  );
}

/** The boot state on the disk. */
export interface BootStateStore {
  /** What GRUB will go by; undefined when both copies are damaged. */
  read(): Promise<{ readonly state: BootState | undefined; readonly isDamaged: boolean }>;
  /** The state is on the disk when this has returned; after a power cut it is the old or the new one. @throws the system's error */
  write(state: BootState): Promise<void>;
}

/**
 * The state in `grub/` of a boot partition. GRUB writes one of the two files, we write both, one after the other: whatever is cut off,
 * one of them is whole, and GRUB prefers the first.
 * @param boot where the partition is mounted
 */
export function bootStateIn(boot: string): BootStateStore {
  const main = join(boot, "grub/grubenv");
  const copy = join(boot, "grub/grubenv.safe");
  const read = async (path: string): Promise<BootState | undefined> => {
    const bytes = await readFile(path).catch((error: unknown) => {
      // What FAT has lost or cannot read is damaged, too.
      if (isSystemError(error) && ["ENOENT", "EIO"].includes(error.code)) return Buffer.alloc(0);
      throw error;
    });
    return readBootState(bytes);
  };
  return {
    async read() {
      const first = await read(main);
      if (first !== undefined) return { state: first, isDamaged: false };
      const second = await read(copy);
      return { state: second && { ...second, trial: undefined, tries: 0 }, isDamaged: true };
    },
    async write(state) {
      await writeInPlace(copy, writeBootState({ ...state, trial: undefined }));
      await writeInPlace(main, writeBootState(state));
    },
  };
}

/** GRUB writes where the blocks of the file are, so that they stay where they are. */
async function writeInPlace(path: string, bytes: Buffer): Promise<void> {
  let file;
  try {
    file = await open(path, "r+");
  } catch (error) {
    if (!isSystemError(error) || error.code !== "ENOENT") throw error;
    return await replaceFile(path, [bytes]);
  }
  try {
    const { size } = await file.stat();
    await file.write(bytes, 0, bytes.length, 0);
    if (size !== bytes.length) await file.truncate(bytes.length);
    await file.sync();
  } finally {
    await file.close();
  }
}
