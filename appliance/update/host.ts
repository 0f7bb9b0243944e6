import { toAgentError } from "../../agent/driver/errors.ts";
import type { Logger } from "../../agent/driver/log.ts";
import { withBootPartition } from "../slots/boot-partition.ts";
import { bootStateIn, type BootState, type BootStateStore } from "../slots/boot-state.ts";
import { systemRoots, type RunningSystem, type SystemRoots } from "../slots/system.ts";
import type { AskExporters } from "./exporters.ts";
import type { UpdateRecord, UpdateRecords } from "./records.ts";

/** The host whose system is updated. */
export interface UpdatedHost {
  readonly system: RunningSystem;
  readonly records: UpdateRecords;
  readonly askExporters: AskExporters;
  readonly log: Logger;
  readonly roots?: SystemRoots | undefined;
}

/** @param use gets the boot state and the folder where the boot partition is mounted, writable */
export async function withBootState<T>(
  { system, roots = systemRoots }: Pick<UpdatedHost, "system" | "roots">,
  signal: AbortSignal,
  use: (state: BootStateStore, boot: string) => Promise<T>,
): Promise<T> {
  return await withBootPartition(system.boot, (boot) => use(bootStateIn(boot), boot), { proc: roots.proc, signal });
}

/** Keeps the record of one update while it goes on. */
export interface RecordKeeper {
  /** What is known by now. */
  add(facts: Partial<UpdateRecord>): void;
  /** A step begins, and the one before has ended. */
  step(name: string): void;
  /** A record that cannot be kept costs a warning, not the update. */
  keep(facts: Partial<UpdateRecord>): Promise<UpdateRecord>;
}

export function startRecord({ records, system, log }: UpdatedHost, facts: Pick<UpdateRecord, "kind">): RecordKeeper {
  const beganMs = performance.now();
  const now = new Date();
  const steps: UpdateRecord["steps"] = [];
  let open: { name: string; startMs: number } | undefined;
  let record: UpdateRecord = {
    format: "jumpstarter-agent/update-receipt/v1",
    id: records.newId(now),
    state: "writing",
    startedAt: now.toISOString(),
    from: { slot: system.slot, version: system.version },
    before: [],
    steps,
    ...facts,
  };
  const endStep = (atMs: number) => {
    if (open !== undefined) steps.push({ ...open, durationMs: atMs - open.startMs });
    open = undefined;
  };
  return {
    add: (more) => void (record = { ...record, ...more }),
    step(name) {
      const startMs = Math.round(performance.now() - beganMs);
      endStep(startMs);
      open = { name, startMs };
    },
    async keep(more) {
      record = { ...record, ...more };
      if (record.state !== "writing") endStep(Math.round(performance.now() - beganMs));
      await keepRecord(records, record, log);
      return record;
    },
  };
}

export async function keepRecord(records: UpdateRecords, record: UpdateRecord, log: Logger): Promise<void> {
  try {
    await records.keep(record);
  } catch (error) {
    log.warn(`the record of this update is not kept in ${records.directory}: ${toAgentError(error).message}`);
  }
}

/** Reads the boot state; the partition stays as it is, if it is mounted. */
export async function readBootStateOf(
  { system, roots = systemRoots }: Pick<UpdatedHost, "system" | "roots">,
  signal: AbortSignal,
): Promise<{ readonly state: BootState | undefined; readonly isDamaged: boolean }> {
  const options = { proc: roots.proc, signal, readOnly: true };
  return await withBootPartition(system.boot, (boot) => bootStateIn(boot).read(), options);
}
