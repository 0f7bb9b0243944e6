import type * as z from "zod";
import type { portStatus } from "./interface.ts";
import { describePort, usbPortAt } from "./find.ts";
import { devicePath, isLocal } from "./open.ts";
import type { SerialPort } from "./port.ts";
import type { RecorderState } from "./record/recorder.ts";

/** What `status` answers. */
export async function statusOf(
  port: SerialPort,
  { url, baudrate, recorder }: { url: string; baudrate: number; recorder: RecorderState | undefined },
): Promise<z.input<typeof portStatus>> {
  const device = isLocal(url) ? await devicePath(url).catch(() => null) : null;
  const usb = device === null ? undefined : await usbPortAt(device);
  const { receivedBytes, sentBytes, droppedBytes } = port.counts;
  return {
    port: url,
    device,
    usb: usb === undefined ? null : describePort(usb),
    baudrate,
    open: port.isOpen,
    clients: port.clients,
    received_bytes: receivedBytes,
    sent_bytes: sentBytes,
    dropped_bytes: droppedBytes,
    line_errors: port.lineErrors() ?? null,
    record:
      recorder === undefined
        ? null
        : {
            state: recorder.state,
            directory: recorder.folder ?? null,
            problem: recorder.problem ?? null,
            boots: [...recorder.boots],
          },
  };
}
