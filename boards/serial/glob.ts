import { access, readdir } from "node:fs/promises";
import { join } from "node:path";

/** True if the path is a pattern of the shell's kind (`*`, `?`, `[…]`). */
const isPattern = (path: string) => /[*?[]/.test(path);

/** Existing paths that an absolute path or pattern names, sorted. */
export async function matchPaths(pattern: string): Promise<string[]> {
  let found = ["/"];
  for (const segment of pattern.split("/").filter((part) => part !== "")) {
    const next: string[] = [];
    for (const folder of found) next.push(...(await inFolder(folder, segment)));
    found = next;
  }
  return found.sort();
}

async function inFolder(folder: string, segment: string): Promise<string[]> {
  if (!isPattern(segment)) {
    const path = join(folder, segment);
    return access(path).then(
      () => [path],
      () => [],
    );
  }
  const matcher = segmentPattern(segment);
  const names = await readdir(folder).catch(() => []);
  return names.filter((name) => matcher.test(name)).map((name) => join(folder, name));
}

/** As in the shell: `*` and `?` do not find hidden files. */
function segmentPattern(segment: string): RegExp {
  const source = segment.replace(/\[!?[^\]]+\]|[\s\S]/g, (part) => {
    if (part === "*") return ".*";
    if (part === "?") return ".";
    if (part.length > 1) return part.replace(/^\[!/, "[^").replaceAll("\\", "\\\\");
    return part.replace(/[\\^$.+(){}|[\]]/, "\\$&");
  });
  return new RegExp(`^${/^[*?]/.test(segment) ? "(?!\\.)" : ""}${source}$`, "s");
}
