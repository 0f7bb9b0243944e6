import * as z from "zod";
import { boolean, int, number } from "../../agent/driver/lax.ts";
import { lineOfPin } from "./pins.ts";

/** Where a line is, and how it is wired. */
interface LineConfig {
  readonly device?: number | string | null | undefined;
  readonly line: number | string;
  readonly active_low: boolean;
  readonly bias: z.output<typeof bias>;
}

/** A line is known by where it is on its chip, or by the name that the board's device tree gives it. */
const line = z.union([int(0, 65_535), z.string().trim().min(1)]);
const device = z.union([int(0, 65_535), z.string().trim().min(1)]).nullish();

function oneOf<const T extends readonly [string, ...string[]]>(what: string, values: T) {
  return z.enum(values, {
    error: ({ input }) => `Invalid ${what}: ${String(input)}, must be one of: ${values.join(", ")}`,
  });
}

const orDefault = <T extends z.ZodType, D>(schema: T, value: D) =>
  schema.nullish().transform((given) => given ?? value);

const drive = orDefault(oneOf("drive", ["open_drain", "push_pull", "open_source"]), "push_pull" as const);
const bias = orDefault(oneOf("bias", ["as_is", "pull_up", "pull_down", "disabled"]), "as_is" as const);
const words = new Map<unknown, boolean>([
  ...(["active", "on", true] as const).map((word) => [word, true] as const),
  ...(["inactive", "off", false, null] as const).map((word) => [word, false] as const),
]);
/** True for active. */
const level = z
  .unknown()
  .refine((given) => words.has(given), {
    error: ({ input }) =>
      `Invalid initial_value: ${String(input)}, must be one of: inactive, active, on, off, True, False`,
  })
  .transform((given) => words.get(given) === true);

/** Keys that lines of all kinds have. */
const wiring = {
  active_low: boolean().default(false).describe("the line is active when its voltage is low"),
  bias: bias.describe("the pull resistor: as_is, pull_up, pull_down or disabled"),
};
const place = {
  line: line.describe("where the line is on its chip, or its name; with a name the chip may be left out"),
  device: device.describe("the chip by path, name (gpiochip0), number or label; default /dev/gpiochip0"),
};
const forOutput = {
  drive: drive.describe("push_pull, open_drain or open_source"),
  keep: boolean()
    .default(false)
    .describe("a lease that begins leaves the line as it is, instead of setting initial_value"),
};
const forInput = {
  debounce_ms: number().pipe(z.number().min(0).max(60_000)).default(0).describe("edges closer than this are one"),
};

export const outputConfig = z.strictObject({
  ...place,
  ...wiring,
  ...forOutput,
  initial_value: level.prefault("inactive").describe("set when a lease begins: active (on) or inactive (off)"),
});
export const powerConfig = outputConfig.extend({
  mode: z.unknown().optional().describe("ignored, as by the Python exporter"),
});
export const inputConfig = z.strictObject({
  ...place,
  ...wiring,
  ...forInput,
  drive: drive.describe("means nothing for an input; taken as the Python exporter does"),
});

const pin = z.union([int(0, 999), z.string().trim().min(1)]).transform((given, context) => {
  const found = lineOfPin(given);
  if (found !== undefined) return found;
  const message = `is no GPIO pin: ${given}; forms are 17, GPIO17, BOARD11, J8:11 and WPI0`;
  context.issues.push({ code: "custom", message, input: given });
  return z.NEVER;
});
const pinKeys = {
  pin: pin.describe("17, GPIO17, BOARD11, J8:11, WPI0"),
  device: device.describe("the chip, if it is not the one of the header"),
  old_client: boolean().default(false).describe("for clients that still have jumpstarter-driver-raspberrypi"),
  ...wiring,
};
/** The older package: pins have no initial value unless one is given. */
export const pinOutputConfig = z.strictObject({
  ...pinKeys,
  ...forOutput,
  open_drain: boolean().optional().describe("the same as drive: open_drain"),
  initial_value: level.optional().describe("set when a lease begins; left alone without"),
});
export const pinPowerConfig = pinOutputConfig.extend({
  mode: z.unknown().optional().describe("ignored, as by the Python exporter"),
});
export const pinInputConfig = z.strictObject({ ...pinKeys, ...forInput, drive });

/** Without an initial value, a lease leaves the line alone. */
export type OutputConfig = LineConfig & {
  readonly drive: z.output<typeof drive>;
  readonly keep: boolean;
  readonly initial_value?: boolean | undefined;
};
export type InputConfig = LineConfig & { readonly debounce_ms: number };
