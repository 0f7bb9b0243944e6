import { readFile, realpath, stat, writeFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { DeviceOffline, AgentError, isSystemError } from "../../agent/driver/errors.ts";
import { describeUsb, type UsbDevice } from "../../agent/sys/usb-devices.ts";
import { openUsb, type UsbHandle } from "../../agent/sys/usbfs.ts";
import {
  hasPower,
  hubClass,
  hubDescriptorRequest,
  longestHubDescriptorBytes,
  parseHubDescriptor,
  portPowerRequest,
  portStatusBytes,
  portStatusRequest,
  type HubFacts,
} from "./protocol.ts";

const timeoutMs = 5_000;

/** One port of one hub. A USB 3 hub is two hubs for the kernel, whose ports of the same number are one socket. */
export interface HubPort {
  readonly hub: UsbDevice;
  readonly port: number;
  /** Its directory in sysfs, where the kernel has one. */
  readonly sysfs: string;
}

/** Which hub a configuration means. */
export interface WantedHub {
  readonly hub?: string | null | undefined;
  readonly serial?: string | null | undefined;
}

/** @throws DeviceOffline naming the hub, with those that are there; also when several fit */
export function chooseHub(devices: readonly UsbDevice[], { hub, serial }: WantedHub): UsbDevice {
  const hubs = devices.filter(({ deviceClass }) => deviceClass === hubClass);
  const fits = hubs.filter(
    (device) =>
      (typeof hub !== "string" || device.path === hub) && (typeof serial !== "string" || device.serial === serial),
  );
  const [first, second] = fits;
  const all = (list: readonly UsbDevice[]) => list.map(describeUsb).join(" and ");
  if (first === undefined) {
    const named = [
      typeof hub === "string" ? ` at ${hub}` : "",
      typeof serial === "string" ? ` with serial ${serial}` : "",
    ];
    const there = hubs.length === 0 ? "no hub" : all(hubs);
    throw new DeviceOffline(`failed to find USB hub${named.join("")}; there is ${there}`);
  }
  if (second !== undefined) throw new DeviceOffline(`found multiple USB hubs; specify a hub: ${all(fits)}`);
  return first;
}

/** The port and, where the kernel knows it, the same socket as a port of the other half of a USB 3 hub. */
export async function halvesOf(devices: readonly UsbDevice[], hub: UsbDevice, port: number): Promise<HubPort[]> {
  const own: HubPort = { hub, port, sysfs: portFolder(hub, port) };
  const peer = await realpath(join(own.sysfs, "peer")).catch(() => undefined);
  const [, path, number] = /^(.+)-port(\d+)$/.exec(basename(peer ?? "")) ?? [];
  const other = devices.find((device) => device.path === path);
  return other === undefined || peer === undefined ? [own] : [own, { hub: other, port: Number(number), sysfs: peer }];
}

function portFolder({ sysfs, path, busNumber }: UsbDevice, port: number): string {
  // The interface of a root hub is called after its bus alone.
  const hubInterface = path.startsWith("usb") ? `${busNumber}-0:1.0` : `${path}:1.0`;
  return join(sysfs, hubInterface, `${path}-port${port}`);
}

/** What a hub says of itself. @throws as `openUsb`; AgentError E_IO if it says nothing */
export async function factsOf(hub: UsbDevice): Promise<HubFacts> {
  return withHub(hub, async (handle) => {
    const request = hubDescriptorRequest(await isSuperSpeed(hub));
    const facts = parseHubDescriptor(await handle.controlIn(request, longestHubDescriptorBytes, timeoutMs));
    if (facts === undefined) throw new AgentError("E_IO", `${describeUsb(hub)} does not say what kind of hub it is`);
    return facts;
  });
}

/** Switches the power of a port; the kernel keeps it so where it can (Linux 6.0), and forgets the device first. */
export async function switchPort({ hub, port, sysfs }: HubPort, on: boolean): Promise<void> {
  const attribute = join(sysfs, "disable");
  if (await exists(attribute)) {
    await writeFile(attribute, on ? "0" : "1").catch((error: unknown) => {
      throw explain(error, hub, attribute);
    });
  } else {
    await withHub(hub, (handle) => handle.controlOut(portPowerRequest(port, on), new Uint8Array(0), timeoutMs));
  }
}

/** What the hub says of the port now. */
export async function isOn({ hub, port, sysfs }: HubPort): Promise<boolean> {
  const attribute = join(sysfs, "disable");
  if (await exists(attribute)) {
    const disabled = await readFile(attribute, "latin1").catch((error: unknown) => {
      throw explain(error, hub, attribute);
    });
    return disabled.trim() === "0";
  }
  return withHub(hub, async (handle) => {
    const status = await handle.controlIn(portStatusRequest(port), portStatusBytes, timeoutMs);
    const on = hasPower(status, await isSuperSpeed(hub));
    if (on === undefined) throw new AgentError("E_IO", `${describeUsb(hub)} does not tell the state of port ${port}`);
    return on;
  });
}

async function withHub<T>(hub: UsbDevice, step: (handle: UsbHandle) => Promise<T>): Promise<T> {
  const handle = await openUsb(hub);
  try {
    return await step(handle);
  } finally {
    await handle.close();
  }
}

/** bcdUSB as text: ` 3.20`. */
async function isSuperSpeed({ sysfs }: UsbDevice): Promise<boolean> {
  return Number.parseFloat(await readFile(join(sysfs, "version"), "latin1")) >= 3;
}

const exists = (path: string) =>
  stat(path).then(
    () => true,
    () => false,
  );

function explain(error: unknown, hub: UsbDevice, attribute: string): unknown {
  if (!isSystemError(error)) return error;
  const name = describeUsb(hub);
  if (error.code === "ENOENT" || error.code === "ENODEV")
    return new DeviceOffline(`${name} has gone`, { cause: error });
  if (error.code !== "EACCES" && error.code !== "EPERM") return error;
  const hint = `let this user write ${attribute}, by a udev rule for ${name.split(" ")[0]}`;
  return new AgentError("E_IO", `${name} may not be switched by this user`, { hint, cause: error });
}
