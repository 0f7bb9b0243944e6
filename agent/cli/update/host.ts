import { join } from "node:path";
import { findRunningSystem } from "../../../appliance/slots/system.ts";
import type { ExporterNow } from "../../../appliance/update/exporters.ts";
import type { UpdatedHost } from "../../../appliance/update/host.ts";
import type { LeaseRule } from "../../../appliance/update/leases.ts";
import { UpdateRecords } from "../../../appliance/update/records.ts";
import { AgentError } from "../../driver/errors.ts";
import { LogBus } from "../../driver/log.ts";
import { askAgents, statusAnswer } from "../../host/control-client.ts";
import { stateDirectory } from "../../sys/state-directory.ts";
import type { Given, Options } from "../command.ts";
import { lastWords, runProgram } from "../../sys/program.ts";

export const restartOptions = {
  "during-lease": { type: "boolean", help: "also while an exporter is leased; the new start ends the lease" },
  "when-free": { type: "boolean", help: "wait until no exporter is leased" },
  "no-reboot": { type: "boolean", help: "leave the new start of the host to somebody else" },
} as const satisfies Options;

/** @throws AgentError E_USAGE */
export function leaseRule(given: Given<typeof restartOptions>): LeaseRule {
  if (given["during-lease"] && given["when-free"]) {
    throw new AgentError("E_USAGE", "--during-lease and --when-free contradict each other");
  }
  return given["during-lease"] ? "ignore" : given["when-free"] ? "wait" : "refuse";
}

/** This host, whose system is updated; what is done is told on stderr. @throws AgentError E_UNSUPPORTED on hosts without the image */
export async function thisHost(): Promise<UpdatedHost> {
  const logs = new LogBus();
  logs.subscribe(({ severity, message }) => {
    if (severity !== "DEBUG")
      process.stderr.write(`${severity === "INFO" ? "" : `${severity.toLowerCase()}: `}${message}\n`);
  });
  return {
    system: await findRunningSystem(),
    records: new UpdateRecords(join(stateDirectory(), "updates")),
    askExporters,
    log: logs.logger({ source: "system", logger: "update" }),
  };
}

async function askExporters(): Promise<ExporterNow[]> {
  const answers = await askAgents("status", {});
  return answers.flatMap(({ pid, answer, error }) => {
    if (error === undefined) return statusAnswer.parse(answer).map((exporter) => ({ pid, ...exporter }));
    throw new AgentError(error.code, `agent ${pid} does not say what it does: ${error.message}`, { cause: error });
  });
}

/** @throws AgentError E_IO */
export async function restartHost(signal: AbortSignal): Promise<void> {
  process.stdout.write("the host is started again\n");
  const { code, stderr } = await runProgram(["systemctl", "reboot"], { signal, timeoutMs: 30_000 });
  if (code !== 0) throw new AgentError("E_IO", `the host does not start again${lastWords(stderr, ": ")}`);
}

/** @throws AgentError E_USAGE */
export function readSeconds(name: string, text: string): number {
  const seconds = Number(text);
  if (/^\d{1,6}$/.test(text) && seconds > 0) return seconds;
  throw new AgentError("E_USAGE", `--${name} must be a whole number of seconds, not ${text}`);
}
