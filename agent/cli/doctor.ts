import { shippedDrivers } from "../driver/catalog.ts";
import { toAgentError } from "../driver/errors.ts";
import { askAgents, statusAnswer } from "../host/control-client.ts";
import { leaseParentDirectory } from "../host/lease-directories.ts";
import type { OfflineDriver } from "../ops/doctor/devices.ts";
import { examine, type Examination } from "../ops/doctor/examine.ts";
import { firstToFix, type DoctorFinding } from "../ops/doctor/finding.ts";
import type { PluggedIn } from "../ops/doctor/plugged-in.ts";
import { defineCommand } from "./command.ts";
import { configFiles } from "./config-files.ts";

/** An agent that is stuck is no reason to wait for it. */
const agentLimitMs = 2_000;

/** A name that is still being resolved keeps the process for as long as the name servers want. */
const lingerMs = 200;

export const doctor = defineCommand({
  name: "doctor",
  summary: "Look for what keeps exporters from working, and tell what to fix first. Changes nothing.",
  words: { usage: "[CONFIG...]", least: 0, most: Infinity },
  options: {
    json: { type: "boolean", help: "print one object: ok, first (what to fix first, or null), findings, tree" },
  },
  notes: `
CONFIG is a configuration file or the alias of one. Default: all in the user's and the system's directory.

Shows what is plugged in, what each configured driver matches, devices that this user may not open, kernel modules,
programs, ports that others hold, clock, disk, memory, supply, and whether the controller lets the exporter in.
Run it as the user of the agent; it works beside a running agent and without one.

Exit code 1 if there is a problem; warnings do not count.`,

  async run({ json }, words) {
    const files = await configFiles(words);
    const { agents, offline, silent } = await askRunningAgents();
    const { findings, tree } = await examine({
      ...{ files, catalog: shippedDrivers, env: process.env, agents, offline, silent },
      directories: [{ path: leaseParentDirectory(process.env), use: "leases" }],
    });
    const first = firstToFix(findings);
    if (json) {
      const answer = { ok: first === undefined, first: first ?? null, findings, tree };
      process.stdout.write(`${JSON.stringify(answer, undefined, 2)}\n`);
    } else process.stdout.write(asText({ findings, tree }, { first, files }));
    setTimeout(() => process.exit(), lingerMs).unref();
    return first === undefined ? 0 : 1;
  },
});

async function askRunningAgents(): Promise<{ agents: number[]; offline: OfflineDriver[]; silent: string[] }> {
  const answers = await askAgents("status", {}, { limitMs: agentLimitMs });
  const offline: OfflineDriver[] = [];
  const silent: string[] = [];
  for (const { pid, answer, error } of answers) {
    try {
      if (error !== undefined) throw error;
      for (const status of statusAnswer.parse(answer)) {
        offline.push(...status.offline.map((one) => ({ exporter: status.exporter, ...one })));
      }
    } catch (thrown) {
      silent.push(`the running agent ${pid} does not say how it is: ${toAgentError(thrown).message}`);
    }
  }
  return { agents: answers.map(({ pid }) => pid), offline, silent };
}

function asText(
  { findings, tree }: Examination,
  { first, files }: { first: DoctorFinding | undefined; files: readonly string[] },
): string {
  const lines: string[] = [];
  for (const { what, below } of tree) {
    lines.push(what);
    for (const device of below) lines.push(...treeLines(device, 1));
  }
  if (tree.length === 0) lines.push("Nothing is plugged in: no USB, GPIO, I2C, CAN or SD card.");
  if (files.length === 0) lines.push("", "There is no configuration to look at.");
  let area: string | undefined;
  for (const finding of findings) {
    if (finding.area !== area) lines.push("", finding.area);
    area = finding.area;
    lines.push(`  ${finding.level.padEnd("problem".length)}  ${finding.text}`);
    if (finding.hint !== undefined && finding.level !== "ok") lines.push(`           ${finding.hint}`);
  }
  const count = (level: string) => findings.filter((finding) => finding.level === level).length;
  const [problems, warnings] = [count("problem"), count("warning")];
  lines.push("", `${plural(problems, "problem")}, ${plural(warnings, "warning")}.`);
  if (first !== undefined) {
    lines.push("", `Fix first: ${first.text}`);
    if (first.hint !== undefined) lines.push(`           ${first.hint}`);
  }
  return `${lines.join("\n")}\n`;
}

function plural(count: number, noun: string): string {
  return `${count === 0 ? "no" : count} ${noun}${count === 1 ? "" : "s"}`;
}

function treeLines({ what, at, nodes, below }: PluggedIn, depth: number): string[] {
  const where = at === undefined ? "" : `${at}  `;
  const reached = nodes.length === 0 ? "" : `  ${nodes.join(" ")}`;
  return [`${"  ".repeat(depth)}${where}${what}${reached}`, ...below.flatMap((device) => treeLines(device, depth + 1))];
}
