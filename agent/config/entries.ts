import * as z from "zod";
import type { ConfigProblem, DriverEntry, Entry } from "../driver/entry.ts";
import { problemsOf, unknownKey } from "../driver/problems.ts";

/** What is wrong, and what is only worth a word. */
export interface Findings {
  readonly problems: ConfigProblem[];
  readonly warnings: ConfigProblem[];
}

type Path = ConfigProblem["path"];

const map = z.record(z.string(), z.unknown());

const driverShape = z.object({
  type: z.string().min(1, "must not be empty"),
  description: z.string().nullish(),
  methods_description: z.record(z.string(), z.string()).nullish(),
  config: map.nullish(),
  children: map.nullish(),
});

const groupShape = z.object({ children: map.nullish() });

const linkShape = z.object({ ref: z.string() });

/** Keys that the Python exporter gives to every driver from elsewhere, so that they cannot stand in `config`. */
const besideConfig = ["description", "methods_description", "children"];

const shapes = "a driver (type: …), a group (children: …) or a link (ref: …)";

/** Reads a map of driver entries; entries that are wrong are left out and told in `findings`. */
export function readEntries(
  entries: Readonly<Record<string, unknown>>,
  at: Path,
  findings: Findings,
): Record<string, Entry> {
  const read: [string, Entry][] = [];
  for (const [name, value] of Object.entries(entries)) {
    const path = [...at, name];
    const entry = readEntry(value, path, findings);
    if (name === "" || name.includes(".")) {
      findings.warnings.push({
        path,
        message: "no ref can lead to a driver whose name is empty or contains a dot",
        aboutKey: true,
      });
    }
    if (entry !== undefined) read.push([name, entry]);
  }
  return Object.fromEntries(read);
}

/**
 * One entry, its shape chosen as the Python exporter does: `type` makes a driver, else `children` a group, else
 * `ref` a link, and `{}` is an empty group. What Python would silently turn into an empty group is a problem here.
 */
function readEntry(value: unknown, at: Path, findings: Findings): Entry | undefined {
  const checked = map.safeParse(value);
  if (!checked.success) {
    findings.problems.push({ path: at, message: `must be ${shapes}` });
    return undefined;
  }
  const given = checked.data;
  if ("type" in given) return readDriver(given, at, findings);
  if ("ref" in given && "children" in given) {
    findings.problems.push({
      path: [...at, "ref"],
      message: "a group cannot also be a link, drop ref or children",
      aboutKey: true,
    });
    return undefined;
  }
  if ("ref" in given) return readShape(linkShape, given, at, findings);
  const keys = Object.keys(given);
  if (!("children" in given) && keys.length > 0) {
    const [first = ""] = keys;
    const hint = keys.map((key) => unknownKey(key, ["type", "children", "ref"])).find((text) => text.includes("mean"));
    findings.problems.push({
      path: [...at, first],
      aboutKey: true,
      message: hint ?? `nothing says what this is: it must be ${shapes}`,
    });
    return undefined;
  }
  const group = readShape(groupShape, given, at, findings, "has no effect without type");
  return group && { children: readEntries(group.children ?? {}, [...at, "children"], findings) };
}

function readDriver(given: Record<string, unknown>, at: Path, findings: Findings): DriverEntry | undefined {
  const driver = readShape(driverShape, given, at, findings);
  if (driver === undefined) return undefined;
  for (const key of besideConfig) {
    if (driver.config != null && key in driver.config) {
      findings.problems.push({
        path: [...at, "config", key],
        message: "stands beside config, not in it",
        aboutKey: true,
      });
    }
  }
  return {
    type: driver.type,
    ...(driver.description ? { description: driver.description } : {}),
    methodsDescription: driver.methods_description ?? {},
    config: driver.config ?? {},
    children: readEntries(driver.children ?? {}, [...at, "children"], findings),
  };
}

function readShape<S extends z.ZodObject>(
  shape: S,
  given: Record<string, unknown>,
  at: Path,
  { problems, warnings }: Findings,
  unknown?: string,
): z.output<S> | undefined {
  const known = Object.keys(shape.shape);
  for (const key of Object.keys(given)) {
    if (!known.includes(key)) {
      warnings.push({ path: [...at, key], message: unknown ?? unknownKey(key, known), aboutKey: true });
    }
  }
  const parsed = shape.safeParse(given);
  if (!parsed.success) problems.push(...problemsOf(parsed.error, at));
  return parsed.data;
}
