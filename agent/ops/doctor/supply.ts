import { join } from "node:path";
import { attribute, entriesOf } from "../../sys/sysfs.ts";
import { findingsOf, type DoctorFinding } from "./finding.ts";
import type { HostRoots } from "./host.ts";

/**
 * Whether a Raspberry Pi says that its supply is too weak: the kernel's raspberrypi-hwmon shows the firmware's word for
 * it, which stays for a while after the voltage is back.
 */
export async function checkSupply({ sys }: Pick<HostRoots, "sys">): Promise<DoctorFinding[]> {
  const { ok, warning } = findingsOf("supply");
  for (const name of await entriesOf(sys, "class/hwmon")) {
    const directory = join(sys, "class/hwmon", name);
    if ((await attribute(directory, "name")) !== "rpi_volt") continue;
    if ((await attribute(directory, "in0_lcrit_alarm")) !== "1") return [ok("no under-voltage")];
    const hint = "use the Pi's own supply and a short cable, and give USB devices a hub with its own";
    return [warning("under-voltage: USB devices may drop out and cards be damaged", hint)];
  }
  return [];
}
