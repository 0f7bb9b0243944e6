import { directoryKey, parentOf, type StorePath } from "./path.ts";

/**
 * Lists flat keys (`a/b`, directories with a `/` at the end) as if they were files in directories: the
 * directory itself first, each name once, directories also where only their content has a key.
 */
export function* listKeys(
  keys: Iterable<string>,
  path: StorePath,
  recursive: boolean,
): Generator<string, void, undefined> {
  const base = directoryKey(path.isDirectory ? path : parentOf(path));
  const prefix = path.isDirectory ? base : path.text;
  const names = new Set<string>();
  let isThere = path.segments.length === 0;
  for (const key of keys) {
    if (!key.startsWith(prefix)) continue;
    isThere = true;
    // Every directory on the way from the base to the key, then the key.
    for (let end = key.indexOf("/", base.length); end !== -1; end = key.indexOf("/", end + 1)) {
      names.add(key.slice(0, end + 1));
      if (!recursive) break;
    }
    if (recursive || !key.slice(base.length).includes("/")) names.add(key);
  }
  if (path.isDirectory && isThere) yield path.text;
  for (const name of names) if (name.length > base.length) yield name;
}
