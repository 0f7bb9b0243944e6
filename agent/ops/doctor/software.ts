import { access, constants } from "node:fs/promises";
import { delimiter, join } from "node:path";
import { toAgentError } from "../../driver/errors.ts";
import { loadKoffi } from "../../sys/native.ts";
import { driverName, needsOf, type Configured } from "./configured.ts";
import type { NamedNode } from "./devices.ts";
import { findingsOf, type DoctorFinding } from "./finding.ts";
import type { HostRoots } from "./host.ts";

/** What the agent runs on: Node, its native package, programs that drivers start, udev where its links are configured. */
export async function checkSoftware(
  configured: readonly Configured[],
  nodes: readonly NamedNode[],
  host: HostRoots,
  env: NodeJS.ProcessEnv,
): Promise<DoctorFinding[]> {
  const { ok, warning, problem } = findingsOf("software");
  const findings: DoctorFinding[] = [
    isSupported(process.versions.node)
      ? ok(`Node ${process.versions.node}`)
      : problem(`Node ${process.versions.node} is not supported`, "install Node 20.19, 22.13, 24 or a newer one"),
  ];
  try {
    await loadKoffi();
    findings.push(ok("koffi can be loaded: serial ports, GPIO, CAN and USB work"));
  } catch (thrown) {
    const { message, hint } = toAgentError(thrown);
    findings.push(problem(message, hint));
  }
  const programs = new Map<string, string[]>();
  for (const exporter of configured) {
    for (const driver of exporter.drivers) {
      for (const program of needsOf(driver).programs ?? []) {
        programs.set(program, [...(programs.get(program) ?? []), driverName(exporter, driver)]);
      }
    }
  }
  for (const [program, drivers] of programs) {
    if (await isInstalled(program, env)) findings.push(ok(`${drivers.join(", ")}: ${program} is installed`));
    else findings.push(problem(`${drivers.join(", ")}: the program ${program} is not installed`, `install ${program}`));
  }
  const links = nodes.filter(({ path }) => /^\/dev\/(serial|disk)\/by-|^\/dev\/usb-sd-mux\//.test(path));
  const udevRuns = await isThere(join(host.run, "udev"));
  if (links.length > 0 && !udevRuns) {
    const who = [...new Set(links.map(({ driver }) => driver))].join(", ");
    const hint = "run udev (Debian: udev, without systemd: eudev), or name the node itself";
    findings.push(warning(`${who}: names a link that udev makes, and udev does not run`, hint));
  }
  return findings;
}

/** package.json says the same to npm. */
function isSupported(version: string): boolean {
  const [major = 0, minor = 0] = version.split(".").map(Number);
  return major >= 24 || (major === 22 && minor >= 13) || (major === 20 && minor >= 19);
}

/** Those of the administrator need not be on our PATH. */
async function isInstalled(program: string, env: NodeJS.ProcessEnv): Promise<boolean> {
  const directories = [...(env["PATH"] ?? "").split(delimiter).filter(Boolean), "/usr/sbin", "/sbin"];
  for (const directory of directories) if (await isThere(join(directory, program), constants.X_OK)) return true;
  return false;
}

async function isThere(path: string, mode?: number): Promise<boolean> {
  return await access(path, mode).then(
    () => true,
    () => false,
  );
}
