import type { DriverInstanceReport, GetReportResponse } from "../../proto/gen/jumpstarter/v1/jumpstarter.ts";
import type { BridgedReport } from "../driver/bridge.ts";
import type { LiveDriver } from "../driver/live-driver.ts";

/** What GetReport needs of an exporter. */
export interface Reported {
  readonly name: string;
  readonly uuid: string;
  readonly tree: { readonly root: LiveDriver };
}

const nameLabel = "jumpstarter.dev/name";

/** The tree as clients rebuild it: parents before children, a driver once for each of its names. */
export function report(exporter: Reported, motd = ""): GetReportResponse {
  const reports: DriverInstanceReport[] = [];
  const add = (driver: LiveDriver, name: string | undefined, parentUuid: string | undefined) => {
    const { planned, bridge } = driver;
    if (bridge !== undefined && bridge.reports.length > 0) {
      const [own, ...below] = bridge.reports as readonly [BridgedReport, ...BridgedReport[]];
      const labels = { ...own.labels, ...(name === undefined ? {} : { [nameLabel]: name }) };
      reports.push(asReport({ ...own, labels, parentUuid }), ...below.map(asReport));
      return;
    }
    const labels: Record<string, string> = {
      ...planned.labels,
      "jumpstarter.dev/client":
        bridge?.client ?? planned.driver.client?.(planned.config) ?? planned.driver.implements.client,
    };
    if (name !== undefined) labels[nameLabel] = name;
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
    labels: { [nameLabel]: exporter.name },
    reports,
    alternativeEndpoints: [],
    motd,
  };
}

function asReport(told: BridgedReport): DriverInstanceReport {
  const { uuid, parentUuid, labels, description, methodsDescription } = told;
  return { uuid, parentUuid, labels: { ...labels }, description, methodsDescription: { ...methodsDescription } };
}
