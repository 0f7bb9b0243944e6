import { readdir, readFile, readlink } from "node:fs/promises";
import { basename, join } from "node:path";

/** Reading /sys and /proc, where everything may vanish between two looks: what is not there is undefined or empty, never an error. */

/** The text of an attribute without its line end. */
export async function attribute(...path: string[]): Promise<string | undefined> {
  try {
    return (await readFile(join(...path), "utf8")).trimEnd();
  } catch {
    return undefined;
  }
}

/** The whole number in an attribute. */
export async function numberAttribute(...path: string[]): Promise<number | undefined> {
  const number = parseInt((await attribute(...path)) ?? "", 10);
  return Number.isNaN(number) ? undefined : number;
}

/** Names in a directory, sorted as people count: gpiochip2 before gpiochip10. */
export async function entriesOf(...path: string[]): Promise<string[]> {
  const names = await readdir(join(...path)).catch(() => []);
  return names.sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
}

/** Last part of what a link leads to, such as the name of a driver. */
export async function linkName(...path: string[]): Promise<string | undefined> {
  try {
    return basename(await readlink(join(...path)));
  } catch {
    return undefined;
  }
}
