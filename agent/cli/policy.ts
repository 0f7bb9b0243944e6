import { shippedDrivers } from "../driver/catalog.ts";
import { AgentError } from "../driver/errors.ts";
import { readConfigurations } from "../ops/doctor/configured.ts";
import { servicePolicy } from "../ops/policy.ts";
import { defineCommand } from "./command.ts";
import { configFiles } from "./config-files.ts";

export const policy = defineCommand({
  name: "policy",
  summary: "Print a drop-in for systemd that lets the service do what its drivers need, and nothing else.",
  words: { usage: "[CONFIG...]", least: 0, most: Infinity },
  options: {},
  notes: `
CONFIG is a configuration file or the alias of one. Default: all in the user's and the system's directory.

Device classes, groups, capabilities, families of sockets and folders replace those of the unit. Whatever device is
plugged in later is covered; another driver in a configuration is not, so make the drop-in again. What programs of
yours need (hooks, Shell, Python drivers), and what only root may do, is said in comments.

Example:
  jmp-agent policy > /etc/systemd/system/jumpstarter-agent.service.d/policy.conf
  systemctl daemon-reload && systemctl restart jumpstarter-agent`,

  async run(_given, words) {
    const files = await configFiles(words);
    if (files.length === 0) throw new AgentError("E_CONFIG", "there is no exporter configuration");
    const { configured, findings } = await readConfigurations(files, shippedDrivers, process.env);
    // A policy that leaves a driver out would keep it from working.
    const problems = findings.filter(({ level }) => level === "problem").map(({ text }) => text);
    if (problems.length > 0) throw new AgentError("E_CONFIG", problems.join("\n"));
    process.stdout.write(`# Made by: jmp-agent policy ${words.join(" ")}`.trim() + "\n" + servicePolicy(configured));
    return 0;
  },
});
