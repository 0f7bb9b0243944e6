import { loadClockState, type ClockState } from "../../sys/adjtimex.ts";
import type { Catalog } from "../../driver/catalog.ts";
import { toAgentError } from "../../driver/errors.ts";
import { checkClock } from "./clock.ts";
import { readConfigurations } from "./configured.ts";
import { checkController } from "./controller.ts";
import { inspectDevices, type OfflineDriver } from "./devices.ts";
import { checkDisk } from "./disk.ts";
import { findingsOf, inOrder, type Area, type DoctorFinding } from "./finding.ts";
import { thisHost, type HostRoots } from "./host.ts";
import { checkMemory } from "./memory.ts";
import { checkModules } from "./modules.ts";
import { checkPermissions } from "./permissions.ts";
import { pluggedIn, type PluggedIn } from "./plugged-in.ts";
import { checkPorts } from "./ports.ts";
import { checkSoftware } from "./software.ts";
import { checkSupply } from "./supply.ts";

export interface ExamineOptions {
  /** Configuration files. */
  readonly files: readonly string[];
  readonly catalog: Catalog;
  readonly env: NodeJS.ProcessEnv;
  /** Agents that run. */
  readonly agents: readonly number[];
  /** What these say is offline. */
  readonly offline: readonly OfflineDriver[];
  /** Why others of them say nothing, a line each. */
  readonly silent: readonly string[];
  /** Where the agent itself writes, and what. */
  readonly directories: readonly { readonly path: string; readonly use: string }[];
  readonly host?: HostRoots;
}

export interface Examination {
  /** As they are to be put right. */
  readonly findings: readonly DoctorFinding[];
  readonly tree: readonly PluggedIn[];
}

/** Looks at everything that keeps exporters from working. Changes nothing, and needs neither root nor an agent. */
export async function examine(options: ExamineOptions): Promise<Examination> {
  const { files, catalog, env, agents, offline, silent, directories, host = thisHost } = options;
  const { configured, findings } = await readConfigurations(files, catalog, env);
  const devices = inspectDevices(configured, offline);
  const [tree, ...checks] = await Promise.all([
    pluggedIn(host.sys),
    within("devices", async () => (await devices).findings),
    within("permissions", async () => checkPermissions((await devices).nodes, host)),
    within("software", async () => checkSoftware(configured, (await devices).nodes, host, env)),
    within("modules", () => checkModules(configured, host)),
    within("ports", () => checkPorts(configured, agents, host)),
    within("clock", async () => checkClock(new Date(), await clockState())),
    within("disk", () => checkDisk(configured, directories)),
    within("memory", () => checkMemory(host)),
    within("supply", () => checkSupply(host)),
    ...configured.map((exporter) => within("controller", () => checkController(exporter, { env }))),
  ]);
  const unheard = silent.map((text) => findingsOf("software").warning(text, "look at the agent's own log"));
  return { findings: inOrder([...findings, ...unheard, ...checks.flat()]), tree };
}

/** A check that fails itself must not keep the others from telling. */
async function within(area: Area, check: () => Promise<readonly DoctorFinding[]>): Promise<readonly DoctorFinding[]> {
  try {
    return await check();
  } catch (thrown) {
    return [findingsOf(area).warning(`cannot be looked at: ${toAgentError(thrown).message}`)];
  }
}

async function clockState(): Promise<ClockState | undefined> {
  try {
    return (await loadClockState())();
  } catch {
    // Native code cannot be loaded, which is a finding of its own, or a sandbox forbids the question.
    return undefined;
  }
}
