import { open, rm } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { toAgentError } from "../../agent/driver/errors.ts";
import { makeDirectoryDurably } from "../../agent/stream/durable.ts";
import { mostTries, otherSlot } from "../slots/boot-state.ts";
import type { ExporterNow } from "./exporters.ts";
import { keepRecord, withBootState, type UpdatedHost } from "./host.ts";
import type { ExporterBefore, UpdateRecord } from "./records.ts";

export interface ConfirmOptions {
  /** Waits until the trial passes; without, it is confirmed as it is. */
  readonly wait: boolean;
  /** How long it may take; then the trial has failed. */
  readonly limitMs: number;
  /** How long all must be well without a break: an agent that comes up and dies again is not well. */
  readonly settleMs: number;
  readonly lookEveryMs?: number;
  readonly signal: AbortSignal;
}

export type ConfirmOutcome =
  /** This start was no trial. */
  | { readonly outcome: "nothing to confirm" }
  | { readonly outcome: "confirmed" }
  /** The host is to be started again, with the system before. */
  | { readonly outcome: "rolled back"; readonly reason: string };

/**
 * Ends the trial of the system that runs. At a start that is none, it says what became of the last trial, and mends a damaged boot state.
 * @throws the system's error if the boot state cannot be written: the trial goes on
 */
export async function confirmTrial(options: ConfirmOptions, host: UpdatedHost): Promise<ConfirmOutcome> {
  const { system, records, log } = host;
  const { signal } = options;
  const last = await records.last();
  const found = await withBootState(host, signal, async (store) => {
    const read = await store.read();
    if (read.state?.trial === system.slot) return "on trial";
    // GRUB lowers the tries before it starts a trial: this start is another one, so it was given up, or its kernel could not be loaded.
    const isOver = read.state?.trial !== undefined && read.state.tries < mostTries;
    // Nobody knows what the other system is, when neither copy tells.
    const mended = read.state ?? { slot: system.slot, trial: undefined, tries: 0, invalid: undefined };
    if (read.isDamaged || isOver) await store.write({ ...mended, trial: undefined, tries: 0 });
    if (read.isDamaged) log.warn("the boot state was damaged, and is written anew");
    return read.state?.trial !== undefined && !isOver ? "to be tried" : "over";
  });
  if (found === "over") await settle(last, host);
  if (found !== "on trial") return { outcome: "nothing to confirm" };

  const reason = options.wait ? await waitUntilWell(options, last, host) : undefined;
  const slot = reason === undefined ? system.slot : otherSlot(system.slot);
  const isOurs = await withBootState(host, signal, async (store) => {
    const { state } = await store.read();
    // Somebody may have confirmed it by hand, and even have written the next update.
    if (state !== undefined && state.trial !== system.slot) return false;
    await store.write({ slot, trial: undefined, tries: 0, invalid: undefined });
    return true;
  });
  if (!isOurs) return { outcome: "nothing to confirm" };
  if (reason === undefined) {
    await end(last, { state: "confirmed" }, host);
    log.info(`version ${system.version} in slot ${system.slot} is confirmed`);
    return { outcome: "confirmed" };
  }
  await end(last, { state: "rolled-back", reason }, host);
  return { outcome: "rolled back", reason };
}

/** Tells of a trial, or of an update that was cut off, which this start has put an end to. */
async function settle(last: UpdateRecord | undefined, host: UpdatedHost): Promise<void> {
  const { system, log } = host;
  if (last?.state === "writing") {
    const reason = "the host was started again while the update was written";
    await end(last, { state: "failed", reason }, host);
    log.warn(`the update to ${last.to?.version} has failed: ${reason}`);
  } else if (last?.state === "trial") {
    // The record is the last thing that a confirmation writes.
    const isNew = last.to?.slot === system.slot && system.startedAs === "confirmed";
    const reason = `version ${last.to?.version} did not come up, or was not confirmed, as often as it was started`;
    await end(last, isNew ? { state: "confirmed" } : { state: "rolled-back", reason }, host);
    if (!isNew) log.warn(`the update was rolled back: ${reason}`);
  }
}

async function end(
  last: UpdateRecord | undefined,
  how: Pick<UpdateRecord, "state" | "reason">,
  { records, log }: UpdatedHost,
): Promise<void> {
  if (last !== undefined) await keepRecord(records, { ...last, ...how, endedAt: new Date().toISOString() }, log);
}

/** @returns undefined when all is well, else what was not, until the limit */
async function waitUntilWell(
  { limitMs, settleMs, lookEveryMs = 1_000, signal }: ConfirmOptions,
  last: UpdateRecord | undefined,
  { system, records, askExporters, log }: UpdatedHost,
): Promise<string | undefined> {
  const deadlineMs = performance.now() + limitMs;
  let wellSince: { readonly atMs: number; readonly agents: string } | undefined;
  let problem = "";
  for (;;) {
    const now = await look();
    if (now.problem !== undefined) {
      if (now.problem !== problem) log.info(`on trial: ${now.problem}`);
      [problem, wellSince] = [now.problem, undefined];
    } else {
      if (wellSince?.agents !== now.agents) wellSince = { atMs: performance.now(), agents: now.agents };
      problem = `all was well for less than ${settleMs / 1_000} s`;
      if (performance.now() - wellSince.atMs >= settleMs) return undefined;
    }
    if (performance.now() >= deadlineMs) return `not confirmed within ${limitMs / 1_000} s: ${problem}`;
    await sleep(lookEveryMs, undefined, { signal });
  }

  async function look(): Promise<{ problem: string | undefined; agents: string }> {
    try {
      const exporters = await askExporters();
      const agents = [...new Set(exporters.map(({ pid }) => pid))].sort().join(" ");
      const before = last?.before ?? [];
      return { problem: (await selfTest()) ?? whatIsMissing(before, exporters), agents };
    } catch (error) {
      return { problem: toAgentError(error).message, agents: "" };
    }
  }

  /** What the agent needs of its host, whatever its exporters are. */
  async function selfTest(): Promise<string | undefined> {
    if (last?.kind === "update" && last.to !== undefined && last.to.version !== system.version) {
      return `version ${system.version} runs, and ${last.to.version} was written`;
    }
    try {
      await makeDirectoryDurably(records.directory);
      const path = join(records.directory, "self-test.tmp");
      const file = await open(path, "w");
      await file.writeFile("written\n").finally(() => file.sync().finally(() => file.close()));
      await rm(path);
      return undefined;
    } catch (error) {
      return `the state directory cannot be written: ${toAgentError(error).message}`;
    }
  }
}

/**
 * What exporters did before the update and do not now. Who was not registered before, as its controller was away, need not be.
 * @returns undefined if there is nothing
 */
export function whatIsMissing(before: readonly ExporterBefore[], now: readonly ExporterNow[]): string | undefined {
  for (const was of before) {
    const is = now.find(({ exporter }) => exporter === was.exporter);
    if (is === undefined) return `${was.exporter} does not run`;
    if (was.online && !is.online) return `${was.exporter} is not registered with its controller`;
    const lost = is.offline.find(({ driver }) => !was.offlineDrivers.includes(driver));
    if (lost !== undefined) return `the driver ${lost.driver} of ${was.exporter} is offline: ${lost.reason}`;
  }
  return undefined;
}
