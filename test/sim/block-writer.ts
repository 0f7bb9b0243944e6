import { createHash } from "node:crypto";
import { readdirSync, readlinkSync } from "node:fs";
import { Readable } from "node:stream";
import { LogBus } from "../../agent/driver/log.ts";
import type { Target } from "../../boards/storage/block/disk.ts";
import { writeImage, type Progress, type WriteOptions } from "../../boards/storage/block/write.ts";

export function logs() {
  const bus = new LogBus("DEBUG");
  const lines: string[] = [];
  bus.subscribe(({ message }) => lines.push(message));
  return { log: bus.logger({ source: "driver", logger: "driver.test" }), lines };
}

export const at = (path: string): Target => ({ locate: () => path, absent: "no disk" });

export function write(
  path: string | Target,
  image: Buffer | Readable,
  options: Partial<WriteOptions> = {},
  context: { signal?: AbortSignal; onProgress?: (progress: Progress) => void } = {},
) {
  const source = image instanceof Readable ? image : inPieces(image);
  return writeImage(
    source,
    typeof path === "string" ? at(path) : path,
    { timeoutMs: 500, verify: true, leewayMs: 0, fsyncTimeoutMs: 5_000, ...options },
    { signal: new AbortController().signal, log: logs().log, ...context },
  );
}

/** As images come: in pieces of any length. */
export function inPieces(image: Buffer): Readable {
  const lengths = [65_536, 1, 4095, 300_001];
  return Readable.from(
    (function* () {
      for (let start = 0, piece = 0; start < image.length; piece += 1) {
        const end = start + (lengths[piece % lengths.length] ?? 1);
        yield image.subarray(start, end);
        start = end;
      }
    })(),
    { objectMode: false },
  );
}

export const sha256 = (bytes: Buffer) => createHash("sha256").update(bytes).digest("hex");

export function openPaths(): string[] {
  return readdirSync("/proc/self/fd").flatMap((fd) => {
    try {
      return [readlinkSync(`/proc/self/fd/${fd}`)];
    } catch {
      return [];
    }
  });
}
