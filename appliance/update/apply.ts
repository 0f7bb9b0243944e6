import { access } from "node:fs/promises";
import { AgentError, toAgentError } from "../../agent/driver/errors.ts";
import type { Progress } from "../../boards/storage/block/progress.ts";
import type { Digest } from "../../bundles/oci/digest.ts";
import type { Source } from "../../bundles/oci/source.ts";
import type { TrustedKey } from "../../bundles/signature/keys.ts";
import { verifySignature } from "../../bundles/signature/verify.ts";
import { mostTries, otherSlot, type BootStateStore } from "../slots/boot-state.ts";
import type { RunningSystem } from "../slots/system.ts";
import { readUpdate, type Update } from "./artifact.ts";
import type { AskExporters } from "./exporters.ts";
import { startRecord, withBootState, type RecordKeeper, type UpdatedHost } from "./host.ts";
import { waitForLeases, type LeaseRule } from "./leases.ts";
import type { ExporterBefore, UpdateRecord } from "./records.ts";
import { compareVersions } from "./version.ts";
import { bootFiles, mustFit, writeUpdate, type UpdatePlace, type UpdateStep } from "./write-update.ts";

export interface UpdateRequest {
  readonly source: Source;
  readonly digest: Digest;
  /** As the user named it. */
  readonly name: string;
  /** Whose signatures count. */
  readonly keys: readonly TrustedKey[];
  readonly allowDowngrade: boolean;
  readonly leases: LeaseRule;
  readonly signal: AbortSignal;
  readonly onStep?: ((step: UpdateStep) => Promise<void> | void) | undefined;
  readonly onProgress?: ((progress: Progress) => void) | undefined;
}

/**
 * Checks an update, writes it to the other slot and puts it on trial: the next start of the host tries it.
 * @throws AgentError E_SIGNATURE, E_INVALID, E_INCOMPATIBLE, E_NOT_READY before anything is touched; E_DIGEST, E_CONNECTION, E_TIMEOUT,
 *   E_TARGET, E_IO later, too: then the running system stays, and the other one is lost
 */
export async function applyUpdate(request: UpdateRequest, host: UpdatedHost): Promise<UpdateRecord> {
  const { source, digest, name, keys, signal } = request;
  const { system, log } = host;
  return await recorded(startRecord(host, { kind: "update" }), async (keeper, touch) => {
    keeper.add({ source: { name, digest } });
    // First who says it: nothing else of a stranger's update is read.
    const trust = { keys, acceptsRepository: () => true };
    const { key } = await verifySignature(source, digest, trust, { name, signal });
    const { name: keyName, fingerprint } = key;
    log.info(`${name} (${digest}) is signed by ${keyName} (${fingerprint})`);
    const update = await readUpdate(source, digest, { name, signal });
    keeper.add({
      source: { name, digest, signedBy: { name: keyName, fingerprint } },
      to: { slot: otherSlot(system.slot), version: update.version },
    });
    mustSuit(update, system, request.allowDowngrade);
    await waitForLeases(request.leases, host.askExporters, { signal, log });
    keeper.add({ before: await exportersBefore(host.askExporters) });
    return await withBootState(host, signal, async (state, boot) => {
      const root = { root: system.otherRoot.path, rootBytes: system.otherRoot.sizeBytes };
      const place: UpdatePlace = { running: system.slot, boot, state, ...root };
      await mustBeConfirmed(state, system);
      await mustFit(update, place);
      await touch();
      await writeUpdate(update, source, place, {
        signal,
        log,
        onProgress: request.onProgress,
        onStep: async (step) => {
          keeper.step(step);
          log.info(stepTexts[step]);
          await request.onStep?.(step);
        },
      });
      const part = ({ digest, size }: { digest: string; size: number }) => ({ digest, bytes: size });
      const written = { root: part(update.root), kernel: part(update.kernel), initrd: part(update.initrd) };
      return await keeper.keep({ state: "trial", written });
    });
  });
}

/**
 * Puts the other system, the one before the last update, on trial again.
 * @throws AgentError E_NOT_READY if there is none that is whole
 */
export async function rollBack(
  { leases, signal }: Pick<UpdateRequest, "leases" | "signal">,
  host: UpdatedHost,
): Promise<UpdateRecord> {
  const { system, records, log } = host;
  const trial = otherSlot(system.slot);
  const last = await records.last();
  return await recorded(startRecord(host, { kind: "rollback" }), async (keeper) => {
    keeper.add({ to: { slot: trial, version: last?.from.slot === trial ? last.from.version : "unknown" } });
    await waitForLeases(leases, host.askExporters, { signal, log });
    keeper.add({ before: await exportersBefore(host.askExporters) });
    return await withBootState(host, signal, async (state, boot) => {
      await mustBeConfirmed(state, system);
      const { state: now } = await state.read();
      const files = await Promise.all(
        bootFiles(boot, trial).map((path) =>
          access(path).then(
            () => true,
            () => false,
          ),
        ),
      );
      if (now?.invalid === trial || files.includes(false)) {
        throw new AgentError("E_NOT_READY", `slot ${trial} holds no whole system to go back to`);
      }
      await state.write({ slot: system.slot, trial, tries: mostTries, invalid: undefined });
      return await keeper.keep({ state: "trial" });
    });
  });
}

/** What a person reads while it goes on. */
const stepTexts: Record<UpdateStep, string> = {
  invalidate: "the other slot is given up",
  "remove kernel": "its kernel is removed",
  "write root": "the root is written",
  "write kernel": "the kernel is written",
  "write initrd": "the initramfs is written",
  arm: "the new system is put on trial",
  done: "all is written and read back",
};

/** Keeps what became of it, also when it fails. */
async function recorded(
  keeper: RecordKeeper,
  work: (keeper: RecordKeeper, touch: () => Promise<void>) => Promise<UpdateRecord>,
): Promise<UpdateRecord> {
  let state: "refused" | "failed" = "refused";
  try {
    return await work(keeper, async () => {
      state = "failed";
      await keeper.keep({ state: "writing" });
    });
  } catch (thrown) {
    const { code, message } = toAgentError(thrown);
    await keeper.keep({ state, code, reason: message, endedAt: new Date().toISOString() });
    throw thrown;
  }
}

/** @throws AgentError E_INCOMPATIBLE */
function mustSuit(update: Update, system: RunningSystem, allowDowngrade: boolean): void {
  const refuse = (why: string, hint?: string) => new AgentError("E_INCOMPATIBLE", `the update is ${why}`, { hint });
  if (update.architecture !== system.architecture) {
    throw refuse(`for ${update.architecture}, and this host is ${system.architecture}`);
  }
  if (update.imageId !== system.imageId) {
    throw refuse(`for the image ${update.imageId}, and this host runs ${system.imageId || "one without an IMAGE_ID"}`);
  }
  if (!allowDowngrade && compareVersions(update.version, system.version) < 0) {
    throw refuse(`version ${update.version}, older than ${system.version}, which runs`, "--allow-downgrade takes it");
  }
}

/** What runs on trial may be gone at the next start: then the other system is needed. @throws AgentError E_NOT_READY */
async function mustBeConfirmed(state: BootStateStore, { slot }: RunningSystem): Promise<void> {
  const { state: now } = await state.read();
  if (now?.trial !== slot) return;
  throw new AgentError("E_NOT_READY", `the system that runs, in slot ${slot}, is on trial`, {
    hint: "'jmp-agent update status' tells what it waits for, 'jmp-agent update confirm' takes it as it is",
  });
}

async function exportersBefore(ask: AskExporters): Promise<ExporterBefore[]> {
  return (await ask()).map(({ exporter, online, offline }) => ({
    exporter,
    online,
    offlineDrivers: offline.map(({ driver }) => driver),
  }));
}
