import assert from "node:assert/strict";
import { createHash, randomBytes } from "node:crypto";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Readable, Writable } from "node:stream";
import { test, type TestContext } from "node:test";
import { gunzipSync, gzipSync } from "node:zlib";
import type { ContentEncoding, ResourceHandle } from "../../../../agent/driver/resource.ts";
import { connect } from "../../../../agent/client/connect.ts";
import type { RemoteNode } from "../../../../agent/client/node.ts";
import { flasher, opendal, storageMux, storageMuxFlasher } from "../../../../boards/storage/interface.ts";
import { startExporter } from "../../../sim/exporter.ts";

function scratch(t: TestContext): string {
  const directory = mkdtempSync(join(tmpdir(), "storage-"));
  t.after(() => rmSync(directory, { recursive: true, force: true }));
  return directory;
}

/** An exporter with one driver `d`, seen from a client. */
async function start(t: TestContext, type: string, config: Record<string, unknown> = {}) {
  const { exporter, socketPath } = await startExporter(t, {
    d: { type: `jumpstarter_driver_opendal.driver.${type}`, config },
  });
  const client = await connect({ host: socketPath });
  t.after(() => client.close());
  const node = client.find("d");
  assert.ok(node);
  return { exporter, node };
}

async function startFs(t: TestContext, options: Record<string, unknown> = {}) {
  const root = join(scratch(t), "root");
  const { exporter, node } = await start(t, "Opendal", { scheme: "fs", kwargs: { root }, ...options });
  return { exporter, node, root, calls: node.as(opendal) };
}

function send<T>(
  node: RemoteNode,
  content: Buffer | string,
  use: (handle: ResourceHandle) => Promise<T>,
  encoding?: ContentEncoding,
): Promise<T> {
  const source = Readable.from([Buffer.from(content)], { objectMode: false });
  return node.lendSource(source, use, { encoding });
}

async function receive(
  node: RemoteNode,
  use: (handle: ResourceHandle) => Promise<unknown>,
  encoding?: ContentEncoding,
): Promise<Buffer> {
  const chunks: Buffer[] = [];
  const sink = new Writable({
    write(chunk: Buffer, _encoding, done) {
      chunks.push(chunk);
      done();
    },
  });
  await node.lendSink(sink, use, { encoding });
  return Buffer.concat(chunks);
}

async function writeFile(node: RemoteNode, path: string, content: Buffer | string): Promise<void> {
  const calls = node.as(opendal);
  const fd = await calls.open(path, "wb");
  await send(node, content, (handle) => calls.file_write(fd, handle));
  await calls.file_close(fd);
}

async function readFile(node: RemoteNode, path: string): Promise<Buffer> {
  const calls = node.as(opendal);
  const fd = await calls.open(path, "rb");
  const content = await receive(node, (handle) => calls.file_read(fd, handle));
  await calls.file_close(fd);
  return content;
}

async function all(names: AsyncIterable<string>): Promise<string[]> {
  const found: string[] = [];
  for await (const name of names) found.push(name);
  return found.sort();
}

/** How many files the test's process holds open below a directory, deleted ones included. */
function heldBelow(directory: string): number {
  const target = (fd: string) => {
    try {
      return readlinkSync(`/proc/self/fd/${fd}`);
    } catch {
      return ""; // closed meanwhile
    }
  };
  return readdirSync("/proc/self/fd").filter((fd) => target(fd).startsWith(directory)).length;
}

test("a file is written, appended to, sought, told and read as a Python file is", async (t) => {
  const { node, calls } = await startFs(t);
  const content = randomBytes(5 * 1024 * 1024 + 3);
  const fd = await calls.open("dir/file", "wb");
  const states = async (of: string) =>
    Promise.all([calls.file_closed(of), calls.file_readable(of), calls.file_seekable(of), calls.file_writable(of)]);
  assert.deepEqual(await states(fd), [false, false, false, true]);
  await send(node, content.subarray(0, 1_000_000), (handle) => calls.file_write(fd, handle));
  await send(node, content.subarray(1_000_000), (handle) => calls.file_write(fd, handle));
  assert.equal((await receive(node, (handle) => calls.file_read(fd, handle))).length, 0);
  await assert.rejects(calls.file_seek(fd, 0), { category: "io" });
  await assert.rejects(calls.file_tell(fd), { category: "io" });
  await calls.file_close(fd);
  await calls.file_close(fd);
  assert.deepEqual(await states(fd), [true, false, false, false]);

  const reader = await calls.open("dir/file", "rb");
  assert.deepEqual(await states(reader), [false, true, true, false]);
  assert.equal(await calls.file_seek(reader, 10), 10);
  assert.equal(await calls.file_seek(reader, 5, 1), 15);
  assert.equal(await calls.file_seek(reader, -3, 2), content.length - 3);
  assert.equal(await calls.file_tell(reader), content.length - 3);
  assert.deepEqual(await receive(node, (handle) => calls.file_read(reader, handle)), content.subarray(-3));
  assert.equal(await calls.file_tell(reader), content.length);
  await assert.rejects(calls.file_seek(reader, -1), { category: "invalid" });
  await assert.rejects(calls.file_seek(reader, 0, 3 as 2), { category: "invalid" });
  await calls.file_close(reader);
  await assert.rejects(calls.file_seek(reader, 0), { category: "io" });
  assert.equal((await receive(node, (handle) => calls.file_read(reader, handle))).length, 0);

  assert.equal(await calls.hash("dir/file"), createHash("sha256").update(content).digest("hex"));
  assert.equal(await calls.hash("dir/file", "md5"), createHash("md5").update(content).digest("hex"));
  assert.ok((await readFile(node, "dir/file")).equals(content));
});

test("what a client asks wrongly has the status that Python clients expect", async (t) => {
  const { node, calls } = await startFs(t);
  await writeFile(node, "file", "x");
  const fd = await calls.open("file", "rb");
  const nobody = "00000000-0000-4000-8000-000000000000";
  const failures: [string, () => Promise<unknown>][] = [
    ["failed", () => calls.open("nope", "rb")],
    ["failed", () => calls.open("dir/", "wb")],
    ["invalid", () => calls.open("file", "ab" as "rb")],
    ["invalid", () => calls.open("../file", "rb")],
    ["failed", () => calls.stat("nope")],
    ["invalid", () => calls.hash("file", "crc" as "md5")],
    ["failed", () => calls.copy("file", "/file")],
    ["failed", () => calls.copy("nope", "x")],
    ["failed", () => calls.rename("file", "x/")],
    ["failed", () => calls.create_dir("x")],
    ["failed", () => calls.presign_read("file", 10)],
    ["failed", () => calls.file_tell(nobody)],
    ["failed", () => calls.file_close(nobody)],
    ["io", () => send(node, "x", (handle) => calls.file_write(fd, handle))],
    ["invalid", () => all(calls.list("../"))],
  ];
  for (const [category, fail] of failures) {
    await assert.rejects(fail, { category }, `${category}: ${fail.toString()}`);
  }
});

test("files and directories are made, copied, renamed, listed and removed", async (t) => {
  const { node, calls, root } = await startFs(t);
  await calls.create_dir("a/b/c/");
  await calls.create_dir("d/e/");
  await calls.create_dir("d/e/");
  assert.deepEqual(await all(calls.list("/")), ["/", "a/", "d/"]);
  assert.deepEqual(await all(calls.scan("/")), ["/", "a/", "a/b/", "a/b/c/", "d/", "d/e/"]);
  await writeFile(node, "f", "content");
  await calls.copy("f", "a/g");
  await calls.rename("a/g", "d/h");
  assert.equal(readFileSync(join(root, "d/h"), "utf8"), "content");
  assert.equal(await calls.exists("a/g"), false);
  assert.equal(await calls.exists("d/h"), true);
  assert.equal((await calls.stat("d/")).mode.entry_is_dir, true);
  assert.deepEqual((await calls.get_created_resources()).sort(), ["a/b/c", "d/e", "d/h", "f"]);
  await calls.delete("d/h");
  await calls.remove_all("a/");
  await assert.rejects(calls.delete("d"), { category: "failed" });
  assert.deepEqual(await all(calls.scan("/")), ["/", "d/", "d/e/", "f"]);
  const { write, presign, write_total_max_size } = await calls.capability();
  assert.deepEqual([write, presign, write_total_max_size], [true, false, null]);
});

test("at the end of a lease all files are closed, and what it created is removed and nothing else", async (t) => {
  const { exporter, node, calls, root } = await startFs(t, { remove_created_on_close: true });
  mkdirSync(join(root, "old/empty"), { recursive: true });
  writeFileSync(join(root, "old/file"), "kept");
  await writeFile(node, "new/deep/file", "x");
  await writeFile(node, "old/new", "x");
  await calls.create_dir("made/inner/");
  await calls.create_dir("old/empty/");
  await calls.create_dir("shared/");
  writeFileSync(join(root, "shared/of-others"), "kept");
  writeFileSync(join(root, "registered"), "x");
  await calls.register_path("/a/../registered");
  await assert.rejects(calls.register_path("../outside"), { category: "invalid" });
  await writeFile(node, "moved-from/file", "x");
  await calls.rename("moved-from", "moved-to");
  const fd = await calls.open("half/written", "wb");
  assert.ok((await calls.get_created_resources()).includes("registered"));

  await exporter.tree.release();
  assert.deepEqual(readdirSync(root).sort(), ["old", "shared"]);
  assert.deepEqual(readdirSync(join(root, "old")).sort(), ["empty", "file"]);
  assert.deepEqual(readdirSync(join(root, "shared")), ["of-others"]);
  await assert.rejects(calls.file_tell(fd), { category: "failed" }, "the next lease does not know its files");
  assert.deepEqual(await calls.get_created_resources(), []);
  assert.equal(heldBelow(root), 0);
});

test("without remove_created_on_close everything stays", async (t) => {
  const { exporter, node, root } = await startFs(t);
  await writeFile(node, "new/file", "x");
  await exporter.tree.release();
  assert.ok(existsSync(join(root, "new/file")));
});

test("open files are limited, and closing one makes room", async (t) => {
  const { calls } = await startFs(t);
  const opened: string[] = [];
  for (let count = 0; count < 128; count += 1) opened.push(await calls.open(`f${count % 3}`, "wb"));
  await assert.rejects(calls.open("one-more", "wb"), { category: "exhausted" });
  await calls.file_close(opened[0] ?? "");
  await calls.open("one-more", "wb");
});

test("closing a file ends a transfer into it, and the file can be written anew", async (t) => {
  const { node, calls, root } = await startFs(t);
  const fd = await calls.open("file", "wb");
  let isWaiting = () => {};
  const waiting = new Promise<void>((resolve) => (isWaiting = resolve));
  const endless = new Readable({
    read() {
      isWaiting();
    },
  });
  const writing = node.lendSource(endless, (handle) => calls.file_write(fd, handle));
  const ended = assert.rejects(writing);
  await waiting;
  await calls.file_close(fd);
  assert.equal(await calls.file_closed(fd), true);
  endless.destroy();
  await ended;
  await writeFile(node, "file", "whole");
  assert.equal(readFileSync(join(root, "file"), "utf8"), "whole");
});

test("a configuration without the options of its scheme is refused before anything is opened", async (t) => {
  for (const [scheme, option] of [
    ["fs", "root"],
    ["http", "endpoint"],
    ["s3", "bucket"],
  ]) {
    const refused = start(t, "Opendal", { scheme, kwargs: null });
    await assert.rejects(refused, { code: "E_CONFIG", message: new RegExp(`kwargs.${option}: is required`) });
  }
  await assert.rejects(start(t, "Opendal", { scheme: "memory", kwargs: {}, colour: "red" }), { code: "E_CONFIG" });
});

test("a flashed image is dumped again, per target, plain and compressed", async (t) => {
  const { exporter, node } = await start(t, "MockFlasher", { _tempdir: "ignored" });
  const calls = node.as(flasher);
  const image = randomBytes(3 * 1024 * 1024 + 1);
  for (const target of [undefined, "uboot", "../../etc/passwd", ""]) {
    await send(node, image, (handle) => calls.flash(handle, target));
    assert.ok((await receive(node, (handle) => calls.dump(handle, target))).equals(image), target);
  }
  await send(node, gzipSync(image), (handle) => calls.flash(handle, "gz"), "gzip");
  assert.ok((await receive(node, (handle) => calls.dump(handle, "gz"))).equals(image));
  const packed = await receive(node, (handle) => calls.dump(handle, "gz"), "gzip");
  assert.ok(gunzipSync(packed).equals(image));
  const never = receive(node, (handle) => calls.dump(handle, "never"));
  await assert.rejects(never, { category: "io", message: /\[Errno 2\] No such file or directory: 'never'/ });

  await exporter.tree.release();
  await assert.rejects(
    receive(node, (handle) => calls.dump(handle)),
    { category: "io" },
  );
});

test("an image that broke off is no image", async (t) => {
  const { node } = await start(t, "MockFlasher");
  const calls = node.as(flasher);
  const whole = gzipSync(randomBytes(300_000));
  await send(node, whole, (handle) => calls.flash(handle), "gzip");
  await assert.rejects(send(node, whole.subarray(0, 200_000), (handle) => calls.flash(handle), "gzip"));
  await assert.rejects(
    receive(node, (handle) => calls.dump(handle)),
    { category: "io" },
  );
});

for (const [type, kind] of [
  ["MockStorageMux", storageMux],
  ["MockStorageMuxFlasher", storageMuxFlasher],
] as const) {
  test(`${type} gives back what was written last`, async (t) => {
    const { node } = await start(t, type);
    assert.equal(node.clientClass, kind.client);
    const calls = node.as(kind);
    for (const step of ["host", "dut", "off"] as const) assert.equal(await calls[step](), null);
    assert.equal((await receive(node, (handle) => calls.read(handle))).length, 0);
    await send(node, "a longer image", (handle) => calls.write(handle));
    await send(node, "short", (handle) => calls.write(handle));
    assert.equal((await receive(node, (handle) => calls.read(handle))).toString(), "short");
  });
}
