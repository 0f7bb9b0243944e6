import * as z from "zod";
import type { OpenContext } from "../../agent/driver/driver.ts";
import { AgentError, DeviceOffline, isSystemError } from "../../agent/driver/errors.ts";
import * as lax from "../../agent/driver/lax.ts";
import { describeUsb, nodesBelow, type UsbDevice } from "../../agent/sys/usb-devices.ts";
import { openUsb, usbNode, type UsbHandle } from "../../agent/sys/usbfs.ts";
import { Turns } from "../power/turns.ts";
import { findUsb, type Search } from "../usb/find.ts";
import type { Fingerprint } from "../usb/match.ts";
import { controlInterface, productId, vendorId } from "./protocol.ts";

/** Keys of all drivers of the board. */
export const boardConfig = {
  serial: z.string().nullish().describe("serial number of the DUTLink board; needed when there are several"),
  path: z.string().nullish().describe("where the board is plugged in, as in /sys/bus/usb/devices: 1-1.2"),
  timeout_s: lax
    .number()
    .pipe(z.number().positive().max(3_600))
    .prefault(20)
    .describe("seconds that the board may take to answer: it does not while a power sequence runs"),
};

/** Keys that the Python driver takes everywhere and uses for the storage alone. */
export const storageKeys = {
  storage_timeout: z.unknown().optional(),
  storage_leeway: z.unknown().optional(),
  storage_fsync_timeout: z.unknown().optional(),
};

export interface BoardSettings {
  readonly serial?: string | null | undefined;
  readonly path?: string | null | undefined;
  readonly timeout_s: number;
}

/** While it waits for new firmware it has the same ids, and cannot do anything. */
export const prints: readonly Fingerprint[] = [{ name: "DUTLink", vendorId, productId, product: /^(?!.*DFU)/i }];

export const searchOf = ({ serial, path }: Pick<BoardSettings, "serial" | "path">): Search => ({
  what: "dutlink",
  prints,
  wanted: { serial, path },
});

/** @returns number of the interface that takes requests. @throws DeviceOffline if there is none */
export function controlInterfaceOf(device: UsbDevice): number {
  const found = device.interfaces.find(
    ({ class: kind, subclass, protocol }) =>
      kind === controlInterface.class &&
      subclass === controlInterface.subclass &&
      protocol === controlInterface.protocol,
  );
  if (found !== undefined) return found.number;
  throw new DeviceOffline(`${describeUsb(device)} has no control interface (class ff/01/01)`);
}

/** What is opened for the board's requests. @throws as `controlInterfaceOf` */
export async function controlNodeOf(device: UsbDevice): Promise<string> {
  controlInterfaceOf(device);
  return usbNode(device);
}

/** Path of the board's console. @throws DeviceOffline if there is none, or more than one */
export async function consoleOf(device: UsbDevice): Promise<string> {
  const [tty, second] = await nodesBelow(device, "tty");
  const which = `for the dutlink board with serial ${device.serial ?? "unknown"}, at ${device.path}`;
  if (tty === undefined) throw new DeviceOffline(`no console found ${which}`);
  if (second !== undefined) throw new DeviceOffline(`multiple console found ${which}: ${tty} and ${second}`);
  return `/dev/${tty}`;
}

/** The board as its drivers use it. */
export interface Board {
  /** Runs one exchange with the board, alone; it is found anew, as it may have been plugged in elsewhere since. */
  exchange<T>(signal: AbortSignal, step: (requests: Requests) => Promise<T>): Promise<T>;
  /** @returns where it is plugged in. @throws DeviceOffline if it is not there */
  check(): Promise<string>;
}

export interface Requests extends Pick<UsbHandle, "controlIn" | "controlOut"> {
  readonly interfaceNumber: number;
  readonly timeoutMs: number;
  /** The board, for logs and errors. */
  readonly name: string;
}

export function boardOf(settings: BoardSettings, context: Pick<OpenContext<unknown>, "sharedOnHost">): Board {
  const search = searchOf(settings);
  return {
    async check() {
      const { device } = await findUsb(search);
      controlInterfaceOf(device);
      return device.path;
    },
    async exchange(signal, step) {
      const { device } = await findUsb(search);
      const interfaceNumber = controlInterfaceOf(device);
      const turns = context.sharedOnHost(`dutlink ${device.path}`, () => new Turns());
      return turns.take(signal, async () => {
        const handle = await openUsb(device);
        try {
          const timeoutMs = settings.timeout_s * 1_000;
          return await step({
            interfaceNumber,
            timeoutMs,
            name: describeUsb(device),
            controlIn: (...request) => handle.controlIn(...request),
            controlOut: (...request) => handle.controlOut(...request),
          });
        } catch (error) {
          throw explain(error, describeUsb(device), settings.timeout_s);
        } finally {
          await handle.close();
        }
      });
    },
  };
}

function explain(error: unknown, name: string, timeoutS: number): unknown {
  if (!isSystemError(error)) return error;
  if (error.code === "ETIMEDOUT") {
    return new AgentError("E_TIMEOUT", `${name} has not answered for ${timeoutS} s`, { cause: error });
  }
  // A stall.
  if (error.code === "EPIPE") return new AgentError("E_IO", `${name} refuses the request`, { cause: error });
  return error;
}
