import { AgentError } from "../driver/errors.ts";

/** One entry of an exporter's report, as it comes over the wire. */
export interface DriverReport {
  readonly uuid: string;
  readonly parentUuid?: string | undefined;
  readonly labels: Readonly<Record<string, string>>;
  readonly description?: string | undefined;
  readonly methodsDescription: Readonly<Record<string, string>>;
}

/** An entry of the report with its place in the tree. A driver with two names stands in two places with one uuid. */
export interface ReportedNode {
  readonly report: DriverReport;
  readonly name: string;
  /** Dotted path from the root; empty for the root itself. */
  readonly path: string;
  readonly children: ReadonlyMap<string, ReportedNode>;
}

const nameLabel = "jumpstarter.dev/name";
export const clientLabel = "jumpstarter.dev/client";

/**
 * Builds the tree of a flat report the way every client does: an entry belongs to the latest entry
 * before it that has its parent's uuid, the last of two equal names counts, and so does the last root.
 * @throws AgentError E_FAILED for a report that is empty or names an unknown parent.
 */
export function buildTree(reports: readonly DriverReport[]): ReportedNode {
  interface Growing {
    report: DriverReport;
    name: string;
    path: string;
    children: Map<string, Growing>;
  }
  const latest = new Map<string, Growing>();
  let root: Growing | undefined;
  for (const report of reports) {
    const name = report.labels[nameLabel] ?? "";
    const node: Growing = { report, name, path: "", children: new Map() };
    if (report.parentUuid) {
      const parent = latest.get(report.parentUuid);
      if (parent === undefined) {
        throw new AgentError("E_FAILED", `broken report: ${name || report.uuid} comes before its parent`);
      }
      node.path = parent.path === "" ? name : `${parent.path}.${name}`;
      parent.children.set(name, node);
    } else {
      root = node;
    }
    latest.set(report.uuid, node);
  }
  if (root === undefined) throw new AgentError("E_FAILED", "broken report: the exporter reported no drivers");
  return root;
}
