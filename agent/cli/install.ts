import { existsSync } from "node:fs";
import { join, resolve } from "node:path";
import { AgentError } from "../driver/errors.ts";
import { findProgram, runProgram } from "../sys/program.ts";
import { defineCommand } from "./command.ts";
import { copyAll, filesBeside, programFolder, readInstalled, type Place } from "./install/copy.ts";
import { ownProgram } from "./install/program.ts";

const conf = "jumpstarter-agent.conf";
export const mainUnit = "jumpstarter-agent.service";
/** A service manager's own tools; a start waits for the agent to be ready. */
const toolLimitMs = 180_000;

export const placeOptions = {
  root: { type: "string", value: "DIR", help: "the root of an image, instead of this system" },
  prefix: {
    type: "string",
    value: "DIR",
    choices: ["/usr", "/usr/local"],
    help: "where programs and units go (/usr/local)",
  },
  "dry-run": { type: "boolean", help: "print what would be done, and do nothing" },
} as const;

/** One thing that is done, and how it is told. */
export interface Step {
  readonly text: string;
  run(): Promise<unknown>;
}

export const install = defineCommand({
  name: "install",
  summary: "Install this agent as a service, where there is no package for it: program, units, users, rules.",
  options: placeOptions,
  notes: `
Copies the built program from where it lies, with the Node that runs it if that is in nobody's reach otherwise, makes the
users jumpstarter and jumpstarter-boot, and enables jumpstarter-agent.service. Done again it is an upgrade: configurations
and state stay, and an agent that serves a lease is the new one when that has ended. Needs systemd and root.

Examples:
  jmp-agent install --dry-run
  jmp-agent install
  jmp-agent install --root /mnt/image --prefix /usr`,

  async run({ root, prefix, "dry-run": dry }) {
    const place = placeOf(root, prefix);
    checkSystem(place, dry === true);
    const own = ownProgram();
    const before = await readInstalled(place);
    const live = place.root === "/";
    const foreign = join(place.root, programFolder({ prefix: "/usr" }), "dist");
    if (place.prefix !== "/usr" && existsSync(foreign)) {
      throw new AgentError("E_USAGE", `the package is installed there already: ${foreign}`, {
        hint: "apt remove jumpstarter-agent, or upgrade by the package",
      });
    }

    // One of a home directory cannot be seen by a service, and the image may have none.
    const bringNode = /^\/(home|root|tmp|var)\//.test(own.node) || !existsSync(join(place.root, own.node));
    const target = join(place.root, programFolder(place));
    const copied = `copy ${own.folder} to ${target}${bringNode ? `, with ${own.node}` : ""}`;
    const written = [...(await filesBeside(own, place)).keys()].map((path) => `write ${join(place.root, path)}`);
    const steps: Step[] = [
      { text: [copied, ...written].join("\n"), run: () => copyAll(own, place, { bringNode, before }) },
      tool(place, "systemd-sysusers", conf),
      tool(place, "systemd-tmpfiles", "--create", conf),
      tool(place, "systemctl", "enable", mainUnit),
      ...(live ? takeOver(place, before !== undefined) : []),
    ];
    await doAll(steps, dry === true);
    return 0;
  },
});

/** What a running system is told. @param upgrade whether an agent may run that is to be the new one */
function takeOver(place: Place, upgrade: boolean): Step[] {
  const units = [mainUnit, "jumpstarter-agent@*.service"];
  const rules = ["usb", "tty", "hidraw", "gpio", "i2c-dev"].map((name) => `--subsystem-match=${name}`);
  return [
    tool(place, "systemctl", "daemon-reload"),
    optional(tool(place, "udevadm", "control", "--reload")),
    optional(tool(place, "udevadm", "trigger", "--action=change", ...rules)),
    optional(tool(place, "systemctl", "restart", "systemd-modules-load.service")),
    // SIGHUP ends an agent when its leases have ended, and its unit starts the new one.
    ...(upgrade ? [optional(tool(place, "systemctl", "kill", "--kill-whom=main", "--signal=HUP", ...units))] : []),
    // Does nothing to one that runs.
    tool(place, "systemctl", "start", mainUnit),
  ];
}

/** Other prefixes would be none that systemd looks into. */
export function placeOf(root = "/", prefix = "/usr/local"): Place {
  return { root: resolve(root), prefix };
}

/** @throws AgentError E_UNSUPPORTED where there is no systemd; E_USAGE without root */
export function checkSystem({ root }: Place, dry: boolean): void {
  const has = root === "/" ? existsSync("/run/systemd/system") : hasSystemd(root);
  if (!has) {
    const where = root === "/" ? "systemd does not run here" : `there is no systemd in ${root}`;
    throw new AgentError("E_UNSUPPORTED", `${where}, and the agent is installed as its service`, {
      hint: "anywhere else: start 'jmp-agent run --all' by your own service manager",
    });
  }
  if (process.geteuid?.() !== 0 && !dry) {
    throw new AgentError("E_USAGE", "only root can do that", { hint: "sudo, or --dry-run to see what would be done" });
  }
}

function hasSystemd(root: string): boolean {
  return ["usr/lib/systemd/systemd", "lib/systemd/systemd"].some((path) => existsSync(join(root, path)));
}

/** A tool of systemd, for the system at this root. */
export function tool({ root }: Place, program: string, ...words: string[]): Step {
  const argv: [string, ...string[]] = [program, ...(root === "/" ? [] : [`--root=${root}`]), ...words];
  return {
    text: `run ${argv.join(" ")}`,
    async run() {
      if (findProgram(program) === undefined) throw new AgentError("E_UNSUPPORTED", `${program} is not installed`);
      const { signal } = new AbortController();
      const { code, stderr } = await runProgram(argv, { timeoutMs: toolLimitMs, signal });
      if (code !== 0) throw new AgentError("E_FAILED", `${argv.join(" ")}: ${stderr.trim()}`);
    },
  };
}

/** Something that may fail where it has nothing to do: without udev, without a running agent. */
export function optional(step: Step): Step {
  return { text: step.text, run: () => step.run().catch(() => {}) };
}

export async function doAll(steps: readonly Step[], dry: boolean): Promise<void> {
  for (const step of steps) {
    process.stdout.write(`${step.text}\n`);
    if (!dry) await step.run();
  }
}
