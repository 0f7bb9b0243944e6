import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import { createHash, randomBytes } from "node:crypto";
import { once } from "node:events";
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { homedir, tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { after, before, test } from "node:test";
import { openForeignStore } from "../../boards/storage/store/foreign.ts";
import { openS3Store } from "../../boards/storage/store/s3.ts";
import { parsePath } from "../../boards/storage/store/path.ts";
import { isNotFound, type Store } from "../../boards/storage/store/store.ts";

const never = new AbortController().signal;
const moto = "moto[server,s3,iam]==5.2.5";

/** The last version that loads with the C library of Debian 12, too. */
const opendalVersion = "0.47.11";
const cache = join(process.env["XDG_CACHE_HOME"] ?? join(homedir(), ".cache"), "jumpstarter-agent");

/** A Python with moto, made once and kept beside the Python clients; or why there is none. */
function installMoto(): { python: string } | { missing: string } {
  const directory = join(cache, "moto");
  const python = join(directory, "bin/python");
  const stamp = join(directory, "complete");
  try {
    if (!existsSync(stamp)) {
      execFileSync("python3", ["-m", "venv", "--clear", directory], { stdio: "pipe" });
      execFileSync(python, ["-m", "pip", "install", "--quiet", moto], { stdio: "pipe" });
      writeFileSync(stamp, moto);
    }
    return { python };
  } catch (error) {
    if (process.env["CI"]) throw error;
    return { missing: `the S3 server ${moto} cannot be installed: ${(error as Error).message.split("\n", 1)[0]}` };
  }
}

/** The npm package `opendal`, which the agent does without until somebody wants an exotic scheme. */
function installOpendal(): { entry: string } | { missing: string } {
  const directory = join(cache, `opendal-${opendalVersion}`);
  const packageDirectory = join(directory, "node_modules", "opendal");
  try {
    if (!existsSync(packageDirectory)) {
      mkdirSync(directory, { recursive: true });
      const args = ["install", "--no-save", "--no-audit", "--prefix", directory, `opendal@${opendalVersion}`];
      execFileSync("npm", args, { stdio: "pipe" });
    }
    return { entry: createRequire(import.meta.url).resolve(packageDirectory) };
  } catch (error) {
    if (process.env["CI"]) throw error;
    return {
      missing: `npm opendal@${opendalVersion} cannot be installed: ${(error as Error).message.split("\n", 1)[0]}`,
    };
  }
}

const foreign = installOpendal();
const skipForeign = "missing" in foreign ? foreign.missing : false;
const installed = installMoto();
const skip = "missing" in installed ? installed.missing : false;
let server: { endpoint: string; access_key_id: string; secret_access_key: string; bucket: string };
let stop = () => {};

before(async () => {
  if ("missing" in installed) return;
  const child = spawn(installed.python, ["test/sim/s3-server.py"], { stdio: ["pipe", "pipe", "ignore"] });
  stop = () => child.stdin.end();
  const [line] = (await Promise.race([
    once(createInterface(child.stdout), "line"),
    once(child, "exit").then(() => Promise.reject(new Error("the S3 server does not start"))),
  ])) as [string];
  server = JSON.parse(line) as typeof server;
});
after(() => stop());

async function put(store: Store, path: string, ...batches: Buffer[]): Promise<void> {
  const writer = await store.openWriter?.(parsePath(path));
  for (const batch of batches) await writer?.write([batch], never);
  await writer?.close();
}

async function get(store: Store, path: string, start = 0): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for await (const chunk of (await store.openReader(parsePath(path))).chunks(start, never)) chunks.push(chunk);
  return Buffer.concat(chunks);
}

async function names(store: Store, path: string, recursive = false): Promise<string[]> {
  const found: string[] = [];
  for await (const name of store.list?.(parsePath(path), recursive) ?? []) found.push(name);
  return found.sort();
}

test("S3: objects with awkward names are written, read from any position, copied and deleted", { skip }, async (t) => {
  const store = openS3Store({ ...server, root: "/some root/" });
  t.after(() => store.close?.());
  for (const name of ["plain", "a b+c%20~'()*!.img", "ünï/çøde&<x>", "empty"]) {
    const content = name === "empty" ? Buffer.alloc(0) : Buffer.from(`content of ${name}`);
    await put(store, name, content);
    assert.deepEqual(await get(store, name), content, name);
    assert.deepEqual(await get(store, name, 5), content.subarray(5), name);
    assert.equal((await store.stat(parsePath(name))).content_length, content.length);
    await store.copy?.(parsePath(name), parsePath(`copy/${name}`));
    assert.deepEqual(await get(store, `copy/${name}`), content, name);
    await store.delete?.(parsePath(name));
    await assert.rejects(store.stat(parsePath(name)), isNotFound);
    await store.delete?.(parsePath(name));
  }
  assert.deepEqual(await names(store, "copy/ünï/"), ["copy/ünï/", "copy/ünï/çøde&<x>"]);
});

test("S3: lists look like those of a file system, also beyond one page", { skip }, async (t) => {
  const store = openS3Store({ ...server, root: "lists" });
  t.after(() => store.close?.());
  for (const path of ["a/b/c.txt", "a/bc", "a/b.img"]) await put(store, path, Buffer.from("x"));
  await store.createDirectory?.(parsePath("d/e/"));
  assert.deepEqual(await names(store, "/"), ["/", "a/", "d/"]);
  assert.deepEqual(await names(store, "a/b"), ["a/b.img", "a/b/", "a/bc"]);
  assert.deepEqual(await names(store, "/", true), ["/", "a/", "a/b.img", "a/b/", "a/b/c.txt", "a/bc", "d/", "d/e/"]);
  assert.deepEqual(await names(store, "zz/"), []);
  assert.equal((await store.stat(parsePath("a/b/"))).mode.entry_is_dir, true, "a directory without an object");
  await store.removeAll?.(parsePath("a/b"));
  assert.deepEqual(await names(store, "a/"), ["a/", "a/b.img", "a/bc"], "not all that starts with its name");
  for (let first = 0; first < 1010; first += 101) {
    await Promise.all(Array.from({ length: 101 }, (_, index) => put(store, `many/${first + index}`, Buffer.from("x"))));
  }
  assert.equal((await names(store, "many/")).length, 1011);
});

test("S3: a large file is uploaded in parts, and one given up leaves nothing", { skip }, async (t) => {
  const store = openS3Store({ ...server, root: "large" });
  t.after(() => store.close?.());
  const batches = Array.from({ length: 37 }, () => randomBytes(1024 * 1024));
  const digest = (data: Buffer) => createHash("sha256").update(data).digest("hex");
  await put(store, "image", ...batches);
  assert.equal(digest(await get(store, "image")), digest(Buffer.concat(batches)));
  const writer = await store.openWriter?.(parsePath("abandoned"));
  for (const batch of batches) await writer?.write([batch], never);
  await writer?.abort();
  await assert.rejects(store.stat(parsePath("abandoned")), isNotFound);
});

/** Signs with AWS's own code what a presigned URL says it signs; the S3 server above cannot check such URLs. */
const signAgain = `
import json, sys
from urllib.parse import urlsplit, parse_qsl
from botocore.auth import S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

server, method, url = json.loads(sys.argv[1])
bare, _, _ = url.partition("&X-Amz-Signature=")
query = dict(parse_qsl(urlsplit(url).query))
auth = S3SigV4QueryAuth(Credentials(server["access_key_id"], server["secret_access_key"]), "s3", "us-east-1")
request = AWSRequest(method=method, url=bare)
request.context["timestamp"] = query["X-Amz-Date"]
text = auth.string_to_sign(request, auth.canonical_request(request))
print(auth.signature(text, request))
`;

test("S3: presigned URLs carry the signature that AWS's own code makes for them", { skip }, async (t) => {
  const store = openS3Store({ ...server, root: "presigned" });
  t.after(() => store.close?.());
  assert.ok("python" in installed);
  for (const what of ["read", "write", "stat"] as const) {
    const request = await store.presign?.(what, parsePath("a b/ü'(1)*+~.img"), 60);
    assert.ok(request);
    const arg = JSON.stringify([server, request.method, request.url]);
    const expected = execFileSync(installed.python, ["-c", signAgain, arg], { encoding: "utf8" }).trim();
    assert.equal(new URL(request.url).searchParams.get("X-Amz-Signature"), expected, what);
  }
});

test("S3: a wrong secret is told by name, and the secret is not", { skip }, async (t) => {
  const store = openS3Store({ ...server, secret_access_key: "wrong-secret" });
  t.after(() => store.close?.());
  await assert.rejects(names(store, "/"), (error: Error) => {
    assert.match(error.message, /403 SignatureDoesNotMatch/);
    assert.ok(!error.message.includes("wrong-secret"));
    return true;
  });
});

test("other schemes work through the npm package opendal", { skip: skipForeign }, async (t) => {
  assert.ok("entry" in foreign);
  const root = mkdtempSync(join(tmpdir(), "foreign-"));
  t.after(() => rmSync(root, { recursive: true, force: true }));
  const store = await openForeignStore("fs", { root }, foreign.entry);
  const content = randomBytes(3 * 1024 * 1024 + 5);
  await put(store, "a/b", content.subarray(0, 1_500_000), content.subarray(1_500_000));
  await put(store, "ab", Buffer.from("x"));
  assert.deepEqual(await get(store, "a/b"), content);
  assert.deepEqual(await get(store, "a/b", 1_048_577), content.subarray(1_048_577));
  assert.equal((await store.stat(parsePath("a/b"))).content_length, content.length);
  assert.equal(store.capability.rename, true);
  assert.deepEqual(await names(store, "/", true), ["/", "a/", "a/b", "ab"]);
  await store.removeAll?.(parsePath("a"));
  assert.deepEqual(await names(store, "/"), ["/", "ab"], "not all that starts with its name");
  await store.removeAll?.(parsePath("ab"));
  assert.deepEqual(await names(store, "/"), ["/"]);
  await assert.rejects(store.stat(parsePath("nope")), isNotFound);
  await assert.rejects(async () => store.presign?.("read", parsePath("ab"), 1), { category: "failed" });
  await assert.rejects(openForeignStore("no-such", { password: "secret" }, foreign.entry), (error: Error) => {
    assert.match(error.message, /no-such/);
    assert.ok(!error.message.includes("secret"));
    return true;
  });
});
