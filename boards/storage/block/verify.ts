import { AgentError } from "../../../agent/driver/errors.ts";
import { boundsOf, bytesOf, windowBytes, type Cell } from "./cells.ts";
import type { Digests } from "./digests.ts";
import type { OpenDisk } from "./disk.ts";
import type { Window } from "./window.ts";
import type { WindowRing } from "./window-ring.ts";

/** Holes of a file system that are read with what is around them: another request would take longer. */
const gapBytes = 128 * 1024;

export interface CompareOptions {
  /** Nobody works with its windows. */
  readonly ring: WindowRing;
  /** Nothing was added to it. */
  readonly digests: Digests;
  readonly signal: AbortSignal;
  /** @param bytes read back and found right */
  readonly onCompared: (bytes: number) => void;
}

/**
 * Reads back what was written, from the medium and not from memory: SHA-256 is the same up to the end of each cell.
 * @param cells those that were written, in the order in which they were digested
 * @throws AgentError E_DIGEST naming the first range that differs
 */
export async function compareWithMedium(
  disk: OpenDisk,
  cells: readonly Cell[],
  { ring, digests, signal, onCompared }: CompareOptions,
): Promise<void> {
  if (!disk.isDirect) await disk.calls.forget(disk.file.fd);
  let bytes = 0;
  /** Resolves when the digests have what was read before: they are asked in that order, and never wait for the next. */
  let handed = Promise.resolve();

  /** @param before the comparison of the cells before these */
  const compare = async (window: Window, expected: readonly Cell[], before: Promise<void>): Promise<void> => {
    const base = windowOf(expected[0]);
    window.moveTo(base);
    const groups = expected.map(({ parts }) =>
      parts.map(({ start, end }) => ({ start: start - base, end: end - base })),
    );
    const reading = window.read(disk, groups.flat(), gapBytes);
    const begun = Promise.all([handed, reading]).then(() => ({ digesting: digests.update(window.memory, groups) }));
    handed = begun.then(
      () => {},
      () => {},
    );
    const work = [before, reading, begun.then(({ digesting }) => digesting)] as const;
    await Promise.allSettled(work);
    const [, read, digested] = await Promise.all(work);
    for (const [index, cell] of expected.entries()) {
      const isRead = groups[index]?.every(({ start, end }) => read.some((run) => run.start <= start && run.end >= end));
      if (isRead !== true || digested[index]?.until !== cell.writtenUntil) throw differs(disk, boundsOf(cell));
    }
    bytes += bytesOf(expected);
    onCompared(bytes);
  };

  try {
    for (const expected of byWindows(cells)) {
      signal.throwIfAborted();
      const window = await ring.take();
      ring.begin(window, (before) => compare(window, expected, before));
    }
    await ring.end();
  } finally {
    await ring.end().catch(() => {});
  }
}

function byWindows(cells: readonly Cell[]): Cell[][] {
  const windows: Cell[][] = [];
  for (const cell of cells) {
    const last = windows.at(-1);
    if (last !== undefined && windowOf(last[0]) === windowOf(cell)) last.push(cell);
    else windows.push([cell]);
  }
  return windows;
}

function windowOf(cell: Cell | undefined): number {
  const { start } = boundsOf(cell ?? { parts: [] });
  return start - (start % windowBytes);
}

function differs(disk: OpenDisk, { start, end }: { readonly start: number; readonly end: number }): AgentError {
  const text = `${disk.name} holds other bytes than were written to it: bytes ${start} to ${end - 1} differ`;
  return new AgentError("E_DIGEST", text, { hint: "the medium or its reader is bad" });
}
