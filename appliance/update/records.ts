import { randomBytes } from "node:crypto";
import { readdir, readFile, rm } from "node:fs/promises";
import { join } from "node:path";
import * as z from "zod";
import { makeDirectoryDurably, writeDurably } from "../../agent/stream/durable.ts";

const slot = z.enum(["a", "b"]);
const system = z.object({ slot, version: z.string() });

/** What an exporter did before an update: the new system must do as well. */
const exporterBefore = z.object({
  exporter: z.string(),
  /** It was registered with its controller. */
  online: z.boolean(),
  /** Drivers whose device was missing. */
  offlineDrivers: z.array(z.string()),
});

const record = z.object({
  format: z.literal("jumpstarter-agent/update-receipt/v1"),
  id: z.string(),
  kind: z.enum(["update", "rollback"]),
  /**
   * `writing`: begun, or cut off in the middle; `trial`: written, read back and to be started; `confirmed`, `rolled-back`: how the trial ended;
   * `refused`: nothing was written; `failed`: the other system is lost, the running one is as it was.
   */
  state: z.enum(["writing", "trial", "confirmed", "rolled-back", "refused", "failed"]),
  /** Why it ended as it did, unless it was confirmed. */
  reason: z.string().optional(),
  /** Of the reason, where it was an error. */
  code: z.string().optional(),
  /** ISO 8601 */
  startedAt: z.string(),
  endedAt: z.string().optional(),
  from: system,
  /** Missing when it was refused before it was known. */
  to: system.optional(),
  source: z
    .object({
      name: z.string(),
      digest: z.string().optional(),
      signedBy: z.object({ name: z.string(), fingerprint: z.string() }).optional(),
    })
    .optional(),
  /** What was written; digests are those that were signed, compared when it was read back. */
  written: z.record(z.string(), z.object({ digest: z.string(), bytes: z.number() })).optional(),
  steps: z.array(z.object({ name: z.string(), startMs: z.number(), durationMs: z.number() })),
  before: z.array(exporterBefore),
});

/** What became of one update. */
export type UpdateRecord = z.output<typeof record>;
export type ExporterBefore = z.output<typeof exporterBefore>;

const mostRecords = 50;
const largestRecordBytes = 1024 * 1024;

/** Records of updates, `updates/ID.json` in the state directory, which both systems have. */
export class UpdateRecords {
  readonly directory: string;

  constructor(directory: string) {
    this.directory = directory;
  }

  /** Names sort by time. */
  newId(now = new Date()): string {
    return `${now.toISOString().replaceAll(/[-:.]/g, "")}-${randomBytes(3).toString("hex")}`;
  }

  /** Keeps a record, in place of an earlier state of it; it is on the disk when this has returned. @throws the system's error */
  async keep(kept: UpdateRecord): Promise<void> {
    await makeDirectoryDurably(this.directory);
    await writeDurably(join(this.directory, `${kept.id}.json`), `${JSON.stringify(kept, undefined, 2)}\n`);
    for (const id of (await this.#ids()).slice(0, -mostRecords))
      await rm(join(this.directory, `${id}.json`), { force: true });
  }

  /** The newest one that can be read. */
  async last(): Promise<UpdateRecord | undefined> {
    for (const id of (await this.#ids()).reverse()) {
      const found = await this.#read(id);
      if (found !== undefined) return found;
    }
    return undefined;
  }

  async #read(id: string): Promise<UpdateRecord | undefined> {
    try {
      const text = await readFile(join(this.directory, `${id}.json`));
      return text.length > largestRecordBytes ? undefined : record.parse(JSON.parse(text.toString("utf8")));
    } catch {
      // Half a record cannot be, as each gets its name last; what is damaged all the same says nothing.
      return undefined;
    }
  }

  async #ids(): Promise<string[]> {
    try {
      const names = await readdir(this.directory);
      return names.flatMap((name) => (/^\d{8}T\d{9}Z-[0-9a-f]{6}\.json$/.test(name) ? [name.slice(0, -5)] : [])).sort();
    } catch {
      // A state that cannot be read knows of none; whoever writes is told.
      return [];
    }
  }
}
