import { AgentError } from "../../../agent/driver/errors.ts";
import { boundsOf, windowBytes, type Cell } from "./cells.ts";
import type { Copied } from "./copy-in.ts";
import { Digests } from "./digests.ts";
import type { OpenDisk } from "./disk.ts";
import { Window } from "./window.ts";

/** Holes of a file system that are read with what is around them: another request would take longer. */
const gapBytes = 128 * 1024;

export interface CompareOptions {
  readonly signal: AbortSignal;
  /** @param bytes read back and found right */
  readonly onCompared: (bytes: number) => void;
}

/**
 * Reads back what was written, from the medium and not from memory. What was found unchanged has been read back already.
 * @throws AgentError E_DIGEST naming the first range that differs
 */
export async function compareWithMedium(
  disk: OpenDisk,
  { cells, writtenSha256 }: Pick<Copied, "cells" | "writtenSha256">,
  { signal, onCompared }: CompareOptions,
): Promise<void> {
  if (!disk.isDirect) await disk.calls.forget(disk.file.fd);
  const windows = byWindows(cells.filter(({ isUnchanged }) => !isUnchanged));
  const digests = new Digests();
  let [reading, spare] = [new Window(disk), new Window(disk)];
  let comparing: Promise<void> = Promise.resolve();
  let bytes = 0;
  try {
    for (const window of windows) {
      signal.throwIfAborted();
      const base = windowOf(window[0]);
      const groups = window.map(({ parts }) =>
        parts.map(({ start, end }) => ({ start: start - base, end: end - base })),
      );
      reading.moveTo(base);
      const read = await reading.read(disk, groups.flat(), gapBytes);
      await comparing;
      const { memory } = reading;
      const compare = async (): Promise<void> => {
        const checksums = await digests.update(memory, groups);
        for (const [index, cell] of window.entries()) {
          const isRead = groups[index]?.every(({ start, end }) =>
            read.some((run) => run.start <= start && run.end >= end),
          );
          if (isRead !== true || checksums[index] !== cell.checksum) throw differs(disk, boundsOf(cell));
        }
        bytes += groups.flat().reduce((sum, { start, end }) => sum + end - start, 0);
        onCompared(bytes);
      };
      comparing = compare();
      // Awaited one round later.
      comparing.catch(() => {});
      [reading, spare] = [spare, reading];
    }
    await comparing;
    if ((await digests.sha256()) !== writtenSha256) {
      throw differs(disk, {
        start: boundsOf(windows[0]?.[0] ?? { parts: [] }).start,
        end: boundsOf(windows.at(-1)?.at(-1) ?? { parts: [] }).end,
      });
    }
  } finally {
    await comparing.catch(() => {});
    await digests.close();
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
