import { loadClockState, type ClockState } from "../../sys/adjtimex.ts";
import type { Catalog } from "../../driver/catalog.ts";
import { checkClock } from "./clock.ts";
import { readConfigurations } from "./configured.ts";
import { checkController } from "./controller.ts";
import { inspectDevices, type OfflineDriver } from "./devices.ts";
import { checkDisk } from "./disk.ts";
import { findingsOf, inOrder, type DoctorFinding } from "./finding.ts";
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
    devices.then((found) => found.findings),
    devices.then(({ nodes }) => checkPermissions(nodes, host)),
    devices.then(({ nodes }) => checkSoftware(configured, nodes, host, env)),
    checkModules(configured, host),
    checkPorts(configured, agents, host),
    clockState().then((state) => checkClock(new Date(), state)),
    checkDisk(configured, directories),
    checkMemory(host),
    checkSupply(host),
    ...configured.map((exporter) => checkController(exporter, { env })),
  ]);
  const unheard = silent.map((text) => findingsOf("software").warning(text, "look at the agent's own log"));
  return { findings: inOrder([...findings, ...unheard, ...checks.flat()]), tree };
}

async function clockState(): Promise<ClockState | undefined> {
  try {
    return (await loadClockState())();
  } catch {
    // Native code cannot be loaded, which is a finding of its own, or a sandbox forbids the question.
    return undefined;
  }
}
