import { exposedToken } from "../../config/credentials.ts";
import { describeProblem, inspectConfig } from "../../config/load.ts";
import type { ExporterConfig } from "../../config/schema.ts";
import type { Catalog } from "../../driver/catalog.ts";
import type { HostNeeds } from "../../driver/driver.ts";
import { toAgentError } from "../../driver/errors.ts";
import { planTree, type PlannedDriver } from "../../driver/plan.ts";
import { findingsOf, type DoctorFinding } from "./finding.ts";

/** A configuration that an agent would take. */
export interface Configured {
  readonly file: string;
  readonly config: ExporterConfig;
  /** All its drivers, each once. */
  readonly drivers: readonly PlannedDriver[];
}

/** How findings name a driver: `bench: power`. */
export function driverName({ config }: Pick<Configured, "config">, { path }: Pick<PlannedDriver, "path">): string {
  return `${config.metadata.name}: ${path}`;
}

/** What a driver needs of the host. One that cannot say so says why when it is inspected. */
export function needsOf({ driver, config }: PlannedDriver): HostNeeds {
  try {
    return driver.needs?.(config) ?? {};
  } catch {
    return {};
  }
}

/** Reads configurations as an agent would. Those that it would refuse are problems, and nothing else is known of them. */
export async function readConfigurations(
  files: readonly string[],
  catalog: Catalog,
  env: NodeJS.ProcessEnv,
): Promise<{ configured: Configured[]; findings: DoctorFinding[] }> {
  const { ok, warning, problem } = findingsOf("configuration");
  const configured: Configured[] = [];
  const findings: DoctorFinding[] = [];
  for (const file of files) {
    try {
      const { config, problems, warnings } = await inspectConfig(file, { catalog, env });
      findings.push(...problems.map((one) => problem(describeProblem(file, one))));
      findings.push(...warnings.map((one) => warning(describeProblem(file, one))));
      if (config === undefined) continue;
      const planned = await planTree({ children: config.export }, catalog);
      if ("problems" in planned) continue;
      configured.push({ file, config, drivers: allOf(planned.root) });
      findings.push(ok(`${file}: exporter ${config.metadata.name}`));
      const exposed = config.token ? await exposedToken(file) : undefined;
      if (exposed !== undefined) findings.push(warning(exposed.text, exposed.hint));
    } catch (thrown) {
      findings.push(problem(`${file}: ${toAgentError(thrown).message}`));
    }
  }
  return { configured, findings };
}

function allOf(root: PlannedDriver): PlannedDriver[] {
  const found = new Set<PlannedDriver>();
  const add = (driver: PlannedDriver): void => {
    if (found.has(driver)) return;
    found.add(driver);
    for (const child of driver.children.values()) add(child);
  };
  add(root);
  return [...found];
}
