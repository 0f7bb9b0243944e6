import { setTimeout as sleep } from "node:timers/promises";
import { AgentError } from "../../agent/driver/errors.ts";
import type { Logger } from "../../agent/driver/log.ts";
import type { AskExporters } from "./exporters.ts";

/** What is done while an exporter is leased: nothing, what was asked for all the same, or to wait for the end of the leases. */
export type LeaseRule = "refuse" | "ignore" | "wait";

/**
 * Returns when no exporter of this host is leased, or that does not matter.
 * @throws AgentError E_NOT_READY for a lease that is not to be waited for; what `ask` throws: what an agent does is then not known
 */
export async function waitForLeases(
  rule: LeaseRule,
  ask: AskExporters,
  { signal, log, everyMs = 5_000 }: { readonly signal: AbortSignal; readonly log: Logger; readonly everyMs?: number },
): Promise<void> {
  if (rule === "ignore") return;
  for (let told = ""; ;) {
    const leased = (await ask()).filter(({ lease }) => lease !== null).map(({ exporter }) => exporter);
    if (leased.length === 0) return;
    const who = `${leased.join(", ")} ${leased.length === 1 ? "is" : "are"} leased`;
    if (rule === "refuse") {
      throw new AgentError("E_NOT_READY", `${who}, and an update ends with a new start of the host`, {
        hint: "--when-free waits for the end of the leases, --during-lease ends them",
      });
    }
    if (who !== told) log.info(`${who}: waiting for the end`);
    told = who;
    await sleep(everyMs, undefined, { signal });
  }
}
