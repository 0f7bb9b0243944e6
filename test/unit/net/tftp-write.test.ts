import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { mkdir, readdir, readFile, symlink } from "node:fs/promises";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { buildData, buildRequest, type OptionList } from "../../../net/tftp/protocol.ts";
import type { TftpLimits } from "../../../net/tftp/view.ts";
import { lossyProxy } from "../../sim/lossy-proxy.ts";
import { download, folderWith, startTftp, TftpPeer, until, upload } from "../../sim/tftp.ts";
import { buildTraversalTree, inside, refusedNames, secret } from "../../sim/traversal.ts";

const whole = randomBytes(300_000);

/** A server that shows nothing and takes files of up to 1 MiB. */
async function startTaking(t: TestContext, limits: Partial<TftpLimits> = {}, maxBytes = 1 << 20) {
  const folder = await folderWith(t);
  const server = await startTftp(t, await folderWith(t), { uploads: { folder, maxBytes }, limits });
  return { folder, server, port: server.port };
}

/** What broke off is taken away soon after the client was told. */
async function holdsOnly(folder: string, names: readonly string[]): Promise<void> {
  for (let tries = 0; tries < 200 && (await readdir(folder)).length > names.length; tries += 1) {
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  assert.deepEqual(await readdir(folder), names);
}

/** Says a write request and hears the answer. */
async function ask(t: TestContext, port: number, name: string, options: OptionList = [], mode = "octet") {
  const peer = await TftpPeer.open(t, port);
  peer.raw(buildRequest("wrq", name, mode, options));
  return { peer, answer: await peer.hear() };
}

test("whole files arrive for every combination of size, block size and window, and none is left half", async (t) => {
  const { folder, port } = await startTaking(t, { windowSize: 64 });
  for (const length of [0, 1, 511, 512, 513, 300_000]) {
    for (const [index, options] of (
      [
        [],
        [
          ["blksize", "1468"],
          ["windowsize", "16"],
        ],
        [
          ["windowsize", "3"],
          ["tsize", String(length)],
        ],
        [
          ["blksize", "65464"],
          ["windowsize", "4"],
        ],
        [
          ["blksize", "100"],
          ["windowsize", "64"],
          ["rollover", "1"],
        ],
      ] satisfies OptionList[]
    ).entries()) {
      const filename = `f${length}-${index}`;
      const content = whole.subarray(0, length);
      await upload(t, { port, filename, content, options });
      assert.ok((await readFile(join(folder, filename))).equals(content), filename);
    }
  }
  assert.deepEqual((await readdir(folder)).filter((name) => name.startsWith(".")), []); // prettier-ignore
});

test("what is asked and what is answered", async (t) => {
  const { folder, port } = await startTaking(t);
  await mkdir(join(folder, "sub"));
  await upload(t, { port, filename: "there", content: whole.subarray(0, 10) });
  await symlink("nowhere", join(folder, "link"));
  for (const [name, options, answer] of [
    ["new", [], "ACK 0"],
    ["sub/new", [], "ACK 0"],
    [
      "options",
      [
        ["blksize", "1468"],
        ["tsize", "1000"],
        ["windowsize", "99"],
      ],
      "OACK blksize=1468 tsize=1000 windowsize=16",
    ],
    ["unknown", [["colour", "blue"]], "ACK 0"],
    ["tiny", [["blksize", "7"]], "ERROR 8 blksize must be at least 8"],
    ["there", [], "ERROR 6 File already exists"],
    ["link", [], "ERROR 6 File already exists"],
    ["sub", [], "ERROR 6 File already exists"],
    ["huge", [["tsize", String((1 << 20) + 1)]], "ERROR 3 Files of more than 1048576 bytes are not taken"],
    ["missing/new", [], "ERROR 1 File not found"],
    ["there/new", [], "ERROR 1 File not found"],
    ["../new", [], "ERROR 2 Access violation"],
    ["new/", [], "ERROR 1 Not a file"],
  ] satisfies [string, OptionList, string][]) {
    const heard = await ask(t, port, name, options);
    assert.equal(heard.answer, answer, name);
    if (heard.peer.transferPort !== undefined) heard.peer.error(0, "enough");
  }
  const readOnly = await startTftp(t, folder);
  assert.equal((await ask(t, readOnly.port, "new")).answer, "ERROR 4 Write requests are not supported");
});

test("a file appears when it is complete, and what breaks off leaves nothing", async (t) => {
  const { folder, port, server } = await startTaking(t, { silenceMs: 300 });
  const { peer } = await ask(t, port, "file");
  peer.sendTo(peer.transferPort ?? 0, buildData(1, whole.subarray(0, 512)));
  assert.equal(await peer.hear(), "ACK 1");
  assert.ok(!(await readdir(folder)).includes("file"));
  peer.error(0, "enough");
  await until(() => server.transfers === 0);
  const silent = await ask(t, port, "file");
  let heard = silent.answer;
  while (heard === "ACK 0") heard = await silent.peer.hear();
  assert.equal(heard, "ERROR 0 No answer");
  await holdsOnly(folder, []);
});

test("a file that grows beyond the limit is ERROR 3, whatever was announced", async (t) => {
  const { folder, port } = await startTaking(t, {}, 1_000);
  await upload(t, { port, filename: "fits", content: whole.subarray(0, 1_000) });
  const content = whole.subarray(0, 1_001);
  for (const options of [[], [["tsize", "10"]]] satisfies OptionList[]) {
    await assert.rejects(upload(t, { port, filename: "large", content, options }), /ERROR 3 Files of more than 1000/);
  }
  await holdsOnly(folder, ["fits"]);
});

test("of two that send the same new file, one has it and the other is told", async (t) => {
  const { folder, port } = await startTaking(t);
  const pair = [await ask(t, port, "file"), await ask(t, port, "file")];
  const heard: string[] = [];
  for (const [index, { peer }] of pair.entries()) {
    peer.sendTo(peer.transferPort ?? 0, buildData(1, Buffer.from(`of ${index}`)));
    let answer = await peer.hear();
    while (answer === "ACK 0") answer = await peer.hear();
    heard.push(answer);
  }
  assert.deepEqual(heard, ["ACK 1", "ERROR 6 File already exists"]);
  assert.equal(await readFile(join(folder, "file"), "utf8"), "of 0");
  await holdsOnly(folder, ["file"]);
});

test("netascii is decoded, also where a block ends between CR and LF", async (t) => {
  const { folder, port } = await startTaking(t);
  const text = "one\ntwo\rthree\r\n".repeat(1_000);
  const content = Buffer.from(text.replace(/[\r\n]/g, (end) => (end === "\n" ? "\r\n" : "\r\0")));
  for (const size of ["8", "101"]) {
    await upload(t, { port, filename: `t${size}`, content, mode: "netascii", options: [["blksize", size], ["windowsize", "7"]] }); // prettier-ignore
    assert.equal(await readFile(join(folder, `t${size}`), "latin1"), text);
  }
});

test("lost, late and doubled packets leave the bytes as they are", async (t) => {
  const { folder, port } = await startTaking(t);
  for (const [loss, reorder, windowSize] of [
    [0.01, 0, 1],
    [0.01, 0.05, 16],
    [0.05, 0, 4],
    [0.2, 0.05, 8],
    [0, 0.3, 8],
  ] as const) {
    const proxy = await lossyProxy(t, { targetPort: port, loss, reorder, duplicate: 0.02, seed: windowSize });
    const filename = `${loss}-${reorder}-${windowSize}`;
    const content = whole.subarray(0, loss === 0.2 ? 100_000 : 300_000);
    const options: OptionList = [["blksize", "1468"], ["windowsize", String(windowSize)]]; // prettier-ignore
    await upload(t, { port: proxy.port, filename, content, options, repeatMs: 300 });
    assert.ok((await readFile(join(folder, filename))).equals(content), filename);
  }
});

test("the progress of a file that comes is told, and one that is stored is not running any more", async (t) => {
  const { port, server } = await startTaking(t);
  const { peer } = await ask(t, port, "file", [["tsize", "600"]]);
  peer.sendTo(peer.transferPort ?? 0, buildData(1, whole.subarray(0, 512)));
  assert.equal(await peer.hear(), "ACK 1");
  const [running] = server.running();
  const { direction, name, sizeBytes, movedBytes } = running ?? {};
  assert.deepEqual({ direction, name, sizeBytes, movedBytes }, { direction: "from-board", name: "file", sizeBytes: 600, movedBytes: 512 }); // prettier-ignore
  peer.sendTo(peer.transferPort ?? 0, buildData(2, whole.subarray(512, 600)));
  assert.equal(await peer.hear(), "ACK 2");
  assert.equal(server.transfers, 0);
  // And still its last block is acknowledged again.
  peer.sendTo(peer.transferPort ?? 0, buildData(2, whole.subarray(512, 600)));
  assert.equal(await peer.hear(), "ACK 2");
});

test("more files in a row than transfers are allowed at once are taken", async (t) => {
  const { folder, port } = await startTaking(t, { transfers: 3, transfersPerPeer: 3 });
  for (let count = 0; count < 10; count += 1) {
    await upload(t, { port, filename: `f${count}`, content: whole.subarray(0, count) });
  }
  assert.equal((await readdir(folder)).length, 10);
});

test("nothing is written outside the folder, and nothing that exists is changed", async (t) => {
  const base = await folderWith(t);
  const { root, outside } = await buildTraversalTree(base);
  const { port } = await startTftp(t, root, { uploads: { folder: root, maxBytes: 100 } });
  const around = async () => [await readdir(base), await readdir(outside), await readdir(join(base, "root-twin"))];
  const before = await around();
  for (const filename of refusedNames(base)) {
    await upload(t, { port, filename, content: Buffer.from("written") }).catch((error: Error) => {
      assert.match(error.message, /^ERROR [01246] /, JSON.stringify(filename));
    });
  }
  assert.deepEqual(await around(), before);
  assert.equal(await readFile(join(outside, "secret"), "utf8"), secret);
  assert.equal((await download(t, { port, filename: "file" })).toString(), inside);
  assert.equal((await download(t, { port, filename: "sub/deep/file" })).toString(), inside);
});
