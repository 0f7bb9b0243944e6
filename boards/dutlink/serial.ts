import { defineDriver } from "../../agent/driver/driver.ts";
import { DeviceOffline, toAgentError } from "../../agent/driver/errors.ts";
import { usbId, type UsbDevice } from "../../agent/sys/usb-devices.ts";
import * as lax from "../../agent/driver/lax.ts";
import { Turns } from "../power/turns.ts";
import pySerial from "../serial/driver.ts";
import { serialPort } from "../serial/interface.ts";
import { sharedPort } from "../serial/open.ts";
import { findUsb, inspectUsb } from "../usb/find.ts";
import { boardConfig, consoleOf, searchOf, storageKeys } from "./board.ts";
import { enterConsole, watchWrites } from "./console-mode.ts";
import { ModeWatch } from "./protocol.ts";

/** Found anew at each opening, and the same text for the same board, to which what is recorded of it belongs. */
function consoleUrl({ vendorId, productId, path }: UsbDevice, serial: string | null | undefined): string {
  const query = new URLSearchParams(typeof serial === "string" ? { serial } : { path });
  return `usb://${usbId(vendorId, productId)}?${query.toString()}`;
}

/** What is known of a board's console, as long as the board stays plugged in. */
interface KnownMode {
  deviceNumber: number;
  watch: ModeWatch;
}

export default defineDriver({
  types: ["jumpstarter_driver_dutlink.driver.DutlinkSerial"],
  summary: "Console of a DUTLink board.",
  implements: serialPort,
  hotPlugged: true,
  config: pySerial.config.omit({ url: true }).extend({
    ...boardConfig,
    ...storageKeys,
    enter_console: lax
      .boolean()
      .prefault(true)
      .describe("lead clients past the board's own shell to the device under test"),
  }),
  needs: () => ({ rights: ["tty:ttyACM", "tty:ttyUSB"] }),
  inspect: (config) => inspectUsb(searchOf(config), consoleOf),
  async open(context) {
    const { serial, path, timeout_s: _timeout, enter_console, ...line } = context.config;
    for (const key of Object.keys(storageKeys) as (keyof typeof storageKeys)[]) delete line[key];
    const search = searchOf({ serial, path });
    const { device } = await findUsb(search);
    await consoleOf(device);
    const url = consoleUrl(device, serial);
    const port = sharedPort(url, context);
    const tty = await pySerial.open({ ...context, config: { ...line, url } });
    const { connect } = tty.methods;
    if (typeof connect !== "function") return tty;

    // The mode outlives our opening of the port and even this process; it ends with the board's power, and then it gets a new number.
    const known = context.sharedOnHost<KnownMode>(`dutlink console ${device.path}`, () => ({
      deviceNumber: device.deviceNumber,
      watch: new ModeWatch(),
    }));
    if (known.deviceNumber !== device.deviceNumber) {
      known.deviceNumber = device.deviceNumber;
      known.watch = new ModeWatch();
    }
    const { watch } = known;
    const turns = new Turns();
    const settings = { baudRate: line.baudrate, disableHupcl: line.disable_hupcl };

    /** Only where it may be needed, as the escape reaches the device under test, and never under the hands of another client. */
    const leadToDevice = async (signal: AbortSignal) => {
      if (!enter_console || watch.mode === "console" || port.clients > 0) return;
      try {
        const own = await port.attach(settings, undefined, signal);
        try {
          await enterConsole(own, signal);
          watch.mode = "console";
        } finally {
          own.destroy();
        }
      } catch (error) {
        if (signal.aborted || error instanceof DeviceOffline) throw error;
        context.log.warn(`${url} may lead to the shell of the DUTLink board: ${toAgentError(error).message}`);
      }
    };

    // What is written down is what the device says, also before the first client comes.
    if (line.record !== undefined) void turns.take(context.signal, () => leadToDevice(context.signal)).catch(() => {});

    return {
      ...tty,
      methods: {
        ...tty.methods,
        connect: (call) =>
          turns.take(call.signal, async () => {
            await leadToDevice(call.signal);
            const stream = await connect(call);
            watchWrites(stream, (bytes) => watch.wrote(bytes));
            return stream;
          }),
      },
      async check() {
        const now = (await findUsb(search)).device;
        await consoleOf(now);
        if (now.deviceNumber === device.deviceNumber) return;
        throw new DeviceOffline(`the dutlink board with serial ${device.serial ?? "unknown"} was plugged in anew`);
      },
    };
  },
});
