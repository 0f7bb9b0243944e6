import assert from "node:assert/strict";
import { mkdirSync, renameSync, rmSync, symlinkSync, utimesSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { watchFiles, type WatchFilesOptions } from "../../../agent/host/watch-files.ts";
import { scratch } from "../../sim/agent.ts";
import { eventually } from "../../sim/rig.ts";

async function watching(t: TestContext, options: Omit<WatchFilesOptions, "changed">) {
  const told: string[] = [];
  const watcher = watchFiles({ quietMs: 20, ...options, changed: (path) => told.push(path) });
  t.after(() => watcher.close());
  await watcher.ready;
  return { told, watcher };
}

/** Polls would hide what the notes of the system find. */
const withoutPolls = { pollMs: 1_000_000 };
/** The notes of the system come much sooner than these polls; a test that fails would wait for them. */
const withPolls = { pollMs: 50 };

test("each way to write a file is told", async (t) => {
  const directory = scratch(t);
  const file = join(directory, "bench.yaml");
  writeFileSync(file, "a");
  const { told } = await watching(t, { files: [file], ...withoutPolls });
  const next = async (what: string) => {
    await eventually(`${what} is told`, () => told.length > 0);
    assert.deepEqual(told.splice(0), [file]);
  };
  writeFileSync(file, "in place");
  await next("a write in place");
  writeFileSync(`${file}.new`, "a whole new file");
  renameSync(`${file}.new`, file);
  await next("a rename");
  // vim keeps the old one beside and writes a new one.
  renameSync(file, `${file}~`);
  writeFileSync(file, "an editor's");
  await next("what an editor does");
  rmSync(file);
  writeFileSync(file, "again");
  await next("a removal and a new file");
});

test("many writes in a row are told once, other files never", async (t) => {
  const directory = scratch(t);
  const file = join(directory, "bench.yaml");
  writeFileSync(file, "");
  const { told } = await watching(t, { files: [file], quietMs: 300, ...withoutPolls });
  for (let line = 0; line < 20; line += 1) writeFileSync(file, `${line}`, { flag: "a" });
  writeFileSync(join(directory, "other.yaml"), "x");
  await eventually("it is told", () => told.length > 0);
  const last = join(directory, "last.yaml");
  // What comes after it proves that nothing else came before.
  const later = await watching(t, { files: [last], ...withoutPolls });
  writeFileSync(last, "x");
  await eventually("the later one is told", () => later.told.length > 0);
  assert.deepEqual(told, [file]);
});

test("somebody who writes without a pause does not hide the change", async (t) => {
  const directory = scratch(t);
  const file = join(directory, "bench.yaml");
  writeFileSync(file, "");
  const { told } = await watching(t, { files: [file], quietMs: 100, ...withoutPolls });
  const writer = setInterval(() => writeFileSync(file, "x", { flag: "a" }), 10);
  t.after(() => clearInterval(writer));
  await eventually("it is told", () => told.length > 0);
});

test("a file that was missing is found, also when its directory was", async (t) => {
  const directory = join(scratch(t), "later");
  const file = join(directory, "bench.yaml");
  const { told } = await watching(t, { files: [file], ...withPolls });
  mkdirSync(directory);
  writeFileSync(file, "here");
  await eventually("it is told", () => told.length > 0);
  assert.deepEqual(told.splice(0), [file]);
  // The directory is replaced as a whole.
  renameSync(directory, `${directory}.old`);
  mkdirSync(directory);
  writeFileSync(file, "a longer text");
  await eventually("it is told again", () => told.length > 0);
  told.splice(0);
  writeFileSync(file, "and a change in there");
  await eventually("it is told once more", () => told.length > 0);
});

test("a removed file is told when it stays away", async (t) => {
  const directory = scratch(t);
  const file = join(directory, "bench.yaml");
  writeFileSync(file, "a");
  const { told } = await watching(t, { files: [file], ...withPolls });
  rmSync(file);
  await eventually("it is told", () => told.length > 0);
  assert.deepEqual(told, [file]);
});

test("links are followed, as a mounted configuration is swapped by its directory's link", async (t) => {
  const directory = scratch(t);
  for (const [name, text] of [
    ["v1", "one"],
    ["v2", "two"],
  ] as const) {
    mkdirSync(join(directory, name));
    writeFileSync(join(directory, name, "bench.yaml"), text);
  }
  symlinkSync("v1", join(directory, "..data"));
  symlinkSync(join("..data", "bench.yaml"), join(directory, "bench.yaml"));
  const file = join(directory, "bench.yaml");
  const { told } = await watching(t, { files: [file], ...withoutPolls });
  symlinkSync("v2", join(directory, "..next"));
  renameSync(join(directory, "..next"), join(directory, "..data"));
  await eventually("it is told", () => told.length > 0);
  assert.deepEqual(told, [file]);
});

test("without notes from the system polls find a change", async (t) => {
  // What happens where a link leads to is not noted in the link's directory.
  const here = scratch(t);
  const there = join(scratch(t), "bench.yaml");
  writeFileSync(there, "a");
  const file = join(here, "bench.yaml");
  symlinkSync(there, file);
  const { told } = await watching(t, { files: [file], ...withPolls });
  utimesSync(there, 1, 1);
  await eventually("it is told", () => told.length > 0);
  assert.deepEqual(told, [file]);
});

test("a directory tells of each of its configurations that comes or goes", async (t) => {
  const directory = scratch(t);
  const missing = join(directory, "missing");
  const { told } = await watching(t, { files: [], directories: [directory, missing], ...withPolls });
  writeFileSync(join(directory, "a.yaml"), "a");
  writeFileSync(join(directory, "b.txt"), "b");
  writeFileSync(join(directory, ".c.yaml"), "c");
  await eventually("it is told", () => told.length > 0);
  mkdirSync(missing);
  writeFileSync(join(missing, "d.yaml"), "d");
  await eventually("the other is told", () => told.length > 1);
  rmSync(join(directory, "a.yaml"));
  await eventually("the removal is told", () => told.length > 2);
  assert.deepEqual(told, [join(directory, "a.yaml"), join(missing, "d.yaml"), join(directory, "a.yaml")]);
});

test("a closed watcher is silent", async (t) => {
  const directory = scratch(t);
  const file = join(directory, "bench.yaml");
  const { told, watcher } = await watching(t, { files: [file], ...withPolls });
  const other = await watching(t, { files: [file], ...withPolls });
  watcher.close();
  writeFileSync(file, "x");
  await eventually("the other is told", () => other.told.length > 0);
  assert.deepEqual(told, []);
});
