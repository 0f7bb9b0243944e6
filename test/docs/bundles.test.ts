// Every command of docs/bundles.md runs, in order, with Debian's registry in the place of the one that is named there.
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import { test } from "node:test";
import { promisify } from "node:util";
import { bundleFiles, temporaryDirectory } from "../sim/bundle.ts";
import { noRealRegistry, startRealRegistry } from "../sim/registry.ts";

const execute = promisify(execFile);
const page = "docs/bundles.md";
const limitMs = 60_000;

test(`the commands of ${page}`, { skip: noRealRegistry }, async (t) => {
  const { host } = await startRealRegistry(t);
  const home = await temporaryDirectory(t);
  for (const [path, content] of Object.entries(bundleFiles)) {
    const file = join(home, "my-board", path);
    await mkdir(dirname(file), { recursive: true });
    await writeFile(file, content);
  }
  const text = await readFile(page, "utf8");
  const commands = [...text.matchAll(/^\$ jmp-agent (.*)$/gm)].map(([, words = ""]) => words);
  assert.ok(commands.length >= 16);
  const env = { ...process.env, HOME: home, XDG_RUNTIME_DIR: home, XDG_CONFIG_HOME: home };
  const takesRegistry = /^bundle (build|push|pull|verify|inspect|export|sign) /;
  for (const command of commands) {
    const here = command.replaceAll("registry.example.com", host).replaceAll("/media/usb", join(home, "usb"));
    const words = here.split(" ").concat(takesRegistry.test(here) ? ["--plain-http", host] : []);
    const cache = /^bundle (pull|import|list|pin|unpin|prune) /.test(`${here} `)
      ? ["--cache-dir", join(home, "cache")]
      : [];
    const ran = execute(process.execPath, [resolve("dist/jmp-agent.js"), ...words, ...cache], {
      cwd: home,
      env,
      timeout: limitMs,
    });
    await assert.doesNotReject(ran, `jmp-agent ${here}`);
  }
});
