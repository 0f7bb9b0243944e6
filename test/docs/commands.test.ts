// Every command that a reader meets in README and docs runs. Blocks marked `sh` are run as they stand, in order, in one
// shell; `console` blocks show what is typed on other machines and are run by the conformance suite.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { scratch } from "../sim/agent.ts";

/** Run by CI as steps of their own. */
const elsewhere =
  /^(npm (ci|test|run (demo|types|lint|build|bench|docs|layers|unused|image))\b|\.ci\/run|sudo |node scripts\/python-clients)/;

/** Goes on until it is told to end. */
const serves = /jmp-agent(\.js)? (run|boot)\b/;

const pages = [
  "README.md",
  "CONTRIBUTING.md",
  "ARCHITECTURE.md",
  ...readdirSync("docs").map((page) => join("docs", page)),
];

for (const page of pages.filter((name) => name.endsWith(".md"))) {
  for (const [index, block] of blocks(readFileSync(page, "utf8")).entries()) {
    test(`${page}, block ${index + 1}`, async (t) => {
      const home = scratch(t);
      for (const command of block) {
        if (elsewhere.test(command)) continue;
        const child = spawn("/bin/bash", ["-c", command], {
          detached: true,
          env: { ...process.env, HOME: home, XDG_CONFIG_HOME: home },
        });
        let output = "";
        for (const stream of [child.stdout, child.stderr])
          stream.on("data", (chunk: Buffer) => (output += chunk.toString()));
        const exited = once(child, "exit") as Promise<[number | null, string | null]>;
        t.after(() => {
          // The shell's whole group: what it started must not outlive the test.
          if (child.exitCode === null && child.pid !== undefined) process.kill(-child.pid, "SIGKILL");
        });
        if (serves.test(command)) {
          for (let waitedMs = 0; !/is ready|serving/.test(output) && waitedMs < 20_000; waitedMs += 50) await sleep(50);
          assert.match(output, /is ready|serving/, command);
          continue;
        }
        const [code] = await exited;
        assert.equal(code, 0, `${command}\n${output}`);
      }
    });
  }
}

/** The commands of each `sh` block: comments dropped, lines that end in a backslash joined. */
function blocks(markdown: string): string[][] {
  return [...markdown.matchAll(/^```sh\n(.*?)^```$/gms)].map(([, text = ""]) =>
    text
      .replaceAll(/\\\n\s*/g, " ")
      .split("\n")
      .map((line) => line.replace(/\s+#\s.*$/, "").trim())
      .filter((line) => line !== "" && !line.startsWith("#")),
  );
}
