import { access } from "node:fs/promises";
import { toAgentError } from "../../driver/errors.ts";
import type { Finding } from "../../driver/driver.ts";
import type { PlannedDriver } from "../../driver/plan.ts";
import { driverName, type Configured } from "./configured.ts";
import { findingsOf, type DoctorFinding } from "./finding.ts";

/** A driver that a running agent says is offline. */
export interface OfflineDriver {
  /** Name of the exporter. */
  readonly exporter: string;
  /** Its dotted path. */
  readonly driver: string;
  readonly reason: string;
}

/** A path below /dev, and who wants it. */
export interface NamedNode {
  readonly path: string;
  /** `bench: power` */
  readonly driver: string;
}

const look = "see that the device is plugged in, has power, and is the one that the configuration names";

/** A driver that asks something that does not answer must not hold up the others. */
const inspectLimitMs = 15_000;

/** What each configured driver matches now, and the nodes that it wants. */
export async function inspectDevices(
  configured: readonly Configured[],
  offline: readonly OfflineDriver[],
): Promise<{ findings: DoctorFinding[]; nodes: NamedNode[] }> {
  const { ok, problem } = findingsOf("devices");
  const looked = await Promise.all(
    configured.flatMap((exporter) =>
      exporter.drivers.map(async (driver) => {
        const name = driverName(exporter, driver);
        const named = nodesIn(driver.config);
        const found = (await inspect(driver)) ?? (await Promise.all(named.map(isThere)));
        const findings = found.map(({ ok: isOk, text, hint }) =>
          isOk ? ok(`${name}: ${text}`, hint) : problem(`${name}: ${text}`, hint ?? look),
        );
        // What the agent says counts where the driver itself sees nothing wrong.
        if (found.every((finding) => finding.ok)) {
          for (const { reason } of offline.filter((one) => isAbout(one, exporter, driver))) {
            findings.push(problem(`${name}: is offline in the running agent: ${reason}`));
          }
        }
        const paths = new Set([...named, ...found.flatMap(({ nodes = [] }) => nodes)]);
        return { findings, nodes: [...paths].map((path): NamedNode => ({ path, driver: name })) };
      }),
    ),
  );
  return { findings: looked.flatMap(({ findings }) => findings), nodes: looked.flatMap(({ nodes }) => nodes) };
}

function isAbout(offline: OfflineDriver, { config }: Configured, { path }: PlannedDriver): boolean {
  return offline.exporter === config.metadata.name && offline.driver === path;
}

/** @returns undefined if the driver does not tell. Whatever it throws is a finding: it would be offline, too. */
async function inspect({ driver, config }: PlannedDriver): Promise<readonly Finding[] | undefined> {
  if (driver.inspect === undefined) return undefined;
  let late: NodeJS.Timeout | undefined;
  try {
    const limit = new Promise<readonly Finding[]>((resolve) => {
      const text = `its device says nothing within ${inspectLimitMs / 1_000} s`;
      late = setTimeout(() => resolve([{ ok: false, text }]), inspectLimitMs);
    });
    return await Promise.race([(async () => await driver.inspect?.(config))(), limit]);
  } catch (thrown) {
    const { message, hint } = toAgentError(thrown);
    return [{ ok: false, text: message, ...(hint === undefined ? {} : { hint }) }];
  } finally {
    clearTimeout(late);
  }
}

async function isThere(path: string): Promise<Finding> {
  try {
    await access(path);
    return { ok: true, text: `${path} is there` };
  } catch {
    return { ok: false, text: `${path} is not there` };
  }
}

/** Everything in a driver's configuration that is the path of a device. Patterns are not. */
function nodesIn(value: unknown): string[] {
  if (typeof value === "string") return /^\/dev\/[^*?[\]]+$/.test(value) ? [value] : [];
  if (typeof value !== "object" || value === null) return [];
  return Object.values(value).flatMap(nodesIn);
}
