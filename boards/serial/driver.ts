import * as z from "zod";
import { defineDriver } from "../../agent/driver/driver.ts";
import { AgentError, toAgentError } from "../../agent/driver/errors.ts";
import * as lax from "../../agent/driver/lax.ts";
import { serialPort } from "./interface.ts";
import { describePort, listUsbPorts, usbPortAt, usbUrl } from "./find.ts";
import { checkPresent, devicePath, isLocal, lineConfig, makePacer, portRights, serialUrl, sharedPort } from "./open.ts";
import { recordConfig } from "./record/config.ts";
import { logOf } from "./record/log.ts";
import { ConsoleRecorder } from "./record/recorder.ts";
import { shownConsole } from "./record/shown.ts";
import { statusOf } from "./status.ts";

export default defineDriver({
  types: ["jumpstarter_driver_pyserial.driver.PySerial"],
  summary: "A serial port: device path, usb://VID:PID?serial=…, hwgrep://REGEXP, socket://HOST:PORT or loop://.",
  implements: serialPort,
  config: z.strictObject({
    url: serialUrl.describe(
      "device path, usb://VID:PID?serial=…&path=…&interface=…, hwgrep://REGEXP, socket://HOST:PORT or loop://",
    ),
    ...lineConfig,
    check_present: lax.boolean().prefault(true).describe("be offline while the device is missing"),
    disable_hupcl: lax.boolean().prefault(false).describe("closing the port leaves DTR and RTS as they are"),
    record: recordConfig,
  }),
  hotPlugged: true,
  async inspect({ url }) {
    if (!isLocal(url)) return [];
    try {
      const path = await devicePath(url);
      await checkPresent(url);
      const port = await usbPortAt(path);
      return [{ ok: true, text: port === undefined ? `serial port ${url}` : describePort(port), nodes: [path] }];
    } catch (thrown) {
      return [{ ok: false, text: toAgentError(thrown).message }];
    }
  },
  needs: ({ url, record }) => ({
    rights: portRights(url),
    ...(record?.directory ? { directories: [record.directory] } : {}),
  }),
  async suggest() {
    const ports = await listUsbPorts();
    return ports.map((port) => ({
      name: "serial",
      entry: { type: "jumpstarter_driver_pyserial.driver.PySerial", config: { url: usbUrl(port, ports) } },
      why: describePort(port),
    }));
  },
  async open(context) {
    const { url, baudrate, cps, check_present, disable_hupcl, record } = context.config;
    const port = sharedPort(url, context);
    const settings = { baudRate: baudrate, disableHupcl: disable_hupcl };
    // It lives as long as the exporter, also while this driver is offline.
    const recorder =
      record && context.shared(`record ${url}`, () => new ConsoleRecorder(port, settings, record, context));
    await recorder?.record.ready;
    // Looked at, not opened: opening raises DTR, and registering must leave the board alone.
    const looks = check_present && isLocal(url);
    if (looks) await checkPresent(url);
    const pacer = makePacer(cps);
    return {
      methods: {
        connect({ signal, log }) {
          const pace = typeof cps === "number" ? `, cps: ${cps}` : "";
          log.info(`Connecting to ${url}, baudrate: ${baudrate}${pace}`);
          return port.attach(settings, pacer, signal);
        },
        close: () => port.hangUp(),
        set_dtr: ({ signal }, on) => port.setLine(settings, "dtr", on, signal),
        set_rts: ({ signal }, on) => port.setLine(settings, "rts", on, signal),
        send_break: ({ signal }, durationMs) => port.sendBreak(settings, durationMs, signal),
        status: () => statusOf(port, { url, baudrate, recorder: recorder?.state }),
        async *log({ signal }, request) {
          if (recorder === undefined) {
            throw new AgentError("E_UNSUPPORTED", `nothing is recorded of ${url}: its configuration says no record`);
          }
          const earliest = record?.share === true ? 0 : await recorder.leaseFrom();
          yield* logOf(recorder.record, earliest, request, signal);
        },
      },
      async check() {
        // An open port learns by itself that it is gone, and then tells its readers why.
        if (looks && !port.isOpen) await checkPresent(url);
      },
      shows: () => ({ console: shownConsole(port, recorder) }),
      release: () => port.hangUp(),
      close: () => port.hangUp(),
    };
  },
});
