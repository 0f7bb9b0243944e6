import { AgentError } from "../../../agent/driver/errors.ts";
import type { OpenImage } from "../image/open-image.ts";
import { boundsOf, byCells, cellBytes, windowBytes, type Cell } from "./cells.ts";
import { Digests, type Part } from "./digests.ts";
import type { OpenDisk } from "./disk.ts";
import { tooLarge } from "./protection.ts";
import type { BlockChecksums } from "./remembered.ts";
import { Window } from "./window.ts";
import type { WindowRing } from "./window-ring.ts";

/** What an image has put on a disk. */
export interface Copied {
  /** In ascending order. */
  readonly cells: readonly Cell[];
  /** SHA-256 of all parts, one after the other, in hex. */
  readonly sha256: string;
}

export interface CopyOptions {
  /** Nobody works with its windows. */
  readonly ring: WindowRing;
  /** Nothing was added to it, and nothing is when this is over. */
  readonly digests: Digests;
  /** What may be on the disk already. */
  readonly recalled: BlockChecksums | undefined;
  /** The cells get checksums, to be remembered. */
  readonly withChecksums: boolean;
  /** Called after each window, in the order of the image. @param reached how far in the image */
  readonly onWindow: (writtenBytes: number, reached: number) => Promise<void>;
}

/**
 * Puts an image on a disk, window by window: while one is filled from the image, those before it are written and digested. When it has
 * thrown, nothing is under way any more.
 */
export async function copyIn(
  image: OpenImage,
  disk: OpenDisk,
  { ring, digests: all, recalled, withChecksums, onWindow }: CopyOptions,
): Promise<Copied> {
  const cells: Cell[] = [];
  const written = recalled === undefined ? all : new Digests();
  const held = recalled === undefined ? undefined : new Window(disk);

  /** @param before the window before this one */
  const put = async (window: Window, before: Promise<void>): Promise<void> => {
    const groups = byCells(window.parts);
    const digesting = all.update(window.memory, groups, { withChecksums });
    // Awaited below, also when the disk fails meanwhile.
    digesting.catch(() => {});
    const unchanged = new Set<readonly Part[]>();
    if (recalled !== undefined && held !== undefined) {
      // In turn: what is held has one place only.
      await before;
      const digested = await digesting;
      const likely = groups.filter((parts, index) => {
        const number = Math.floor((window.base + (parts[0]?.start ?? 0)) / cellBytes);
        const known = recalled.checksums[number] ?? 0;
        return known !== 0 && known === digested[index]?.checksum;
      });
      for (const parts of await equalOn(disk, window, likely, held)) unchanged.add(parts);
    }
    const changed = groups.filter((parts) => !unchanged.has(parts));
    const work = [
      before,
      digesting,
      written === all ? digesting : written.update(window.memory, changed),
      window.write(disk, changed.flat()),
    ] as const;
    await Promise.allSettled(work);
    const [, digested, digestedOfChanged] = await Promise.all(work);
    const writtenUntil = new Map(changed.map((parts, index) => [parts, digestedOfChanged[index]?.until]));
    for (const [index, parts] of groups.entries()) {
      cells.push({
        parts: parts.map(({ start, end }) => ({ start: window.base + start, end: window.base + end })),
        checksum: digested[index]?.checksum ?? 0,
        writtenUntil: writtenUntil.get(parts) ?? cells.at(-1)?.writtenUntil ?? "",
        isUnchanged: unchanged.has(parts),
      });
    }
    const bytes = changed.flat().reduce((sum, { start, end }) => sum + end - start, 0);
    await onWindow(bytes, window.base + (window.parts.at(-1)?.end ?? 0));
  };

  let filling = await ring.take();
  const flush = async (): Promise<void> => {
    const full = filling;
    const end = full.base + (full.parts.at(-1)?.end ?? 0);
    if (disk.sizeBytes !== undefined && end > disk.sizeBytes) throw tooLarge(disk.name, undefined, disk.sizeBytes);
    ring.begin(full, (before) => put(full, before));
    filling = await ring.take();
    filling.moveTo(0);
  };

  try {
    for await (const extent of image.extents) {
      for (let at = extent.at; ;) {
        const within = at % windowBytes;
        const base = at - within;
        if (filling.parts.length > 0 && filling.base !== base) await flush();
        if (filling.parts.length === 0) filling.moveTo(base);
        const count = await extent.read(filling.memory.subarray(within));
        if (count === 0) break;
        filling.add(within, count);
        at += count;
        if (filling.isFull) await flush();
      }
    }
    if (filling.parts.length > 0) await flush();
    ring.giveBack(filling);
    await ring.end();
    return { cells, sha256: await all.sha256() };
  } finally {
    await ring.end().catch(() => {});
    if (written !== all) await written.close();
  }
}

/** Those of the groups that the disk holds byte for byte, as it says itself. What it cannot read is written anew, which may cure it. */
async function equalOn(
  disk: OpenDisk,
  window: Window,
  groups: readonly (readonly Part[])[],
  held: Window,
): Promise<(readonly Part[])[]> {
  held.moveTo(window.base);
  const read = await held.read(disk, groups.flat()).catch((error: unknown) => {
    if (error instanceof AgentError && error.code === "E_IO") return [];
    throw error;
  });
  return groups.filter((parts) =>
    parts.every(
      ({ start, end }) =>
        read.some((run) => run.start <= start && run.end >= end) &&
        window.memory.compare(held.memory, start, end, start, end) === 0,
    ),
  );
}

/** What is worth remembering of it. */
export function checksumsOf(cells: readonly Cell[]): BlockChecksums {
  const numberOf = (cell: Cell | undefined) => Math.floor((cell === undefined ? -1 : boundsOf(cell).start) / cellBytes);
  const checksums = new Uint32Array(numberOf(cells.at(-1)) + 1);
  for (const cell of cells) checksums[numberOf(cell)] = cell.checksum;
  return { blockBytes: cellBytes, checksums };
}
