import { mkdirSync, symlinkSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import type { TestContext } from "node:test";
import type { HostRoots } from "../../agent/ops/doctor/host.ts";
import { scratch } from "./agent.ts";

/** Writes files of a machine that the doctor is to look at. Missing folders are made. @returns where they are */
export function fakeHost(t: Pick<TestContext, "after">, files: Readonly<Record<string, string>> = {}): FakeHost {
  const root = scratch(t);
  const place = (path: string) => {
    mkdirSync(dirname(join(root, path)), { recursive: true });
    return join(root, path);
  };
  const host: FakeHost = {
    root,
    ...{ sys: join(root, "sys"), proc: join(root, "proc"), dev: join(root, "dev"), etc: join(root, "etc") },
    ...{ lib: join(root, "lib"), run: join(root, "run") },
    write(path, text) {
      writeFileSync(place(path), text);
    },
    link(path, target) {
      symlinkSync(join(root, target), place(path));
    },
  };
  for (const [path, text] of Object.entries(files)) host.write(path, text);
  return host;
}

export interface FakeHost extends HostRoots {
  readonly root: string;
  /** @param path below the root: `proc/meminfo` */
  write(path: string, text: string): void;
  /** A link from one path below the root to another. */
  link(path: string, target: string): void;
}

export interface FakeUsbDevice {
  /** `usb1`, `1-1`, `1-1.2`; hubs come before what hangs on them. */
  readonly path: string;
  /** `0403:6001` */
  readonly id: string;
  readonly product?: string;
  readonly serial?: string;
  readonly deviceNumber?: number;
  /** Folders below the device, as of its nodes: `1-1:1.0/ttyUSB0/tty/ttyUSB0`. */
  readonly below?: readonly string[];
}

/** Plugs in USB devices, as /sys shows them. */
export function plugUsb(host: FakeHost, devices: readonly FakeUsbDevice[]): void {
  const folders = new Map<string, string>();
  for (const { path, id, product, serial, deviceNumber = 7, below = [] } of devices) {
    const above = path.includes(".") ? path.replace(/\.\d+$/, "") : path.replace(/^(\d+)-.*/, "usb$1");
    const folder = join(folders.get(above) ?? "sys/devices/pci0000:00", path);
    folders.set(path, folder);
    const [idVendor = "", idProduct = ""] = id.split(":");
    const numbers = { bcdDevice: "0100", bDeviceClass: "00", busnum: "1", devnum: String(deviceNumber) };
    for (const [name, text] of Object.entries({ idVendor, idProduct, ...numbers, product, serial })) {
      if (text !== undefined) host.write(join(folder, name), `${text}\n`);
    }
    for (const each of below) host.write(join(folder, each, "uevent"), "");
    host.link(join("sys/bus/usb/devices", path), folder);
  }
}
