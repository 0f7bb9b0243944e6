import { Document, type Node, type Pair, type Scalar, type YAMLMap } from "yaml";
import type { Catalog } from "../driver/catalog.ts";
import type { AnyDriver, Suggestion } from "../driver/driver.ts";
import { isDriverEntry, isProxyEntry, type Entry } from "../driver/entry.ts";
import { AgentError, toAgentError } from "../driver/errors.ts";
import { planTree } from "../driver/plan.ts";

export interface Suggestions {
  /** Each name once. */
  readonly found: readonly Suggestion[];
  /** What went wrong with a driver's own look, a line each. */
  readonly failures: readonly string[];
}

/** A driver that asks something that does not answer must not hold up the others. */
const usualLimitMs = 10_000;

/**
 * Asks all drivers of a catalog for entries for what is plugged in. An entry that no agent would take is a failure.
 * @param limitMs how long a driver may look
 */
export async function collectSuggestions(catalog: Catalog, limitMs = usualLimitMs): Promise<Suggestions> {
  const failures: string[] = [];
  const drivers = new Map<AnyDriver, string>();
  for (const type of catalog.types()) {
    try {
      const driver = await catalog.load(type);
      // A driver has many types, and looks once.
      if (driver?.suggest !== undefined && !drivers.has(driver)) drivers.set(driver, type);
    } catch (thrown) {
      failures.push(`${type} cannot be loaded: ${toAgentError(thrown).message}`);
    }
  }
  const answers = await Promise.all(
    [...drivers].map(async ([driver, type]) => {
      try {
        return { type, suggestions: await withinLimit(async () => (await driver.suggest?.()) ?? [], limitMs) };
      } catch (thrown) {
        failures.push(`${type}: ${toAgentError(thrown).message}`);
        return { type, suggestions: [] };
      }
    }),
  );
  const found: Suggestion[] = [];
  for (const { type, suggestions } of answers) {
    for (const suggestion of suggestions) {
      const planned = await planTree({ children: { [suggestion.name]: suggestion.entry } }, catalog);
      if ("problems" in planned) {
        const [problem] = planned.problems;
        failures.push(`${type}: suggests what it would refuse: ${problem?.path.join(".")}: ${problem?.message}`);
      } else found.push({ ...suggestion, name: freeName(suggestion.name, found) });
    }
  }
  return { found, failures };
}

/** `power`, `power-2`, `power-3`. A dot would keep refs from leading there. */
function freeName(suggested: string, taken: readonly Suggestion[]): string {
  const name = suggested.replaceAll(".", "-") || "device";
  const isTaken = (candidate: string) => taken.some((other) => other.name === candidate);
  if (!isTaken(name)) return name;
  for (let number = 2; ; number += 1) if (!isTaken(`${name}-${number}`)) return `${name}-${number}`;
}

async function withinLimit<T>(work: () => Promise<T>, limitMs: number): Promise<T> {
  let late: NodeJS.Timeout | undefined;
  try {
    const limit = new Promise<never>((_, reject) => {
      const error = new AgentError("E_TIMEOUT", `finds nothing within ${limitMs / 1_000} s`);
      late = setTimeout(() => reject(error), limitMs);
    });
    return await Promise.race([work(), limit]);
  } finally {
    clearTimeout(late);
  }
}

/** An `export:` section, each entry with a comment that says what it is for. */
export function suggestionsAsYaml({ found, failures }: Suggestions): string {
  const entries = Object.fromEntries(found.map(({ name, entry }) => [name, asConfigured(entry)]));
  // Exporters read YAML 1.1, in which a plain `on` is true and a plain 12:30 is 750.
  const document = new Document({ export: entries }, { version: "1.1" });
  const section = document.get("export") as YAMLMap<Scalar<string>, Node>;
  for (const [index, pair] of section.items.entries()) {
    comment(pair, ` ${oneLine(found[index]?.why ?? "")}`);
  }
  const remarks = failures.map((failure) => ` ${oneLine(failure)}`);
  if (found.length === 0) remarks.unshift(" nothing was found that a driver is known for");
  if (remarks.length > 0) document.commentBefore = remarks.join("\n");
  return document.toString({ lineWidth: 0 });
}

function comment({ key }: Pair<Scalar<string>, Node>, text: string): void {
  key.commentBefore = text;
}

/** What devices say of themselves must not end a comment. */
const oneLine = (text: string) => text.replaceAll(/[\p{Cc}\u2028\u2029]+/gu, " ").trim();

/** An entry as it is written in a file. */
function asConfigured(entry: Entry): Record<string, unknown> {
  if (isProxyEntry(entry)) return { ref: entry.ref };
  const children = Object.entries(entry.children ?? {}).map(([name, child]) => [name, asConfigured(child)] as const);
  const { description } = entry;
  const { type, methodsDescription = {}, config = {} } = isDriverEntry(entry) ? entry : { type: undefined };
  return {
    ...(type && { type }),
    ...(description && { description }),
    ...(Object.keys(methodsDescription).length > 0 && { methods_description: methodsDescription }),
    ...(Object.keys(config).length > 0 && { config }),
    ...((children.length > 0 || type === undefined) && { children: Object.fromEntries(children) }),
  };
}
