import { accessSync, constants, statSync } from "node:fs";
import { join } from "node:path";
import { systemError } from "../sys/native.ts";

/** What the C library searches when there is no PATH. */
export const defaultPath = "/usr/local/bin:/usr/bin:/bin";

const ENOENT = 2;
const EACCES = 13;

/** The file that `execvp` would run. @throws ENOENT or EACCES as it would, with the name as the path */
export function findProgram(name: string, path: string | undefined): string {
  const files =
    name.includes("/") || name === "" ? [name] : (path ?? defaultPath).split(":").map((at) => join(at, name));
  let errno = ENOENT;
  for (const file of files) {
    const found = statSync(file, { throwIfNoEntry: false });
    if (found === undefined) continue;
    if (found.isFile() && isExecutable(file)) return file;
    errno = EACCES;
  }
  throw systemError(errno, "exec", name);
}

function isExecutable(file: string): boolean {
  try {
    accessSync(file, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}
