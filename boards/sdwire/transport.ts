import { setTimeout as sleep } from "node:timers/promises";
import { AgentError } from "../../agent/driver/errors.ts";
import { describeUsb, listUsbDevices, type UsbDevice } from "../../agent/sys/usb-devices.ts";
import { openUsb, type UsbHandle } from "../../agent/sys/usbfs.ts";
import { pinsRequest, selectRequest, sideOf, type CardSide } from "./protocol.ts";

const transferTimeoutMs = 5_000;
const moveLimitMs = 1_000;
const lookEveryMs = 50;

async function withUsb<T>(device: UsbDevice, use: (usb: UsbHandle) => Promise<T>): Promise<T> {
  const usb = await openUsb(device);
  try {
    return await use(usb);
  } finally {
    await usb.close();
  }
}

/** Looks until the card is where it should be. @throws AgentError E_IO */
async function untilMoved(
  device: UsbDevice,
  side: CardSide,
  look: () => Promise<CardSide | undefined>,
  hint: string,
): Promise<void> {
  const deadlineMs = performance.now() + moveLimitMs;
  for (;;) {
    const now = await look();
    if (now === side) return;
    if (performance.now() >= deadlineMs) {
      const answer = now === undefined ? "it does not tell where the card is" : `the card is still at the ${now}`;
      throw new AgentError("E_IO", `${describeUsb(device)} did not switch to the ${side}: ${answer}`, { hint });
    }
    await sleep(lookEveryMs);
  }
}

/** SDWire: sets the pin and reads it back. */
export async function switchPin(device: UsbDevice, side: CardSide): Promise<void> {
  await withUsb(device, async (usb) => {
    await usb.controlOut(selectRequest(side), new Uint8Array(0), transferTimeoutMs);
    await untilMoved(
      device,
      side,
      async () => sideOf(await usb.controlIn(pinsRequest, 1, transferTimeoutMs)),
      "CBUS0 must be a GPIO in the EEPROM of the chip, otherwise it takes the request and nothing moves",
    );
  });
}

/** SDWire, without changing anything. @returns undefined for no sensible answer */
export function pinSide(device: UsbDevice): Promise<CardSide | undefined> {
  return withUsb(device, async (usb) => sideOf(await usb.controlIn(pinsRequest, 1, transferTimeoutMs)));
}

/** The interface of the reader. */
const storageInterface = 0;

/** SDWire3: the reader's firmware gives the card to the board while no driver has its interface. */
export function driverSide(device: UsbDevice): CardSide | undefined {
  const found = device.interfaces.find(({ number }) => number === storageInterface);
  if (found === undefined) return undefined;
  return found.driver === undefined ? "dut" : "host";
}

/** SDWire3: takes the kernel's driver off the reader or gives it back, and has the reader notice by a reset. */
export async function switchDriver(device: UsbDevice, side: CardSide, sysRoot?: string): Promise<void> {
  await withUsb(device, async (usb) => {
    if (side === "host") await usb.attachDriver(storageInterface);
    else await usb.detachDriver(storageInterface);
    await usb.reset();
  });
  const look = async () => {
    const now = (await listUsbDevices(sysRoot)).find(({ path }) => path === device.path);
    return now === undefined ? undefined : driverSide(now);
  };
  await untilMoved(device, side, look, "the kernel needs the module usb-storage for the reader");
}
