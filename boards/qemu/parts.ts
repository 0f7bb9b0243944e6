import * as z from "zod";
import type { OpenContext } from "../../agent/driver/driver.ts";
import { qemuConfig } from "./config.ts";
import { assertCanRun, QemuMachine } from "./machine.ts";

/** Config of the drivers that a Qemu brings along: its own, and which one they belong to. */
export const partConfig = z.strictObject({ machine: z.string(), config: qemuConfig });
type PartConfig = z.output<typeof partConfig>;

/** The machine that the parts share. @throws DeviceOffline if QEMU is not installed */
export function machineOf(
  context: Pick<OpenContext<unknown>, "log" | "shared">,
  { machine, config }: PartConfig,
): QemuMachine {
  assertCanRun(config);
  return context.shared(`qemu:${machine}`, () => new QemuMachine(config, context.log));
}
