import { readdir } from "node:fs/promises";
import { AgentError, isSystemError } from "../../agent/driver/errors.ts";
import { describeUsb, type UsbDevice, type UsbInterface } from "../../agent/sys/usb-devices.ts";
import { openUsb, usbNode, type UsbHandle } from "../../agent/sys/usbfs.ts";
import { hidNodeOf, openHid } from "../usb/hid.ts";
import { answerTimeoutMs, reportBytes } from "./protocol.ts";

export interface Hub {
  /** Sends a report and waits for its answer. @throws AgentError E_TIMEOUT; DeviceOffline when it was unplugged */
  ask(report: Uint8Array, signal: AbortSignal): Promise<Uint8Array>;
  close(): Promise<void>;
}

/** Linux leaves the YKUSH (04d8:f2f7, ids of a bare Microchip chip) without a HID driver, while it may give one to its siblings. */
function controlOf(device: UsbDevice): { readonly interface: UsbInterface; readonly hasDriver: boolean } | undefined {
  const [first] = device.interfaces;
  return first && { interface: first, hasDriver: first.driver !== undefined };
}

/** What is opened to speak to the hub. @throws DeviceOffline if it is not there */
export async function hubNode(device: UsbDevice): Promise<string> {
  return controlOf(device)?.hasDriver === true ? hidNodeOf(device) : usbNode(device);
}

/** @throws DeviceOffline when it has gone; AgentError E_IO when it may not be used */
export async function openHub(device: UsbDevice): Promise<Hub> {
  const control = controlOf(device);
  if (control === undefined) throw new AgentError("E_IO", `${describeUsb(device)} has no interface`);
  if (!control.hasDriver) return openByUsbfs(device, control.interface);
  const hid = await openHid(device);
  return {
    async ask(report, signal) {
      hid.flush();
      await hid.write(report);
      return hid.read(answerTimeoutMs, signal);
    },
    close: () => hid.close(),
  };
}

async function openByUsbfs(device: UsbDevice, { number, sysfs }: UsbInterface): Promise<Hub> {
  const name = describeUsb(device);
  // `ep_81`: the highest bit says that it leads to the host.
  const endpoints = (await readdir(sysfs)).flatMap((entry) => {
    const address = /^ep_([0-9a-f]{2})$/.exec(entry)?.[1];
    return address === undefined ? [] : [Number.parseInt(address, 16)];
  });
  const toHub = endpoints.find((address) => address < 0x80);
  const fromHub = endpoints.find((address) => address > 0x80);
  if (toHub === undefined || fromHub === undefined) throw new AgentError("E_IO", `${name} lacks an endpoint`);
  const handle: UsbHandle = await openUsb(device);
  const explain = (error: unknown): unknown => {
    if (!isSystemError(error)) return error;
    if (error.code === "ETIMEDOUT") return new AgentError("E_TIMEOUT", `${name} did not answer`, { cause: error });
    if (error.code === "EBUSY") return new AgentError("E_IO", `another program has ${name}`, { cause: error });
    if (error.code === "EPIPE") return new AgentError("E_IO", `${name} refuses the report`, { cause: error });
    return error;
  };
  try {
    await handle.claim(number);
  } catch (error) {
    await handle.close();
    throw explain(error);
  }
  return {
    async ask(report, signal) {
      signal.throwIfAborted();
      try {
        await handle.transferOut(toHub, report, answerTimeoutMs);
        return await handle.transferIn(fromHub, reportBytes, answerTimeoutMs);
      } catch (error) {
        throw explain(error);
      }
    },
    close: () => handle.close(),
  };
}
