// Writes docs/metrics.md from what an agent declares. usage: npm run docs
import { writeFileSync } from "node:fs";
import { pathToFileURL } from "node:url";
import { createMetrics } from "../agent/ops/metrics/agent-metrics.ts";
import type { Declared } from "../agent/ops/metrics/registry.ts";
import { markdownTable } from "./markdown.ts";

/** What an agent tells, by name. */
export function declaredMetrics(): Declared[] {
  const metrics = createMetrics("", () => []);
  metrics.close();
  return [...metrics.registry.declared].sort((one, other) => (one.name < other.name ? -1 : 1));
}

export function metricsDocument(): string {
  const rows = declaredMetrics().map(({ name, kind, labels, help }) => {
    return [`\`${name}\``, kind, labels.map((label) => `\`${label}\``).join(" "), help];
  });
  return `# Metrics

What \`/metrics\` tells; [operations](operations.md) says how to ask. Labels take their values from configurations and from what
drivers declare. A name that a client makes up is counted as \`?\`, and series beyond 2000 of one name are added up as \`other\`.

This page is generated from \`agent/ops/metrics\` by \`npm run docs\`.

${markdownTable([["Name", "Kind", "Labels", "What"], ...rows])}
`;
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? "").href) writeFileSync("docs/metrics.md", metricsDocument());
