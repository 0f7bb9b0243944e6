import { constants } from "node:fs";
import { access } from "node:fs/promises";
import * as z from "zod";
import { defineDriver } from "../../agent/driver/driver.ts";
import { DeviceOffline, toAgentError } from "../../agent/driver/errors.ts";
import * as lax from "../../agent/driver/lax.ts";
import { serialPort } from "./interface.ts";
import { isDevicePath, lineConfig, makePacer, serialUrl, sharedPort } from "./open.ts";

export default defineDriver({
  types: ["jumpstarter_driver_pyserial.driver.PySerial"],
  summary: "A serial port: device path (also /dev/serial/by-id/…), socket://HOST:PORT or loop://.",
  implements: serialPort,
  config: z.strictObject({
    url: serialUrl.describe("device path (better by-id or by-path), socket://HOST:PORT or loop://"),
    ...lineConfig,
    check_present: lax.boolean().prefault(true).describe("be offline while the device is missing"),
    disable_hupcl: lax.boolean().prefault(false).describe("closing the port leaves DTR and RTS as they are"),
  }),
  async open(context) {
    const { url, baudrate, cps, check_present, disable_hupcl } = context.config;
    // Looked at, not opened: opening raises DTR, and registering must leave the board alone.
    if (check_present && isDevicePath(url)) {
      await access(url, constants.R_OK | constants.W_OK).catch((cause: unknown) => {
        throw new DeviceOffline(`serial port ${url} is not usable: ${toAgentError(cause).message}`, { cause });
      });
    }
    const port = sharedPort(url, context);
    const settings = { baudRate: baudrate, disableHupcl: disable_hupcl };
    const pacer = makePacer(cps);
    return {
      methods: {
        connect({ signal, log }) {
          const pace = typeof cps === "number" ? `, cps: ${cps}` : "";
          log.info(`Connecting to ${url}, baudrate: ${baudrate}${pace}`);
          return port.attach(settings, pacer, signal);
        },
        close: () => port.close(),
        set_dtr: ({ signal }, on) => port.setLine(settings, "dtr", on, signal),
        set_rts: ({ signal }, on) => port.setLine(settings, "rts", on, signal),
      },
      release: () => port.close(),
      close: () => port.close(),
    };
  },
});
