import { constants } from "node:fs";
import { access, readFile, realpath, stat } from "node:fs/promises";
import { basename, join } from "node:path";
import { isSystemError } from "../../driver/errors.ts";
import { listUsbDevices, nodesBelow, type NodeKind, type UsbDevice } from "../../sys/usb-devices.ts";
import type { NamedNode } from "./devices.ts";
import { findingsOf, type DoctorFinding } from "./finding.ts";
import type { HostRoots } from "./host.ts";

/** Whether this user may open the nodes that are there. */
export async function checkPermissions(nodes: readonly NamedNode[], host: HostRoots): Promise<DoctorFinding[]> {
  const { ok, problem } = findingsOf("permissions");
  const findings: DoctorFinding[] = [];
  let usable = 0;
  for (const { path, drivers } of byPath(nodes)) {
    try {
      await access(path, constants.R_OK | constants.W_OK);
      usable += 1;
    } catch (error) {
      if (!isSystemError(error) || (error.code !== "EACCES" && error.code !== "EPERM")) continue;
      const { text, hint } = await explain(path, host);
      findings.push(problem(`${drivers.join(", ")}: ${text}`, hint));
    }
  }
  if (usable > 0) findings.push(ok(`${usable} of the devices that are configured can be opened`));
  return findings;
}

function byPath(nodes: readonly NamedNode[]): { path: string; drivers: string[] }[] {
  const paths = new Map<string, string[]>();
  for (const { path, driver } of nodes) paths.set(path, [...(paths.get(path) ?? []), driver]);
  return [...paths].map(([path, drivers]) => ({ path, drivers: [...new Set(drivers)] }));
}

/** Owner and mode of a node, and the groups of those who want it. */
export interface NodeAccess {
  readonly owner: string;
  readonly group: string;
  /** As stat tells it. */
  readonly mode: number;
  readonly user: string;
  /** The group file says that the user is in the group. */
  readonly isMember: boolean;
  /** What a udev rule matches this device by; undefined where that is not known. */
  readonly match: string | undefined;
}

const groupMay = 0o060;

async function explain(path: string, host: HostRoots): Promise<{ text: string; hint: string }> {
  const [{ uid, gid, mode }, groups, users] = await Promise.all([
    stat(path),
    accounts(join(host.etc, "group")),
    accounts(join(host.etc, "passwd")),
  ]);
  const me = process.geteuid?.();
  // In a container a user often is a number only.
  const user = users.find(({ id }) => id === me)?.name ?? `user ${me}`;
  const group = groups.find(({ id }) => id === gid);
  return describeAccess(path, {
    owner: users.find(({ id }) => id === uid)?.name ?? String(uid),
    group: group?.name ?? String(gid),
    mode,
    user,
    isMember: group?.members.includes(user) ?? false,
    match: await udevMatch(path, host),
  });
}

/** What to say about a node that this user cannot open. */
export function describeAccess(path: string, node: NodeAccess): { text: string; hint: string } {
  const { owner, group, mode, user, isMember, match } = node;
  const octal = (mode & 0o7777).toString(8).padStart(4, "0");
  const text = `${user} may not open ${path}, which belongs to ${owner}:${group} with mode ${octal}`;
  if ((mode & groupMay) === groupMay && group !== "root") {
    if (isMember) return { text, hint: `${user} is in the group ${group} since the last login only: log in again` };
    return { text, hint: `sudo usermod -aG ${group} ${user}, then log in again (a service: restart it)` };
  }
  const rule = `${match ?? `KERNEL=="${basename(path)}"`}, MODE="0660", GROUP="plugdev"`;
  const file = "/etc/udev/rules.d/60-jumpstarter.rules";
  const member = `and ${user} in the group plugdev`;
  return { text, hint: `a udev rule: ${rule} in ${file}; then udevadm control --reload, udevadm trigger, ${member}` };
}

interface Account {
  readonly name: string;
  readonly id: number;
  readonly members: readonly string[];
}

/** group(5) and passwd(5) have name and number in the same place; only the former has members in the fourth. */
async function accounts(file: string): Promise<Account[]> {
  const lines = (await readFile(file, "utf8").catch(() => "")).split("\n");
  return lines.map((line) => {
    const [name = "", , id, members = ""] = line.split(":");
    return { name, id: Number(id), members: members.split(",") };
  });
}

const nodeKinds: readonly NodeKind[] = ["tty", "hidraw", "block", "scsi_generic", "usbmisc", "i2c-dev", "gpio"];

async function udevMatch(path: string, { sys }: HostRoots): Promise<string | undefined> {
  const node = await realpath(path).catch(() => path);
  const devices = await listUsbDevices(sys);
  const ids = (device: UsbDevice, attributes: "ATTR" | "ATTRS") => {
    const hex = (value: number) => value.toString(16).padStart(4, "0");
    const { vendorId, productId } = device;
    return `${attributes}{idVendor}=="${hex(vendorId)}", ${attributes}{idProduct}=="${hex(productId)}"`;
  };
  const [, bus, number] = /\/bus\/usb\/(\d+)\/(\d+)$/.exec(node) ?? [];
  if (bus !== undefined) {
    const device = devices.find((one) => one.busNumber === Number(bus) && one.deviceNumber === Number(number));
    return device && `SUBSYSTEM=="usb", ${ids(device, "ATTR")}`;
  }
  for (const device of devices) {
    for (const kind of nodeKinds) {
      if ((await nodesBelow(device, kind)).includes(basename(node))) {
        return `SUBSYSTEM=="${kind}", ${ids(device, "ATTRS")}`;
      }
    }
  }
  return undefined;
}
