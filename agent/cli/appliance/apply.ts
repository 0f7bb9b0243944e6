import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { runProgram } from "../../sys/program.ts";
import { applyHostConfig, type Applied } from "../../../appliance/first-boot/apply.ts";
import { defineCommand } from "../command.ts";

const startLimitMs = 10_000;

export const apply = defineCommand({
  name: "appliance apply",
  summary:
    "Make this host what jumpstarter.yaml on its boot partition says. The image's systemd runs it at every start.",
  options: {
    boot: { type: "string", value: "FOLDER", help: "where the boot partition is mounted (/boot)" },
    "last-good": { type: "string", value: "FOLDER", help: "where the last good configuration is kept (/state/config)" },
    root: {
      type: "string",
      value: "FOLDER",
      help: "whose /etc is written; with another one than / nothing is started (/)",
    },
  },
  notes:
    "A file that is wrong is said on the console, and the last good one is used. Exit code 1 then, and the host works on.",

  async run({ boot = "/boot", "last-good": lastGood = "/state/config", root = "/" }) {
    const applied = await applyHostConfig({ boot, lastGood, root });
    const lines = describe(applied);
    process.stderr.write(lines.map((line) => `${line}\n`).join(""));
    // What whoever stands before its screen sees above the login.
    await mkdir(join(root, "run/issue.d"), { recursive: true });
    await writeFile(join(root, "run/issue.d/jumpstarter.issue"), [...lines, "\\4 \\6", ""].join("\n"));
    if (root === "/") await start(applied);
    return applied.problems.length === 0 ? 0 : 1;
  },
});

function describe({ hostname, source, problems }: Applied): string[] {
  const used = {
    boot: `${hostname}: configured by jumpstarter.yaml`,
    "last-good": `${hostname}: jumpstarter.yaml cannot be used, so the last good one is`,
    defaults: `${hostname}: jumpstarter.yaml cannot be used, and there was no good one yet: DHCP and no exporters`,
  };
  return [used[source], ...problems];
}

async function start({ hostname, wireless }: Applied): Promise<void> {
  await writeFile("/proc/sys/kernel/hostname", hostname);
  for (const name of wireless) {
    const words = ["systemctl", "start", "--no-block", `wpa_supplicant@${name}.service`] as const;
    await runProgram(words, { signal: AbortSignal.timeout(startLimitMs), timeoutMs: startLimitMs });
  }
}
