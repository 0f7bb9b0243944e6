import assert from "node:assert/strict";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { shutDownLauncher } from "../../../agent/host/launcher.ts";
import { scratch } from "../../sim/agent.ts";

function recorder() {
  const lines: string[] = [];
  return { lines, info: (line: string) => lines.push(line), warn: (line: string) => lines.push(line) };
}

test("the launcher's own program, next to its socket, is asked to shut down", async (t) => {
  const directory = scratch(t);
  const socket = join(directory, "launcher.sock");
  const told = join(directory, "told");
  writeFileSync(join(directory, "jumpstarter-exec"), `#!/bin/sh\necho "$@" > ${told}\n`, { mode: 0o755 });
  const log = recorder();
  await shutDownLauncher({ JUMPSTARTER_LAUNCHER_SOCKET: socket }, log);
  assert.equal(readFileSync(told, "utf8"), `shutdown --socket ${socket}\n`);
  assert.deepEqual(log.lines, ["The launcher is asked to shut down"]);
});

test("without a launcher nothing is done, and one that is gone is told", async (t) => {
  const directory = scratch(t);
  const log = recorder();
  await shutDownLauncher({}, log);
  assert.deepEqual(log.lines, []);
  await shutDownLauncher({ JUMPSTARTER_LAUNCHER_SOCKET: join(directory, "launcher.sock") }, log);
  assert.match(log.lines.join(), /^the launcher cannot be shut down: /);
  assert.equal(existsSync(join(directory, "told")), false);
});
