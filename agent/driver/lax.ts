import * as z from "zod";

/**
 * Config values as people write them in YAML: the Python exporter checks few of them and converts most,
 * so `"22"` is a port and `5.0` an integer. What cannot be meant is refused.
 */

/** A number, or its decimal text. */
export function number() {
  return z.union([z.number(), z.string().trim().regex(decimal).transform(Number)], { error: "must be a number" });
}

/** A whole number within bounds (both inclusive), or its decimal text. */
export function int(least: number, most: number) {
  return number().pipe(
    z
      .int({ error: "must be a whole number" })
      .min(least, `must be at least ${least}`)
      .max(most, `must be at most ${most}`),
  );
}

/** true or false, also as text. */
export function boolean() {
  return z.union(
    [z.boolean(), z.stringbool({ truthy: ["true", "yes", "on", "1"], falsy: ["false", "no", "off", "0"] })],
    {
      error: "must be true or false",
    },
  );
}

/** A TCP or UDP port to connect to. */
export const port = () => int(1, 65_535);

const decimal = /^[+-]?\d+(\.\d*)?([eE][+-]?\d+)?$/;
