import { readFile } from "node:fs/promises";
import { release } from "node:os";
import { join } from "node:path";
import { entriesOf } from "../../sys/sysfs.ts";
import { driverName, needsOf, type Configured } from "./configured.ts";
import { findingsOf, type DoctorFinding } from "./finding.ts";
import type { HostRoots } from "./host.ts";

/**
 * The kernel loads a socket's protocol when the first program asks for it, udev the driver of a USB device that is plugged in, and the
 * iSCSI driver the kernel's target.
 */
const loadedOnDemand = new Set([
  ...["can", "can_raw", "can_bcm", "can_isotp", "usb_storage", "usbhid"],
  ...["target_core_mod", "target_core_file", "target_core_iblock", "iscsi_target_mod"],
]);

/** Whether the kernel has what configured drivers need. @param kernel as uname tells it */
export async function checkModules(
  configured: readonly Configured[],
  host: HostRoots,
  kernel = release(),
): Promise<DoctorFinding[]> {
  const { ok, warning, problem } = findingsOf("modules");
  const needed = new Map<string, string[]>();
  for (const exporter of configured) {
    for (const driver of exporter.drivers) {
      for (const module of needsOf(driver).modules ?? []) {
        const name = module.replaceAll("-", "_");
        needed.set(name, [...(needed.get(name) ?? []), driverName(exporter, driver)]);
      }
    }
  }
  if (needed.size === 0) return [];
  const loaded = new Set([...(await entriesOf(host.sys, "module")), ...(await listed(join(host.proc, "modules")))]);
  const directory = join(host.lib, "modules", kernel);
  const builtIn = await listed(join(directory, "modules.builtin"));
  const available = await listed(join(directory, "modules.dep"));
  return [...needed].map(([name, drivers]) => {
    const who = drivers.join(", ");
    if (loaded.has(name) || builtIn.has(name)) return ok(`${who}: the kernel has ${name}`);
    if (available.has(name)) {
      if (loadedOnDemand.has(name)) return ok(`${who}: the kernel loads ${name} when it is needed`);
      const always = `echo ${name} | sudo tee /etc/modules-load.d/jumpstarter-${name}.conf`;
      return problem(
        `${who}: the kernel module ${name} is not loaded`,
        `sudo modprobe ${name}; at each start: ${always}`,
      );
    }
    if (available.size > 0) {
      const hint = `install the package with the kernel's further modules, or a kernel that has ${name}`;
      return problem(`${who}: the kernel ${kernel} has no module ${name}`, hint);
    }
    // In a container the modules of the host's kernel are not to be seen.
    return warning(`${who}: needs the kernel module ${name}, and there is no list of modules in ${directory}`);
  });
}

/** Module names at the beginning of the lines of a list: as names (`/proc/modules`) or as files (`modules.dep`). */
async function listed(file: string): Promise<Set<string>> {
  const lines = (await readFile(file, "utf8").catch(() => "")).split("\n");
  return new Set(
    lines.flatMap((line) => {
      const name = /^(?:\S*\/)?([\w-]+?)(?:\.ko(?:\.\w+)?)?(?:[\s:]|$)/.exec(line)?.[1];
      return name === undefined ? [] : [name.replaceAll("-", "_")];
    }),
  );
}
