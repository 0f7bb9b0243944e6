import { loadConfig } from "../config/load.ts";
import { findExporterConfig } from "../config/search.ts";
import { shippedDrivers } from "../driver/catalog.ts";
import { AgentError, toAgentError } from "../driver/errors.ts";
import type { Given, Options } from "./command.ts";

/** How a command is told which exporter it is about. */
export const exporterOptions = {
  exporter: {
    type: "string",
    value: "ALIAS",
    help: "the configuration of this name in the user's or the system's directory",
  },
  "exporter-config": { type: "string", value: "PATH", help: "the configuration in this file" },
} as const satisfies Options;

/** @throws AgentError E_USAGE unless exactly one of the options is given */
export function demandExporterConfig({
  exporter: alias,
  "exporter-config": path,
}: Given<typeof exporterOptions>): void {
  if (alias === undefined && path === undefined) {
    throw new AgentError("E_USAGE", "one of --exporter, --exporter-config should be specified");
  }
  if (alias !== undefined && path !== undefined) {
    throw new AgentError("E_USAGE", "only one of --exporter, --exporter-config should be specified");
  }
}

/** @throws AgentError E_USAGE unless exactly one of the options is given, else what is wrong with the file */
export async function loadExporterConfig(given: Given<typeof exporterOptions>): ReturnType<typeof loadConfig> {
  demandExporterConfig(given);
  const { exporter: alias, "exporter-config": path } = given;
  try {
    return await loadConfig(path ?? (await findExporterConfig(alias ?? "")), { catalog: shippedDrivers });
  } catch (thrown) {
    const { code, message, hint } = toAgentError(thrown);
    const lines = message.includes("\n") ? `\n${message}` : ` ${message}`;
    throw new AgentError(code, `Failed to load config:${lines}`, { cause: thrown, hint });
  }
}
