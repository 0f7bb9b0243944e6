const encoder = new TextEncoder();

/** ext4 and most others: NAME_MAX. */
const longestNameBytes = 255;

/**
 * A path that stays below the directory it is joined to, in its simplest form (`./data//kernel` is `data/kernel`).
 * @returns undefined if it is empty, absolute, leads up, or holds bytes no file name should have.
 */
export function confinedPath(path: string): string | undefined {
  // eslint-disable-next-line no-control-regex
  if (path.startsWith("/") || /[\u0000-\u001f\u007f\\]|\p{Surrogate}/u.test(path)) return undefined;
  const names = path.split("/").filter((name) => name !== "" && name !== ".");
  if (names.length === 0 || names.includes("..")) return undefined;
  return names.every((name) => encoder.encode(name).length <= longestNameBytes) ? names.join("/") : undefined;
}

/** Last name of a path. */
export function baseName(path: string): string {
  return path.slice(path.lastIndexOf("/") + 1);
}
