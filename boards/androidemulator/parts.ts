import * as z from "zod";
import type { OpenContext } from "../../agent/driver/driver.ts";
import { DeviceOffline } from "../../agent/driver/errors.ts";
import * as lax from "../../agent/driver/lax.ts";
import { findProgram } from "../../agent/sys/program.ts";
import { Emulator } from "./emulator.ts";

const port = (name: string, usual: number) =>
  lax
    .number()
    .refine((port) => Number.isInteger(port) && port >= 1 && port <= 65_535, {
      error: ({ input }) => `Invalid ${name}: ${String(input)}`,
    })
    .prefault(usual);

export const emulatorConfig = z.strictObject({
  avd_name: z.string().min(1).describe("name of the Android virtual device, as `emulator -list-avds` shows it"),
  emulator_path: z.string().min(1).default("emulator").describe("the program emulator of the Android SDK"),
  headless: lax.boolean().prefault(true).describe("start without a window"),
  console_port: port("console_port", 5554).describe("TCP port of the emulator's console; the next one is its ADB port"),
  adb_server_port: port("adb_server_port", 15_037).describe("TCP port of the ADB server"),
});

/** Config of the power switch: that of its emulator, and which one it is. */
export const partConfig = emulatorConfig.extend({ emulator: z.string() });

/** The emulator that a driver and its power switch share. @throws DeviceOffline if the program is not installed */
export function emulatorOf(
  context: Pick<OpenContext<z.output<typeof emulatorConfig>>, "config" | "log" | "shared">,
  path: string,
): Emulator {
  const { config, log } = context;
  const program = findProgram(config.emulator_path);
  if (program === undefined) {
    const text =
      config.emulator_path === "emulator"
        ? "Android emulator executable not found in PATH"
        : `Android emulator executable not found: ${config.emulator_path}`;
    throw new DeviceOffline(text, { hint: "install the Android SDK's emulator, or set emulator_path" });
  }
  return context.shared(
    `android emulator ${path}`,
    () =>
      new Emulator({
        program,
        avd: config.avd_name,
        consolePort: config.console_port,
        adbPort: config.adb_server_port,
        headless: config.headless,
        log,
      }),
  );
}
