import assert from "node:assert/strict";
import { readdir, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { request } from "node:http";
import { join } from "node:path";
import { test } from "node:test";
import { openConfined } from "../../../net/files.ts";
import { startHttp } from "../../sim/http.ts";
import { download, folderWith, startTftp } from "../../sim/tftp.ts";
import { buildTraversalTree, inside, refusedNames, secret, servedNames } from "../../sim/traversal.ts";

/** One GET, or PUT of this content, with a target that nobody normalises on the way. */
function ask(port: number, path: string, content?: string): Promise<{ status: number; body: string }> {
  const method = content === undefined ? "GET" : "PUT";
  return new Promise((resolve, reject) => {
    request({ host: "127.0.0.1", port, path, method, agent: false }, (response) => {
      const parts: Buffer[] = [];
      response.on("data", (part: Buffer) => parts.push(part));
      response.on("end", () => resolve({ status: response.statusCode ?? 0, body: Buffer.concat(parts).toString() }));
    })
      .on("error", reject)
      .end(content);
  });
}

test("nothing outside the folder is opened, whatever the name", async (t) => {
  const base = await folderWith(t);
  const { root } = await buildTraversalTree(base);
  const names = refusedNames(base);
  assert.ok(new Set(names).size >= 200);
  for (const name of servedNames) {
    const file = await openConfined(root, name);
    assert.ok("handle" in file, `${name} is served`);
    assert.equal(await file.handle.readFile("utf8"), inside);
    await file.handle.close();
  }
  for (const name of [...names, "nul\0byte", "file\0", "../\0"]) {
    assert.ok("refused" in (await openConfined(root, name)), `${JSON.stringify(name)} is refused`);
  }
});

test("nothing outside the folder leaves over TFTP", async (t) => {
  const base = await folderWith(t);
  const { root } = await buildTraversalTree(base);
  const { port } = await startTftp(t, root);
  for (const filename of servedNames)
    assert.equal((await download(t, { port, filename })).toString(), inside, filename);
  for (const filename of refusedNames(base)) {
    await assert.rejects(download(t, { port, filename }), /^Error: ERROR [0124] /, JSON.stringify(filename));
  }
});

test("nothing outside the folder leaves over HTTP, raw or percent-encoded", async (t) => {
  const base = await folderWith(t);
  const { root, outside } = await buildTraversalTree(base);
  const server = await startHttp(t, root);
  const encodeAll = (name: string) =>
    [...Buffer.from(name)].map((byte) => `%${byte.toString(16).padStart(2, "0")}`).join("");
  const ways = [
    (name: string) => `/${name.split("/").map(encodeURIComponent).join("/")}`,
    (name: string) => `/${encodeAll(name)}`,
    (name: string) => `http://other.host/${encodeURIComponent(name)}?x=/../..#y`,
  ];
  for (const way of ways) {
    for (const name of servedNames) {
      const { status, body } = await ask(server.port, way(name));
      assert.deepEqual({ status, body }, { status: 200, body: inside }, way(name));
    }
    for (const name of refusedNames(base)) {
      const { status, body } = await ask(server.port, way(name));
      assert.ok(status === 403 || status === 404, `${way(name)}: ${status}`);
      assert.ok(!body.includes(secret) && !body.includes(base) && !body.includes(outside));
    }
  }
  const raw = ["/%", "/%zz", "/%c0%ae%c0%ae/secret", "/%00", "/file%00", "*", "/..%5coutside", "/.%2e/outside/secret"];
  for (const path of raw) assert.ok([400, 403, 404].includes((await ask(server.port, path)).status), path);
});

test("no name that is refused for reading writes outside the folder over HTTP", async (t) => {
  const base = await folderWith(t);
  const { root } = await buildTraversalTree(base);
  const folders = ["", "outside", "root-twin"].map((folder) => join(base, folder));
  const everything = async () => await Promise.all(folders.map(async (folder) => (await readdir(folder)).sort()));
  const before = await everything();
  const server = await startHttp(t, root, { uploads: { folder: root, maxBytes: 100 } });
  for (const name of [...refusedNames(base), ...servedNames]) {
    const { status } = await ask(server.port, `/uploads/${encodeURIComponent(name)}`, "evil");
    // Many of them are good names for a new file; the ones that are served exist.
    assert.ok((servedNames.includes(name) ? [409] : [201, 400, 403, 404, 409]).includes(status), `${name}: ${status}`);
  }
  assert.deepEqual(await everything(), before);
  for (const folder of folders) assert.equal(await readFile(join(folder, "secret"), "utf8"), secret);
  for (const name of servedNames) assert.equal(await readFile(join(root, name), "utf8"), inside);
});

test("a folder that is exchanged for a link out is no way out", async (t) => {
  const base = await folderWith(t);
  const { root, outside } = await buildTraversalTree(base);
  const swapped = join(root, "swapped");
  let stop = false;
  const swapping = (async () => {
    while (!stop) {
      await rm(swapped, { force: true });
      await symlink("sub", swapped);
      await rm(swapped, { force: true });
      await symlink(outside, swapped);
    }
  })();
  await writeFile(join(root, "sub", "secret"), inside);
  for (let round = 0; round < 500; round += 1) {
    const file = await openConfined(root, "swapped/secret");
    if ("refused" in file) continue;
    assert.equal(await file.handle.readFile("utf8"), inside);
    await file.handle.close();
  }
  stop = true;
  await swapping;
});
