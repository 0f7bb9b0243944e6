/** What a service of systemd may do with its host so that its drivers work, and nothing else: systemd.exec(5), systemd.resource-control(5). */
import { isAbsolute } from "node:path";
import type { HostRight } from "../driver/driver.ts";
import { driverName, needsOf, type Configured } from "./doctor/configured.ts";

interface Grant {
  readonly devices?: readonly string[];
  readonly groups?: readonly string[];
  readonly capabilities?: readonly string[];
  readonly families?: readonly string[];
  readonly paths?: readonly string[];
  /** Which must be said, as no setting of the service helps. */
  readonly beyond?: string;
}

/** Device nodes have these groups by Debian's rules and those of systemd/udev. */
const grants: Readonly<Record<Exclude<HostRight, `tty:${string}`>, Grant>> = {
  usb: { devices: ["char-usb_device"], groups: ["plugdev"] },
  hid: { devices: ["char-hidraw"], groups: ["plugdev"] },
  // The kernel knows no such commands of a mux, and lets only who may send any.
  scsi: { devices: ["char-sg"], groups: ["plugdev"], capabilities: ["CAP_SYS_RAWIO"] },
  // USB disks belong to the agent's own group.
  disk: { devices: ["block-sd"] },
  gpio: { devices: ["char-gpiochip"], groups: ["gpio"] },
  i2c: { devices: ["char-i2c"], groups: ["i2c"] },
  video: { devices: ["char-video4linux"], groups: ["video"] },
  kvm: { devices: ["/dev/kvm"], groups: ["kvm"] },
  can: { families: ["AF_CAN"] },
  "can-setup": { capabilities: ["CAP_NET_ADMIN"] },
  vsock: { families: ["AF_VSOCK"] },
  network: {
    capabilities: ["CAP_NET_ADMIN", "CAP_NET_BIND_SERVICE", "CAP_NET_RAW"],
    families: ["AF_PACKET"],
    paths: ["/proc/sys/net"],
  },
  "hub-port": { paths: ["/sys/devices"] },
  mount: { beyond: "mounts volumes, which only root may: mount them on the host" },
  root: { beyond: "works as root only" },
  programs: { beyond: "runs programs that the configuration names: add what these need" },
};

function grantOf(right: HostRight): Grant {
  if (!right.startsWith("tty:")) return grants[right as keyof typeof grants];
  return { devices: [`char-${right.slice("tty:".length)}`], groups: ["dialout"] };
}

/** Every driver may talk over the network, and hears from netlink what is plugged in. */
const commonFamilies = ["AF_UNIX", "AF_INET", "AF_INET6", "AF_NETLINK"];
const firstFreePort = 1024;
/** The service has these anyway. */
const ownPaths =
  /^\/(var\/lib\/jumpstarter(-agent)?|var\/cache\/jumpstarter-agent|run\/jumpstarter-agent|tmp|var\/tmp)(\/|$)/;

/** A drop-in for jumpstarter-agent.service whose lists replace the unit's own. */
export function servicePolicy(configured: readonly Configured[]): string {
  const why = new Map<HostRight, string[]>();
  const paths = new Set<string>();
  const capabilities = new Set<string>();
  for (const exporter of configured) {
    const { beforeLease, afterLease } = exporter.config.hooks;
    if (beforeLease !== null || afterLease !== null) add(why, "programs", `${exporter.config.metadata.name}: hooks`);
    for (const driver of exporter.drivers) {
      const { rights = [], ports = [], directories = [] } = needsOf(driver);
      for (const right of rights) add(why, right, driverName(exporter, driver));
      for (const { port } of ports) if (port > 0 && port < firstFreePort) capabilities.add("CAP_NET_BIND_SERVICE");
      for (const path of directories) if (isAbsolute(path) && !ownPaths.test(path)) paths.add(path);
    }
  }
  const given = [...why.keys()].map(grantOf);
  const all = (list: "devices" | "groups" | "capabilities" | "families" | "paths") =>
    new Set(given.flatMap((grant) => grant[list] ?? []));
  for (const capability of all("capabilities")) capabilities.add(capability);
  for (const path of all("paths")) paths.add(path);
  const devices = [...all("devices")].sort();
  const granted = [...capabilities].sort().join(" ");
  return [
    ...[...why].sort().map(([right, who]) => `# ${who.join(", ")}: ${grantOf(right).beyond ?? right}`),
    "[Service]",
    ...anew("SupplementaryGroups", [[...all("groups")].sort().join(" ")]),
    ...(devices.length === 0 ? ["PrivateDevices=yes"] : []),
    ...anew(
      "DeviceAllow",
      devices.map((device) => `${device} rw`),
    ),
    ...anew("AmbientCapabilities", [granted]),
    ...anew("CapabilityBoundingSet", [granted]),
    ...anew("RestrictAddressFamilies", [[...commonFamilies, ...all("families")].join(" ")]),
    // One that is not there yet keeps no service from starting.
    ...anew(
      "ReadWritePaths",
      [...paths].sort().map((path) => `-${quoted(path)}`),
    ),
    "",
  ].join("\n");
}

function add(why: Map<HostRight, string[]>, right: HostRight, who: string): void {
  why.set(right, [...(why.get(right) ?? []), who]);
}

/** An empty assignment takes back those before it. */
function anew(key: string, values: readonly string[]): string[] {
  return [`${key}=`, ...values.filter((value) => value !== "").map((value) => `${key}=${value}`)];
}

/** As a unit file has it: a percent sign is its own. */
function quoted(path: string): string {
  const literal = path.replaceAll("%", "%%");
  return /[\s"'\\;#]/.test(literal) ? `"${literal.replace(/["\\]/g, "\\$&")}"` : literal;
}
