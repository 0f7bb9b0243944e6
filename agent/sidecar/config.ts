import * as z from "zod";
import type { Carried } from "../driver/carried-entries.ts";
import { isDriverEntry, isProxyEntry, type Entry } from "../driver/entry.ts";

/** Whether a type could be a Python class: what nobody here knows, and looks like this, goes to a side-car. */
export const className = /^[A-Za-z_]\w*(\.[A-Za-z_]\w*)+$/;

/** What a configuration says of a side-car. */
export const sideCarConfig = z.strictObject({
  type: z
    .string()
    .regex(className, "must be the import path of a Python class")
    .describe("import path of the driver's Python class"),
  config: z
    .record(z.string(), z.unknown())
    .nullish()
    .transform((config) => config ?? {})
    .describe("the driver's own config"),
  python: z.string().min(1).optional().describe("the Python to run it, or the directory of its virtual environment"),
});
/** The driver's entry, taken apart, with all that is configured below it. */
export type SideCarConfig = z.output<typeof sideCarConfig> & Carried;

/** The entry as the Python exporter reads it. */
export function asPython({ type, config, children, description, methodsDescription }: SideCarConfig): object {
  return pythonEntry({ type, config, children, description, methodsDescription });
}

function pythonEntry(entry: Entry): object {
  if (isProxyEntry(entry)) return { ref: entry.ref };
  const children = Object.fromEntries(
    Object.entries(entry.children ?? {}).map(([name, child]) => [name, pythonEntry(child)]),
  );
  if (!isDriverEntry(entry)) return { children };
  const { type, config = {}, description, methodsDescription = {} } = entry;
  return {
    type,
    config,
    children,
    // Releases that do not know them take no null for them.
    ...(description === undefined ? {} : { description }),
    ...(Object.keys(methodsDescription).length === 0 ? {} : { methods_description: methodsDescription }),
  };
}
