import { isDriverEntry, isProxyEntry, type Entry } from "../../agent/driver/entry.ts";

const flasherTypes = /^jumpstarter_driver_flashers\.driver\.\w+Flasher$/;

/** Dotted paths of all flashers of a configuration. */
export function baseFlashers(entries: Readonly<Record<string, Entry>>, above = ""): string[] {
  return Object.entries(entries).flatMap(([name, entry]) => {
    if (isProxyEntry(entry)) return [];
    const path = above + name;
    const below = baseFlashers(entry.children ?? {}, `${path}.`);
    return isDriverEntry(entry) && flasherTypes.test(entry.type) ? [path, ...below] : below;
  });
}

/** The same configuration, with another bundle for the flasher at `path`. */
export function withBundle(
  entries: Readonly<Record<string, Entry>>,
  path: string,
  bundle: string,
): Readonly<Record<string, Entry>> {
  const [name = "", ...rest] = path.split(".");
  const entry = entries[name];
  if (entry === undefined || isProxyEntry(entry)) return entries;
  if (rest.length > 0) {
    const children = withBundle(entry.children ?? {}, rest.join("."), bundle);
    return { ...entries, [name]: { ...entry, children } };
  }
  const config = { ...(isDriverEntry(entry) ? entry.config : {}), flasher_bundle: bundle };
  return { ...entries, [name]: { ...entry, config } };
}
