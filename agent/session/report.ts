import type { DriverInstanceReport, GetReportResponse } from "../../proto/gen/jumpstarter/v1/jumpstarter.ts";
import type { LiveDriver } from "../driver/live-driver.ts";

/** What GetReport needs of an exporter. */
export interface Reported {
  readonly name: string;
  readonly uuid: string;
  readonly tree: { readonly root: LiveDriver };
}

/** The tree as clients rebuild it: parents before children, a driver once for each of its names. */
export function report(exporter: Reported, motd = ""): GetReportResponse {
  const reports: DriverInstanceReport[] = [];
  const add = (driver: LiveDriver, name: string | undefined, parentUuid: string | undefined) => {
    const { planned } = driver;
    const labels: Record<string, string> = {
      ...planned.labels,
      "jumpstarter.dev/client": planned.driver.client?.(planned.config) ?? planned.driver.implements.client,
    };
    if (name !== undefined) labels["jumpstarter.dev/name"] = name;
    reports.push({
      uuid: driver.uuid,
      parentUuid,
      labels,
      description: planned.description === "" ? undefined : planned.description,
      methodsDescription: { ...driver.methodsDescription },
    });
    for (const [childName, child] of driver.children) add(child, childName, driver.uuid);
  };
  add(exporter.tree.root, undefined, undefined);
  return {
    uuid: exporter.uuid,
    labels: { "jumpstarter.dev/name": exporter.name },
    reports,
    alternativeEndpoints: [],
    motd,
  };
}
