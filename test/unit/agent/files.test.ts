import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import type { FileHandle } from "node:fs/promises";
import { Readable, Writable } from "node:stream";
import { test, type TestContext } from "node:test";
import {
  fileIntoStream,
  openNamelessFile,
  pumpBatches,
  reopen,
  streamIntoFile,
  writeFully,
} from "../../../agent/stream/files.ts";

const frameBytes = 64 * 1024;

async function nameless(t: TestContext): Promise<FileHandle> {
  const file = await openNamelessFile();
  t.after(() => file.close());
  return file;
}

function frames(content: Buffer): Readable {
  const cut: Buffer[] = [];
  for (let at = 0; at < content.length; at += frameBytes) cut.push(content.subarray(at, at + frameBytes));
  return Readable.from(cut, { objectMode: false });
}

async function contentOf(file: FileHandle): Promise<Buffer> {
  const chunks: Buffer[] = [];
  const sink = new Writable({
    write(chunk: Buffer, _encoding, done) {
      chunks.push(chunk);
      done();
    },
  });
  await fileIntoStream(file, sink);
  return Buffer.concat(chunks);
}

const sizeOf = (batch: Buffer[]) => batch.reduce((sum, chunk) => sum + chunk.length, 0);
const nextTurn = () => new Promise((resolve) => setImmediate(resolve));

test("a stream goes into a file and out again unchanged, in few writes", async (t) => {
  const content = randomBytes(5 * 1024 * 1024 + 77);
  const file = await nameless(t);
  assert.equal(await streamIntoFile(frames(content), file), content.length);
  assert.ok((await contentOf(file)).equals(content));
  assert.equal(await streamIntoFile(frames(Buffer.from("tail")), file, { position: content.length }), 4);
  assert.equal((await contentOf(file)).subarray(content.length).toString(), "tail");

  const sizes: number[] = [];
  await pumpBatches(frames(content), async (batch) => sizes.push(sizeOf(batch)));
  assert.deepEqual(sizes, [...Array<number>(5).fill(1024 * 1024), 77]);
});

test("a slow writer holds the stream back, and writes never overlap", async () => {
  let sent = 0;
  let under = 0;
  let written = 0;
  const source = new Readable({
    read() {
      sent += frameBytes;
      this.push(sent > 16 * 1024 * 1024 ? null : Buffer.alloc(frameBytes));
    },
  });
  await pumpBatches(source, async (batch) => {
    assert.equal((under += 1), 1);
    await nextTurn();
    under -= 1;
    written += sizeOf(batch);
    assert.ok(sent - written <= 5 * 1024 * 1024, `${sent - written} bytes wait in memory`);
  });
  assert.equal(written, 16 * 1024 * 1024);
});

test("a failing write ends the transfer with its error and destroys the source", async () => {
  for (const failAt of [1, 3, 6]) {
    let writes = 0;
    const source = frames(Buffer.alloc(5 * 1024 * 1024 + 1));
    const full = new Error("disk full");
    const pumping = pumpBatches(source, async () => {
      writes += 1;
      if (writes === failAt) throw full;
    });
    await assert.rejects(pumping, full);
    assert.ok(source.destroyed);
  }
});

test("after an abort no write is under way any more", async () => {
  const stop = new AbortController();
  let isWriting = false;
  const endless = new Readable({
    read() {
      setImmediate(() => this.push(Buffer.alloc(frameBytes)));
    },
  });
  const write = async () => {
    isWriting = true;
    stop.abort();
    for (let turns = 0; turns < 5; turns += 1) await nextTurn();
    isWriting = false;
  };
  await assert.rejects(pumpBatches(endless, write, { signal: stop.signal }), { name: "AbortError" });
  assert.equal(isWriting, false);
  assert.ok(endless.destroyed);
});

test("an error of the source reaches the caller", async (t) => {
  const file = await nameless(t);
  const broken = Readable.from(
    (function* () {
      yield Buffer.alloc(10);
      throw new Error("truncated");
    })(),
    { objectMode: false },
  );
  await assert.rejects(streamIntoFile(broken, file), /truncated/);
});

test("a write that the system cuts short is continued", async (t) => {
  const file = await nameless(t);
  const content = randomBytes(100);
  const stingy = {
    writev: async ([first = Buffer.alloc(0)]: Buffer[], position: number) =>
      file.write(first, 0, Math.min(7, first.length), position),
  } as unknown as FileHandle;
  const batch = [content.subarray(0, 30), Buffer.alloc(0), content.subarray(30, 33), content.subarray(33)];
  assert.equal(await writeFully(stingy, batch, 0), 100);
  assert.ok((await contentOf(file)).equals(content));
});

test("a nameless file can be opened a second time by who has it, and has no name", async (t) => {
  const file = await openNamelessFile();
  await file.write("content");
  const again = await reopen(file, "r");
  t.after(() => again.close());
  await file.close();
  assert.equal((await contentOf(again)).toString(), "content");
  assert.equal((await again.stat()).nlink, 0);
});
