import * as z from "zod";
import type { OpenContext } from "../../agent/driver/driver.ts";
import * as lax from "../../agent/driver/lax.ts";
import { RenodeMachine } from "./machine.ts";

/** One line that goes to the monitor as it is. */
// eslint-disable-next-line no-control-regex -- a line break would begin another command
const line = z.string().regex(/^[^\u0000-\u001f\u007f]+$/, "must be one line");

/** `config:` of a Renode machine. */
export const renodeConfig = z.strictObject({
  platform: line.describe("platform description: a file, or the name of one that Renode has"),
  uart: z
    .string()
    .regex(/^[\w.-]+$/, "must be the path of a peripheral")
    .default("sysbus.uart0")
    .describe("its console"),
  machine_name: z
    .string()
    .regex(/^[\w.-]+$/, "must be letters, digits, _ . and -")
    .default("machine-0"),
  monitor_port: lax.int(0, 65_535).prefault(0).describe("TCP port of Renode's monitor; 0: a free one"),
  extra_commands: z.array(line).default([]).describe("monitor commands after the platform is loaded"),
  allow_raw_monitor: lax.boolean().prefault(false).describe("let clients send any command to the monitor"),
  load_address: z
    .string()
    .regex(/^0[xX][0-9a-fA-F]+$/, "must be hexadecimal, as text: '0x08000000'")
    .nullish()
    .describe("where a firmware goes that is no ELF file"),
  start_timeout_seconds: lax
    .number()
    .pipe(z.number().positive().max(600))
    .prefault(30)
    .describe("how long Renode may take until its monitor answers"),
});
export type RenodeConfig = z.output<typeof renodeConfig>;

/** Of the drivers that it brings along: its own, and which machine they belong to. */
export const partConfig = renodeConfig.extend({ machine: z.string() });

/** The machine that the parts share. */
export function machineOf(context: OpenContext<RenodeConfig>, path: string): RenodeMachine {
  return context.shared(`renode ${path}`, () => new RenodeMachine(context.config, context.log));
}
