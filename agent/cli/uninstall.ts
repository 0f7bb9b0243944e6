import { rm } from "node:fs/promises";
import { join } from "node:path";
import { AgentError } from "../driver/errors.ts";
import { defineCommand } from "./command.ts";
import { checkSystem, doAll, mainUnit, optional, placeOf, placeOptions, tool, type Step } from "./install.ts";
import { programFolder, readInstalled, removeAll } from "./install/copy.ts";

const units = [mainUnit, "jumpstarter-agent-boot.service"];
const state = ["/var/lib/jumpstarter-agent", "/var/lib/jumpstarter-agent-boot", "/var/cache/jumpstarter-agent"];

export const uninstall = defineCommand({
  name: "uninstall",
  summary: "Remove what 'jmp-agent install' has installed.",
  options: {
    ...placeOptions,
    purge: { type: "boolean", help: "also what the agent has kept: receipts, console records, cached bundles" },
  },
  notes: `
Stops the services. Configurations in /etc/jumpstarter and the users stay.`,

  async run({ root, prefix, "dry-run": dry, purge }) {
    const place = placeOf(root, prefix);
    checkSystem(place, dry === true);
    const installed = await readInstalled(place);
    if (installed === undefined) {
      throw new AgentError("E_IO", `nothing is installed in ${join(place.root, programFolder(place))}`);
    }
    const live = place.root === "/";
    const steps: Step[] = [
      ...(live ? [optional(tool(place, "systemctl", "stop", "jumpstarter-agent@*.service", ...units))] : []),
      optional(tool(place, "systemctl", "disable", ...units)),
      {
        text: `remove ${join(place.root, programFolder(place))} and ${installed.files.length} files beside it`,
        run: () => removeAll(place, installed),
      },
      ...(live ? [tool(place, "systemctl", "daemon-reload")] : []),
      ...(purge === true ? state : []).map((path) => ({
        text: `remove ${join(place.root, path)}`,
        run: () => rm(join(place.root, path), { recursive: true, force: true }),
      })),
    ];
    await doAll(steps, dry === true);
    return 0;
  },
});
