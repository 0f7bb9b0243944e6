import { existsSync, readFileSync, readdirSync, renameSync, rmSync, statSync } from "node:fs";
import { join } from "node:path";

/**
 * Puts a new folder in the place of an old one. One with the same files stays: whoever is reading it finds all of it.
 * Else the old one is there until the moment in which the new one is.
 */
export function replaceFolder(fresh, folder) {
  if (isSame(fresh, folder)) {
    rmSync(fresh, { recursive: true });
    return;
  }
  const old = `${fresh}.old`;
  if (existsSync(folder)) renameSync(folder, old);
  renameSync(fresh, folder);
  rmSync(old, { recursive: true, force: true });
}

function isSame(one, other) {
  if (!existsSync(other)) return false;
  const files = filesOf(one);
  return (
    files.join("\n") === filesOf(other).join("\n") &&
    files.every((file) => readFileSync(join(one, file)).equals(readFileSync(join(other, file))))
  );
}

function filesOf(folder) {
  return readdirSync(folder, { recursive: true })
    .filter((file) => statSync(join(folder, file)).isFile())
    .sort();
}
