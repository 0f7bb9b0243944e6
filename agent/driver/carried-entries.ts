import { isDriverEntry, isProxyEntry, type ConfigProblem, type Entry } from "./entry.ts";

export const proxyType = "jumpstarter_driver_composite.driver.Proxy";

/** What the plan adds to the config of a driver that another process runs: what else stands in its entry. */
export interface Carried {
  readonly description?: string | undefined;
  readonly methodsDescription?: Readonly<Record<string, string>> | undefined;
  readonly children?: Readonly<Record<string, Entry>> | undefined;
}

/** The dotted path of a link's target; undefined if the entry is none, or does not say. */
function refOf(entry: Entry): { ref: string; at: readonly string[] } | undefined {
  if (isProxyEntry(entry)) return { ref: entry.ref, at: ["ref"] };
  const ref = isDriverEntry(entry) && entry.type === proxyType ? entry.config?.["ref"] : undefined;
  return typeof ref === "string" ? { ref, at: ["config", "ref"] } : undefined;
}

/**
 * The entries below a driver that another process runs, as that process needs them: there, paths begin at the driver.
 * A link that leads out of it is a problem: nothing of ours can be called from there.
 * @param path dotted path of the driver
 */
export function carriedEntries(
  children: Readonly<Record<string, Entry>>,
  path: string,
  at: ConfigProblem["path"],
  problems: ConfigProblem[],
): Record<string, Entry> {
  return Object.fromEntries(
    Object.entries(children).map(([name, child]): [string, Entry] => {
      const link = refOf(child);
      if (link !== undefined) {
        if (link.ref.startsWith(`${path}.`)) return [name, { ref: link.ref.slice(path.length + 1) }];
        problems.push({
          path: [...at, name, ...link.at],
          message: `leads to ${link.ref}, which ${path} cannot reach: it is run by Python, with all below it. Configure ${link.ref} below ${path}, and let the other place refer to that`,
        });
        return [name, child];
      }
      if (isProxyEntry(child)) return [name, child];
      const below = carriedEntries(child.children ?? {}, path, [...at, name, "children"], problems);
      return [name, { ...child, children: below }];
    }),
  );
}
