import type { Finding } from "../driver/driver.ts";
import type { PlannedDriver } from "../driver/plan.ts";
import { toAgentError } from "../driver/errors.ts";

/** A driver that another process will run, and whether it can. */
export interface SideCarVerdict extends Finding {
  /** `export.board.power` */
  readonly path: string;
}

/** Asks for each driver below this one that another process runs whether that can be; makes nothing of it. */
export async function judgeSideCars(root: PlannedDriver): Promise<SideCarVerdict[]> {
  const drivers = new Set<PlannedDriver>();
  const collect = (driver: PlannedDriver) => {
    if (driver.driver.bridge !== undefined) drivers.add(driver);
    for (const child of driver.children.values()) collect(child);
  };
  collect(root);
  const asked = [...drivers].map(async ({ driver, config, path }) => {
    try {
      const findings = (await driver.inspect?.(config)) ?? [];
      return findings.map((finding): SideCarVerdict => ({ ...finding, path: `export.${path}` }));
    } catch (thrown) {
      return [{ ok: false, text: toAgentError(thrown).message, path: `export.${path}` }];
    }
  });
  return (await Promise.all(asked)).flat();
}
