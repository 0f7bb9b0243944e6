/** Real device models of QEMU that come and go while the guest runs. */
import { readFileSync, readdirSync, truncateSync, writeFileSync } from "node:fs";
import type { TestContext } from "node:test";
import { listUsbDevices, nodesBelow } from "../../../../agent/sys/usb-devices.ts";
import { folderOnHost, qmp } from "./host.ts";
import { modprobe, waitFor } from "./system.ts";

let lastName = 0;

/** A USB serial adapter (FTDI 0403:6001) with a board at its other end. */
export interface SerialAdapter {
  /** The port of the board, a device that can be opened once: `/dev/vport1p2`. What is written there comes out at the adapter. */
  readonly board: string;
  readonly serial: string;
  /** Pulls the adapter out of its port, and plugs it in again: the tty has gone, or is there, when it is done. */
  unplug(): Promise<void>;
  /** @returns the tty: `/dev/ttyUSB0` */
  plug(): Promise<string>;
}

/** @returns an adapter that is not plugged in yet */
export async function serialAdapter(t: Pick<TestContext, "after">, serial = "SIM0001"): Promise<SerialAdapter> {
  await modprobe("xhci_pci");
  await modprobe("ftdi_sio");
  const name = `serial${process.pid}-${++lastName}`;
  const addr = { type: "unix", data: { path: `${folderOnHost}/${name}` } };
  const socket = (server: boolean) => ({
    type: "socket",
    data: server ? { addr, server, wait: false } : { addr, server },
  });
  await qmp("chardev-add", { id: `${name}-board`, backend: socket(true) });
  await qmp("device_add", {
    driver: "virtserialport",
    bus: "ports.0",
    id: `${name}-port`,
    chardev: `${name}-board`,
    name,
  });
  const port = await waitFor("the board's port", () => nameOf("/sys/class/virtio-ports", name));
  let isIn = false;
  const tty = () => usbNode(serial, "tty");
  const unplug = async () => {
    if (!isIn) return;
    isIn = false;
    await qmp("device_del", { id: `${name}-usb` });
    await qmp("chardev-remove", { id: `${name}-usb` });
    await waitFor("the adapter has gone", async () => (await tty()) === undefined);
  };
  t.after(async () => {
    await unplug();
    await qmp("device_del", { id: `${name}-port` });
    await qmp("chardev-remove", { id: `${name}-board` });
  });
  return {
    board: `/dev/${port}`,
    serial,
    unplug,
    async plug() {
      await qmp("chardev-add", { id: `${name}-usb`, backend: socket(false) });
      await qmp("device_add", {
        driver: "usb-serial",
        bus: "usb.0",
        id: `${name}-usb`,
        chardev: `${name}-usb`,
        serial,
      });
      isIn = true;
      return `/dev/${await waitFor("the adapter's tty", tty)}`;
    },
  };
}

/** A USB stick that is not plugged in yet. */
export async function usbStick(
  t: Pick<TestContext, "after">,
  { serial = "STICK0001", sizeBytes = 16 * 2 ** 20 } = {},
): Promise<{ plug(): Promise<string>; unplug(): Promise<void> }> {
  await modprobe("xhci_pci");
  await modprobe("usb_storage");
  await modprobe("sd_mod");
  const name = `stick${process.pid}-${++lastName}`;
  await addDisk(name, sizeBytes);
  let isIn = false;
  const disk = () => usbNode(serial, "block");
  const unplug = async () => {
    if (!isIn) return;
    isIn = false;
    await qmp("device_del", { id: name });
    await waitFor("the stick has gone", async () => (await disk()) === undefined);
  };
  t.after(async () => {
    await unplug();
    await qmp("blockdev-del", { "node-name": name });
  });
  return {
    unplug,
    async plug() {
      await qmp("device_add", { driver: "usb-storage", bus: "usb.0", id: name, drive: name, serial, removable: true });
      isIn = true;
      return `/dev/${await waitFor("the stick's disk", disk)}`;
    },
  };
}

/** An SD card for the machine's only slot, not inserted yet. Its size must be a power of two. */
export async function sdCard(
  t: Pick<TestContext, "after">,
  sizeBytes = 16 * 2 ** 20,
): Promise<{ insert(): Promise<string>; remove(): Promise<void> }> {
  await modprobe("sdhci_pci");
  await modprobe("mmc_block");
  const name = `card${process.pid}-${++lastName}`;
  makeFile(name, sizeBytes);
  const disk = () => readdirSync("/sys/block").find((one) => one.startsWith("mmcblk"));
  const remove = async () => {
    await qmp("eject", { device: "card", force: true });
    await waitFor("the card has gone", () => disk() === undefined);
  };
  t.after(remove);
  return {
    remove,
    async insert() {
      await qmp("blockdev-change-medium", { device: "card", filename: `${folderOnHost}/${name}`, format: "raw" });
      return `/dev/${await waitFor("the card's disk", disk)}`;
    },
  };
}

async function addDisk(name: string, sizeBytes: number): Promise<void> {
  makeFile(name, sizeBytes);
  const file = { driver: "file", filename: `${folderOnHost}/${name}` };
  await qmp("blockdev-add", { driver: "raw", "node-name": name, file });
}

function makeFile(name: string, sizeBytes: number): void {
  writeFileSync(`/run/vm/${name}`, "");
  truncateSync(`/run/vm/${name}`, sizeBytes);
}

/** Entry of a folder in sysfs whose attribute `name` is this. */
function nameOf(folder: string, name: string): string | undefined {
  return readdirSync(folder).find((entry) => readFileSync(`${folder}/${entry}/name`, "utf8").trim() === name);
}

/** The first device node that hangs on the USB device with this serial number. */
async function usbNode(serial: string, kind: "tty" | "block"): Promise<string | undefined> {
  const device = (await listUsbDevices()).find((one) => one.serial === serial);
  return device === undefined ? undefined : (await nodesBelow(device, kind))[0];
}
