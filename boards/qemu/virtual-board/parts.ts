import * as z from "zod";
import type { OpenContext } from "../../../agent/driver/driver.ts";
import { virtualBoardConfig } from "./command.ts";
import { assertCanRun, VirtualMachine } from "./machine.ts";

/** Config of the drivers that a VirtualBoard brings along: its own, and which board they belong to. */
export const partConfig = virtualBoardConfig.extend({ board: z.string() });

/** The machine that the parts of one board share. @throws DeviceOffline if QEMU is not installed. */
export function virtualMachineOf(context: OpenContext<z.output<typeof partConfig>>): VirtualMachine {
  const { config, log } = context;
  assertCanRun(config);
  return context.shared(`virtual-board:${config.board}`, () => new VirtualMachine(config, log));
}
