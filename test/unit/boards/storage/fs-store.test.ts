import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, readdirSync, symlinkSync, writeFileSync } from "node:fs";
import { mkdtemp, rename, rm, symlink, unlink } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { openFsStore } from "../../../../boards/storage/store/fs.ts";
import { openMemoryStore } from "../../../../boards/storage/store/memory.ts";
import { parsePath, reportedForm } from "../../../../boards/storage/store/path.ts";
import { isNotFound, pathError, type Store } from "../../../../boards/storage/store/store.ts";

const never = new AbortController().signal;

/** A store below `root`, with a file `secret` beside that directory. */
async function fsStore(t: TestContext, options: { atomicWriteDirectory?: string } = {}) {
  const base = await mkdtemp(join(tmpdir(), "store-"));
  t.after(() => rm(base, { recursive: true, force: true }));
  const root = join(base, "root");
  mkdirSync(join(base, "outside"));
  writeFileSync(join(base, "outside", "secret"), "secret");
  const made: string[] = [];
  const atomicWriteDirectory =
    options.atomicWriteDirectory === undefined ? undefined : join(base, options.atomicWriteDirectory);
  const store = await openFsStore({ root, atomicWriteDirectory, onDirectoryMade: (path) => made.push(path.text) });
  return { store, root, base, made, secret: () => readFileSync(join(base, "outside", "secret"), "utf8") };
}

async function put(store: Store, path: string, content: string): Promise<void> {
  const writer = await store.openWriter?.(parsePath(path));
  assert.ok(writer);
  await writer.write([Buffer.from(content)], never);
  await writer.close();
}

async function get(store: Store, path: string, start = 0): Promise<string> {
  const reader = await store.openReader(parsePath(path));
  try {
    const chunks: Buffer[] = [];
    for await (const chunk of reader.chunks(start, never)) chunks.push(chunk);
    return Buffer.concat(chunks).toString();
  } finally {
    await reader.close();
  }
}

async function names(store: Store, path: string, recursive = false): Promise<string[]> {
  const found: string[] = [];
  for await (const name of store.list?.(parsePath(path), recursive) ?? []) found.push(name);
  return found;
}

function openHandles(): number {
  return readdirSync("/proc/self/fd").length;
}

test("paths have one spelling, and none with '..' is taken", () => {
  const spellings = {
    "": "/",
    "/": "/",
    " a/ ": "a/",
    "//a//b": "a/b",
    "./a/": "a/",
    "a/./b": "a/b",
    "a b/c": "a b/c",
  };
  for (const [given, text] of Object.entries(spellings)) assert.equal(parsePath(given).text, text, given);
  for (const given of ["..", "../x", "a/..", "a/../b", "/../etc/passwd", " .. ", "a\0b"]) {
    assert.throws(() => parsePath(given), { code: "E_INVALID" }, given);
  }
  assert.deepEqual(parsePath("..a/b..").segments, ["..a", "b.."]);
});

test("created paths are reported in normal form", () => {
  const forms = {
    "test_dir/": "test_dir",
    "/nested/dir2/": "nested/dir2",
    "dir\\backslash": "dir/backslash",
    "./current_dir": "current_dir",
    "parent/../simple": "simple",
    "//double//slash//path": "double/slash/path",
    ".": "",
  };
  for (const [given, form] of Object.entries(forms)) assert.equal(reportedForm(given), form, given);
});

test("a file is there from the moment it is opened for writing, with its parents", async (t) => {
  const { store, root, made } = await fsStore(t);
  const writer = await store.openWriter?.(parsePath("a/b/file"));
  assert.equal(readFileSync(join(root, "a/b/file"), "utf8"), "");
  assert.deepEqual(made, ["a/", "a/b/"]);
  await writer?.write([Buffer.from("he"), Buffer.from("llo")], never);
  await writer?.write([Buffer.from("!")], never);
  await writer?.close();
  assert.equal(await get(store, "a/b/file"), "hello!");
  assert.equal(await get(store, "a/b/file", 4), "o!");
  await put(store, "a/b/file", "x");
  assert.equal(readFileSync(join(root, "a/b/file"), "utf8"), "x", "opening truncates");
});

test("with atomic_write_dir a file has its old content until it is closed, and keeps it if given up", async (t) => {
  const { store, base, root } = await fsStore(t, { atomicWriteDirectory: "growing" });
  await put(store, "file", "old");
  const writer = await store.openWriter?.(parsePath("file"));
  await writer?.write([Buffer.from("new")], never);
  assert.equal(readFileSync(join(root, "file"), "utf8"), "old");
  await writer?.close();
  assert.equal(readFileSync(join(root, "file"), "utf8"), "new");
  const abandoned = await store.openWriter?.(parsePath("file"));
  await abandoned?.write([Buffer.from("half")], never);
  await abandoned?.abort();
  assert.equal(readFileSync(join(root, "file"), "utf8"), "new");
  assert.deepEqual(readdirSync(join(base, "growing")), []);
});

test("a reader keeps the size the file had when it was opened", async (t) => {
  const { store, root } = await fsStore(t);
  await put(store, "file", "12345");
  const reader = await store.openReader(parsePath("file"));
  writeFileSync(join(root, "file"), "1234567890");
  let read = "";
  for await (const chunk of reader.chunks(0, never)) read += chunk.toString();
  await reader.close();
  assert.equal(read, "12345");
  assert.equal(reader.sizeBytes, 5);
});

for (const [kind, open] of [
  ["fs", async (t: TestContext) => (await fsStore(t)).store],
  ["memory", async () => openMemoryStore()],
] as const) {
  test(`${kind}: a list has the directory itself first, and prefixes match inside their parent`, async (t) => {
    const store = await open(t);
    for (const path of ["a/b/c.txt", "a/bc", "a/b.img"]) await put(store, path, "x");
    await store.createDirectory?.(parsePath("d/e/"));
    const sorted = async (path: string, recursive = false) => (await names(store, path, recursive)).sort();
    assert.equal((await names(store, "/"))[0], "/");
    assert.deepEqual(await sorted("/"), ["/", "a/", "d/"]);
    assert.deepEqual(await sorted("a/"), ["a/", "a/b.img", "a/b/", "a/bc"]);
    assert.deepEqual(await sorted("a"), ["a/"]);
    assert.deepEqual(await sorted("a/b"), ["a/b.img", "a/b/", "a/bc"]);
    assert.deepEqual(await sorted("a/b/c.txt"), ["a/b/c.txt"]);
    const all = ["/", "a/", "a/b.img", "a/b/", "a/b/c.txt", "a/bc", "d/", "d/e/"];
    assert.deepEqual(await sorted("", true), all);
    assert.deepEqual(await sorted("a/b", true), ["a/b.img", "a/b/", "a/b/c.txt", "a/bc"]);
    for (const missing of ["zz", "zz/", "a/bc/", "zz/y"]) assert.deepEqual(await names(store, missing), [], missing);
  });

  test(`${kind}: files and directories are told apart, what is missing is not found`, async (t) => {
    const store = await open(t);
    await put(store, "a/file", "hello");
    assert.deepEqual((await store.stat(parsePath("a/file"))).mode, { entry_is_file: true, entry_is_dir: false });
    assert.equal((await store.stat(parsePath("a/file"))).content_length, 5);
    for (const directory of ["a/", "/", ""]) {
      assert.equal((await store.stat(parsePath(directory))).mode.entry_is_dir, true, directory);
    }
    for (const missing of ["nope", "nope/", "a/file/", "a/file/x"]) {
      await assert.rejects(store.stat(parsePath(missing)), isNotFound, missing);
      await assert.rejects(async () => store.openReader(parsePath(missing)), missing);
    }
    await assert.rejects(async () => store.openWriter?.(parsePath("a/")), { category: "failed" });
    await assert.rejects(async () => store.openWriter?.(parsePath("a")), { category: "failed" });
    await store.delete?.(parsePath("nope"));
    await store.removeAll?.(parsePath("nope/"));
    await put(store, "a/file.metadata", "kept");
    await store.removeAll?.(parsePath("a/file"));
    assert.deepEqual((await names(store, "a/")).sort(), ["a/", "a/file.metadata"], "not all that starts with its name");
    await store.removeAll?.(parsePath("/"));
    assert.deepEqual(await names(store, "/", true), ["/"], "the root itself stays");
  });
}

test("copy and rename make parents, replace files, and leave nothing half done", async (t) => {
  const { store, root } = await fsStore(t);
  await put(store, "a", "content");
  await put(store, "b", "other");
  await store.copy?.(parsePath("a"), parsePath("n/m/copy"));
  await store.copy?.(parsePath("a"), parsePath("b"));
  assert.equal(await get(store, "n/m/copy"), "content");
  assert.equal(await get(store, "b"), "content");
  await store.rename?.(parsePath("b"), parsePath("r/s/t"));
  assert.equal(existsSync(join(root, "b")), false);
  assert.equal(await get(store, "r/s/t"), "content");
  await assert.rejects(async () => store.copy?.(parsePath("nope"), parsePath("x/y")), isNotFound);
  await assert.rejects(async () => store.rename?.(parsePath("nope"), parsePath("x/y")), isNotFound);
  assert.equal(existsSync(join(root, "x")), false, "a missing source makes no parents");
  await assert.rejects(async () => store.copy?.(parsePath("r"), parsePath("q")), { category: "failed" });
  await assert.rejects(async () => store.copy?.(parsePath("a"), parsePath("r")));
  assert.deepEqual(readdirSync(root).sort(), ["a", "n", "r"]);
});

test("symlinks are followed inside the root and never out of it", async (t) => {
  const { store, root, base, secret } = await fsStore(t);
  await put(store, "dir/file", "inside");
  const outside = join(base, "outside");
  symlinkSync("dir/file", join(root, "good"));
  symlinkSync("dir", join(root, "gooddir"));
  symlinkSync(join(outside, "secret"), join(root, "file-out"));
  symlinkSync("../outside", join(root, "dir-out"));
  symlinkSync("/", join(root, "slash"));
  symlinkSync(join(outside, "new"), join(root, "dangling-out"));
  symlinkSync("loop", join(root, "loop"));
  symlinkSync(`${root}-twin`, join(root, "twin"));
  mkdirSync(`${root}-twin`);
  const before = openHandles();

  assert.equal(await get(store, "good"), "inside");
  await put(store, "gooddir/more", "more");
  assert.equal(await get(store, "dir/more"), "more");
  await put(store, "good", "changed");
  assert.equal(await get(store, "dir/file"), "changed");

  const bad = [
    "file-out",
    "dir-out/secret",
    `slash${outside}/secret`,
    "twin",
    "slash/etc/passwd",
    "loop",
    "dangling-out",
  ];
  for (const path of bad) {
    await assert.rejects(get(store, path), `read ${path}`);
    await assert.rejects(store.stat(parsePath(path)), `stat ${path}`);
    await assert.rejects(async () => store.copy?.(parsePath(path), parsePath("stolen")), `copy ${path}`);
  }
  for (const path of [...bad, "dir-out/new", "dir-out/new/deep", "twin/new", `slash${outside}/new`]) {
    await assert.rejects(put(store, path, "overwritten"), `write ${path}`);
  }
  for (const path of ["dir-out/new", "twin/new"]) {
    await assert.rejects(async () => store.copy?.(parsePath("dir/file"), parsePath(path)), `copy to ${path}`);
    await assert.rejects(async () => store.rename?.(parsePath("dir/more"), parsePath(path)), `rename to ${path}`);
    await assert.rejects(async () => store.createDirectory?.(parsePath(`${path}/`)), `mkdir ${path}`);
  }
  for (const path of ["dir-out/secret", "twin/x", `slash${outside}/secret`]) {
    await assert.rejects(async () => store.delete?.(parsePath(path)), `delete ${path}`);
    await assert.rejects(async () => store.removeAll?.(parsePath(path)), `remove ${path}`);
  }
  for (const path of ["dir-out/", "twin/", `slash${outside}/`, "dir-out/sec"]) {
    await assert.rejects(names(store, path), `list ${path}`);
  }
  assert.ok(!(await names(store, "/", true)).some((name) => name.includes("secret")), "a scan follows no symlink");

  await store.removeAll?.(parsePath("dir-out"));
  await store.removeAll?.(parsePath("slash"));
  assert.equal(existsSync(join(root, "dir-out")), false, "removing a symlink removes the symlink");
  await store.removeAll?.(parsePath("/"));
  assert.equal(secret(), "secret");
  assert.deepEqual(readdirSync(outside), ["secret"]);
  assert.ok(openHandles() <= before, "no handle is left open");
});

test("a directory that turns into a symlink in mid-operation opens no way out", async (t) => {
  const { store, root, base, secret } = await fsStore(t);
  const [real, aside] = [join(root, "real"), join(root, "aside")];
  const ignore = () => {};
  let isRunning = true;
  const flip = (async () => {
    while (isRunning) {
      await rename(real, aside).catch(ignore);
      await symlink(join(base, "outside"), real).catch(ignore);
      await new Promise((resolve) => setImmediate(resolve));
      await unlink(real).catch(ignore);
      await rename(aside, real).catch(ignore);
    }
  })();
  for (let round = 0; round < 150; round += 1) {
    await put(store, "real/secret", "overwritten").catch(ignore);
    assert.notEqual(await get(store, "real/secret").catch(ignore), "secret");
    await store.delete?.(parsePath("real/secret")).catch(ignore);
    await store.removeAll?.(parsePath("real/")).catch(ignore);
  }
  isRunning = false;
  await flip;
  assert.equal(secret(), "secret");
});

test("devices and FIFOs are refused without being opened", async (t) => {
  const { store, root } = await fsStore(t);
  execFileSync("mkfifo", [join(root, "fifo")]);
  await assert.rejects(get(store, "fifo"), /not a regular file/);
  await assert.rejects(put(store, "fifo", "x"), /not a regular file/);
  assert.deepEqual((await store.stat(parsePath("fifo"))).mode, { entry_is_file: false, entry_is_dir: false });
});

test("errors name the client's path, never the exporter's", async (t) => {
  const { store, root } = await fsStore(t);
  await put(store, "file", "x");
  const failures: [string, () => Promise<unknown>][] = [
    ["nope", () => store.stat(parsePath("nope"))],
    ["file/below", () => put(store, "file/below", "x")],
    ["a".repeat(300), () => put(store, "a".repeat(300), "x")],
  ];
  for (const [path, fail] of failures) {
    const thrown: unknown = await fail().then(
      () => assert.fail("it should fail"),
      (reason: unknown) => reason,
    );
    const error = pathError(thrown, parsePath(path));
    assert.equal(error.category, "failed");
    assert.ok(error.message.includes(path.slice(0, 4)) && !error.message.includes(root), error.message);
  }
});

test("the memory store is bounded and forgets when it is released", async () => {
  const store = openMemoryStore(10);
  await put(store, "a", "12345678");
  await assert.rejects(put(store, "b", "123"), { code: "E_LIMIT" });
  await store.delete?.(parsePath("a"));
  await put(store, "b", "1234567890");
  assert.equal(await get(store, "b", 7), "890");
  await store.release?.();
  assert.deepEqual(await names(store, "/", true), ["/"]);
  await put(store, "c", "1234567890");
});
