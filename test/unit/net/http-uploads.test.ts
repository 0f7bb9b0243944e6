import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { once } from "node:events";
import { mkdir, readdir, readFile, symlink, utimes, writeFile } from "node:fs/promises";
import { connect, type Socket } from "node:net";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { promisify } from "node:util";
import { openUploads } from "../../../net/uploads.ts";
import { startHttp } from "../../sim/http.ts";
import { eventually } from "../../sim/rig.ts";
import { folderWith, until } from "../../sim/tftp.ts";

const execute = promisify(execFile);

async function startTaking(t: TestContext, { maxBytes = 1000, maxFiles = 100, stallMs = 60_000 } = {}) {
  const base = await folderWith(t, { file: "a file that is served" });
  const folder = join(base, "logs");
  await mkdir(join(folder, "board-1"), { recursive: true });
  const server = await startHttp(t, base, { uploads: { folder, maxBytes, maxFiles }, limits: { stallMs } });
  const put = async (path: string, body: string | Uint8Array | ReadableStream, init: RequestInit = {}) => {
    const response = await fetch(`http://127.0.0.1:${server.port}${path}`, { method: "PUT", body, ...init });
    return `${response.status} ${response.headers.get("location") ?? (await response.text()).trim()}`;
  };
  return { base, folder, server, put };
}

/** Says it as it is, and gives what the server answered until it closed the connection. */
function talk(t: TestContext, port: number): { socket: Socket; heard: () => string } {
  const socket = connect(port, "127.0.0.1");
  t.after(() => socket.destroy());
  let text = "";
  socket.on("error", () => {});
  socket.on("data", (data) => (text += data.toString("latin1")));
  return { socket, heard: () => text };
}

test("a board leaves a fresh file; what exists is never touched", async (t) => {
  const { folder, put, server } = await startTaking(t);
  assert.equal(await put("/uploads/boot.log", "hello"), "201 /uploads/boot.log");
  assert.equal(await readFile(join(folder, "boot.log"), "utf8"), "hello");
  assert.match(await put("/uploads/boot.log", "other"), /^409 /);
  assert.equal(await readFile(join(folder, "boot.log"), "utf8"), "hello");
  assert.equal(await put("/uploads/board-1/a%20b.log", "", { method: "POST" }), "201 /uploads/board-1/a%20b.log");
  assert.equal(await readFile(join(folder, "board-1", "a b.log"), "utf8"), "");
  // It is no way to read, or to write elsewhere.
  assert.equal((await fetch(`http://127.0.0.1:${server.port}/uploads/boot.log`)).status, 404);
  assert.match(await put("/file", "x"), /^405 /);
  assert.match(await put("/uploads", "x"), /^405 /);
});

test("no name leads out of the uploads' folder", async (t) => {
  const { base, folder, put } = await startTaking(t);
  await symlink(base, join(folder, "out"));
  await symlink(join(base, "made-through-a-link"), join(folder, "dangling"));
  for (const [name, status] of [
    ["..%2Fescaped", 403],
    ["%2e%2e%2Fescaped", 403],
    ["board-1%2F..%2F..%2Fescaped", 403],
    ["out/escaped", 403],
    ["nowhere/x", 404],
    ["dangling", 409],
    ["", 400],
    ["board-1", 409],
    ["board-1/", 400],
    ["%2Fetc%2Fescaped", 404],
    ["a".repeat(300), 404],
  ] as const) {
    assert.match(await put(`/uploads/${name}`, "x"), new RegExp(`^${status} `), name);
  }
  assert.deepEqual((await readdir(base)).sort(), ["file", "logs"]);
  assert.deepEqual((await readdir(folder)).sort(), ["board-1", "dangling", "out"]);
});

test("what is too large, too much or not whole leaves nothing", async (t) => {
  const { folder, put, server } = await startTaking(t, { maxFiles: 3 });
  const stream = (bytes: number) => new Blob([new Uint8Array(bytes)]).stream();
  assert.equal(await put("/uploads/full", new Uint8Array(1000)), "201 /uploads/full");
  assert.match(await put("/uploads/announced", new Uint8Array(1001)), /^413 .*1000 bytes/);
  assert.match(await put("/uploads/chunked", stream(1001), { duplex: "half" }), /^413 /);
  assert.equal(await put("/uploads/streamed", stream(1000), { duplex: "half" }), "201 /uploads/streamed");
  assert.match(await put("/uploads/one-more", "x"), /^507 /);
  assert.match(await put("/uploads/x", "x", { headers: { "content-encoding": "gzip" } }), /^415 /);
  assert.match(await put("/uploads/x", "x", { headers: { "content-range": "bytes 0-0/2" } }), /^400 /);
  for (const request of [
    "PUT /uploads/board-1/cut HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nfive.",
    "PUT /uploads/board-1/cut HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfive.\r\n",
  ]) {
    const { socket } = talk(t, server.port);
    socket.write(request);
    await until(() =>
      server.running().some(({ movedBytes, direction }) => movedBytes === 5 && direction === "from-board"),
    );
    socket.destroy();
    await until(() => server.connections === 0 && server.running().length === 0);
  }
  await eventually("nothing is left", async () => (await readdir(join(folder, "board-1"))).length === 0);
});

test("a client that waits for 100 Continue is told before it sends", async (t) => {
  const { folder, server } = await startTaking(t);
  const head = (name: string, length: number) =>
    `PUT /uploads/${name} HTTP/1.1\r\nHost: x\r\nContent-Length: ${length}\r\nExpect: 100-continue\r\n\r\n`;
  const refused = talk(t, server.port);
  refused.socket.write(head("large", 5000));
  await once(refused.socket, "close");
  assert.match(refused.heard(), /^HTTP\/1\.1 413 /);
  const taken = talk(t, server.port);
  taken.socket.write(head("small", 5));
  await until(() => taken.heard().includes("100 Continue"));
  taken.socket.write("hello");
  await until(() => taken.heard().includes("201 Created"));
  assert.equal(await readFile(join(folder, "small"), "utf8"), "hello");
});

test("a client that sends without waiting can still read why its upload is refused", async (t) => {
  const { base, folder, server, put } = await startTaking(t, { maxBytes: 2_000_000 });
  await writeFile(join(base, "large"), Buffer.alloc(3_000_000));
  await writeFile(join(base, "small"), Buffer.alloc(2_000_000));
  await put("/uploads/taken", "x");
  for (const [file, path, words, status] of [
    ["large", "uploads/new", [], "413"],
    ["large", "uploads/new", ["-H", "Transfer-Encoding: chunked"], "413"],
    ["small", "uploads/taken", [], "409"],
    ["small", "file", [], "405"],
  ] as const) {
    const args = ["-sS", "-H", "Expect:", ...words, "-T", join(base, file), "-o", "/dev/null", "-w", "%{http_code}"];
    const { stdout } = await execute("curl", [...args, `http://127.0.0.1:${server.port}/${path}`], { timeout: 20_000 });
    assert.equal(stdout, status, path);
  }
  assert.deepEqual((await readdir(folder)).sort(), ["board-1", "taken"]);
});

test("an upload that stands still is cut, and leaves nothing", async (t) => {
  const { folder, server } = await startTaking(t, { stallMs: 500 });
  const { socket } = talk(t, server.port);
  socket.write("PUT /uploads/slow HTTP/1.1\r\nHost: x\r\nContent-Length: 900\r\n\r\nx");
  const drip = setInterval(() => socket.write("x"), 100);
  t.after(() => clearInterval(drip));
  await once(socket, "close");
  await eventually("nothing is left", async () => (await readdir(folder)).join() === "board-1");
  assert.deepEqual(server.running(), []);
});

test(
  "a full disk is told as 507",
  { skip: process.geteuid?.() !== 0 && "root mounts a small file system" },
  async (t) => {
    const folder = await folderWith(t);
    await execute("mount", ["-t", "tmpfs", "-o", "size=64k", "tmpfs", folder]);
    try {
      const server = await startHttp(t, await folderWith(t), { uploads: { folder, maxBytes: 1 << 20 } });
      // What was announced is refused before it comes; what was not, when it does not fit any more.
      for (const body of [new Uint8Array(1 << 19), new Blob([new Uint8Array(1 << 19)]).stream()]) {
        const init = { method: "PUT", body, duplex: "half" } as RequestInit;
        const response = await fetch(`http://127.0.0.1:${server.port}/uploads/big`, init);
        assert.equal(response.status, 507);
        assert.deepEqual(await readdir(folder), []);
      }
    } finally {
      await execute("umount", [folder]);
    }
  },
);

for (const [name, command] of [
  ["curl -T", (url: string, file: string) => ["curl", "-sSf", "-T", file, url]],
  ["curl --data-binary", (url: string, file: string) => ["curl", "-sSf", "--data-binary", `@${file}`, url]],
  [
    "curl -T - (chunked)",
    (url: string, file: string) => ["sh", "-c", 'exec curl -sSf -T - "$1" <"$2"', "sh", url, file],
  ],
  ["wget --post-file", (url: string, file: string) => ["wget", "-q", "-O", "-", `--post-file=${file}`, url]],
  [
    "busybox wget --post-file",
    (url: string, file: string) => ["busybox", "wget", "-q", "-O", "-", `--post-file=${file}`, url],
  ],
] as const) {
  test(`${name} uploads a log of 3 MB`, async (t) => {
    const { base, folder, server } = await startTaking(t, { maxBytes: 4 << 20 });
    const log = Buffer.alloc(3_000_000, "a line of a log\n");
    await writeFile(join(base, "log"), log);
    const [program = "", ...words] = command(`http://127.0.0.1:${server.port}/uploads/log`, join(base, "log"));
    await execute(program, words, { timeout: 20_000 });
    assert.ok((await readFile(join(folder, "log"))).equals(log));
  });
}

test("what a killed agent had begun goes when the folder is opened again, and nothing else", async (t) => {
  const folder = await folderWith(t, {
    ".upload-0123456789abcdef.part": "old",
    ".upload-keep": "a board's own",
    log: "x",
  });
  const fresh = ".upload-fedcba9876543210.part";
  await writeFile(join(folder, fresh), "another agent's");
  const yesterday = new Date(Date.now() - 86_400_000);
  for (const name of await readdir(folder)) if (name !== fresh) await utimes(join(folder, name), yesterday, yesterday);
  await openUploads({ folder, maxBytes: 1 });
  assert.deepEqual((await readdir(folder)).sort(), [fresh, ".upload-keep", "log"].sort());
});
