import { setTimeout as sleep } from "node:timers/promises";
import type { Call, OpenContext } from "../../agent/driver/driver.ts";
import { AgentError } from "../../agent/driver/errors.ts";
import { sharedPort } from "../serial/open.ts";
import { pin, port } from "./interface.ts";

export interface BootloaderSettings {
  readonly bootloader_touch_baudrate: number;
  readonly gpio_reset_hold_seconds: number;
}

/** How a board is brought into its boot loader; undefined if nothing is wired that could do it. */
export type EnterBootloader = ((call: Call) => Promise<void>) | undefined;

/** By the pins if both are there: they work whatever runs on the board. Else by the serial port. */
export function wayIntoBootloader(context: OpenContext<BootloaderSettings>): EnterBootloader {
  const [bootsel, run, serial] = ["bootsel", "run", "serial"].map((name) => context.children.get(name));
  const { bootloader_touch_baudrate: baudRate, gpio_reset_hold_seconds: holdS } = context.config;

  if (bootsel !== undefined && run !== undefined) {
    return async ({ signal, log }) => {
      log.info("entering BOOTSEL by the pins BOOTSEL and RUN");
      // Also after a call that was cancelled: a board that is held in reset is no board.
      const [select, reset] = [bootsel.as(pin), run.as(pin)];
      const hold = (factor = 1) => sleep(holdS * factor * 1000, undefined, { signal });
      try {
        await select.on();
        await hold();
        try {
          await reset.on();
          await hold();
        } finally {
          await reset.off();
        }
        await hold(0.5);
      } finally {
        await select.off();
      }
    };
  }

  if (serial !== undefined) {
    return async ({ signal, log }) => {
      const { port: url } = await serial.as(port, { signal }).status();
      log.info(`Requesting Pico BOOTSEL over serial ${url}`);
      await sharedPort(url, context).lend(signal, async (open) => {
        const touch = await open({ baudRate, disableHupcl: false });
        touch.stream.on("error", () => {}); // it goes away while it is open: that is what was asked for
        try {
          touch.setLine("dtr", true);
          await sleep(50);
          touch.setLine("dtr", false);
          await sleep(100);
        } catch (error) {
          // A board that obeyed at once has no lines any more.
          log.debug(`${url}: ${String(error)}`);
        } finally {
          await touch.close();
        }
      });
    };
  }
  return undefined;
}

/** @throws AgentError E_UNSUPPORTED in the words of the Python driver */
export function requireWay(enter: EnterBootloader): NonNullable<EnterBootloader> {
  if (enter !== undefined) return enter;
  throw new AgentError(
    "E_UNSUPPORTED",
    "Programmatic BOOTSEL entry requires either GPIO children (bootsel + run) or a serial child driver.",
  );
}
