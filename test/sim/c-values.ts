import { execFileSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import type { TestContext } from "node:test";
import { missingPrograms } from "../../scripts/programs.mjs";
import { scratch } from "./agent.ts";

/** For `skip`: why C cannot be asked here, or false. */
export const noCompiler =
  missingPrograms(["cc", "/usr/include/stdio.h"]).length > 0 ? "there is no C compiler, or no headers for it" : false;

/** Compiles C expressions against the system's headers and evaluates them, so that numbers and layouts are those of C. */
export function cValues(t: TestContext, headers: readonly string[], expressions: readonly string[]): number[] {
  const directory = scratch(t);
  const source = join(directory, "values.c");
  const program = join(directory, "values");
  const includes = ["stdio.h", "stddef.h", "sys/ioctl.h", ...headers].map((header) => `#include <${header}>`);
  const prints = expressions.map((expression) => `printf("%lld\\n", (long long)(${expression}));`);
  writeFileSync(source, [...includes, "int main(void) {", ...prints, "}"].join("\n"));
  execFileSync("cc", ["-D_GNU_SOURCE", "-o", program, source], { stdio: "pipe" });
  return execFileSync(program, { encoding: "utf8" }).trim().split("\n").map(Number);
}

/** Expressions for the size of a structure (key `bytes`) and the offsets of its members. */
export function layoutExpressions(struct: string, members: Readonly<Record<string, string>>): string[] {
  return [`sizeof(${struct})`, ...Object.values(members).map((member) => `offsetof(${struct}, ${member})`)];
}
