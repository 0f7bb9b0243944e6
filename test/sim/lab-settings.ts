import { checkExporterConfig } from "../../agent/config/schema.ts";
import { controllerSettings, type ControllerSettings } from "../../agent/controller/settings.ts";
import type { Lab } from "./controller/controller.ts";

/** How an exporter of a lab reaches its controller. @param more for the top level of its configuration */
export function labSettings(lab: Lab, exporter: string, more: Record<string, unknown> = {}): ControllerSettings {
  const { config, problems } = checkExporterConfig(lab.exporterConfig(exporter, {}, more), {});
  if (config === undefined) throw new Error(JSON.stringify(problems));
  return controllerSettings(config, {});
}
