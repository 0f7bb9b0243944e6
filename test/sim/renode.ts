import { chmodSync, existsSync, readFileSync, writeFileSync } from "node:fs";
import { delimiter, join, resolve } from "node:path";
import type { TestContext } from "node:test";
import { scratch } from "./agent.ts";

export interface RenodeDouble {
  /** For the agent's environment: the double comes before a Renode of the host. */
  readonly env: { readonly PATH: string; readonly RENODE_DOUBLE_LOG: string };
  /** What the monitor was told since the last look. */
  commands(): string[];
}

export function renodeDouble(t: Pick<TestContext, "after">): RenodeDouble {
  const folder = scratch(t);
  const program = join(folder, "renode");
  writeFileSync(program, `#!/bin/sh\nexec '${process.execPath}' '${resolve("test/sim/renode-double.mjs")}' "$@"\n`);
  chmodSync(program, 0o755);
  const log = join(folder, "commands");
  let seen = 0;
  return {
    env: { PATH: `${folder}${delimiter}${process.env["PATH"]}`, RENODE_DOUBLE_LOG: log },
    commands() {
      const all = existsSync(log) ? readFileSync(log, "utf8").trim().split("\n") : [];
      const fresh = all.slice(seen);
      seen = all.length;
      return fresh;
    },
  };
}
