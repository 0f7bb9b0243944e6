import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { chmod, mkdir, truncate, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { buildData, buildRequest, type OptionList } from "../../../net/tftp/protocol.ts";
import { download, folderWith, startTftp, TftpPeer, until } from "../../sim/tftp.ts";

const size = 513;
const content = randomBytes(4_096);

test("what is asked and what is answered", async (t) => {
  const root = await folderWith(t, {
    empty: "",
    f511: content.subarray(0, 511),
    f512: content.subarray(0, 512),
    f513: content.subarray(0, size),
    f1024: content.subarray(0, 1024),
    text: "a\nb\rc\r\n",
  });
  await mkdir(join(root, "sub"));
  await writeFile(join(root, "sub", "file"), "x");
  const { port } = await startTftp(t, root);
  const ask = (name: string, options: OptionList = [], mode = "octet") => buildRequest("rrq", name, mode, options);
  const text = (string: string) => Buffer.from(string, "latin1");

  const cases: [what: string, request: Uint8Array, answer: string][] = [
    ["an empty file is one empty block", ask("empty"), "DATA 1 0"],
    ["a short file", ask("f511"), "DATA 1 511"],
    ["a full block", ask("f512"), "DATA 1 512"],
    ["only options that are unknown: no OACK", ask("f513", [["foo", "1"]]), "DATA 1 512"],
    ["unknown ones are left out", ask("f513", [["foo", "1"], ["blksize", "1024"]]), "OACK blksize=1024"], // prettier-ignore
    ["names in capitals are known, and echoed", ask("f513", [["BLKSIZE", "1024"]]), "OACK BLKSIZE=1024"],
    ["the first of two counts", ask("f513", [["blksize", "8"], ["blksize", "9"]]), "OACK blksize=8"], // prettier-ignore
    ["blksize 8", ask("f513", [["blksize", "8"]]), "OACK blksize=8"],
    ["blksize 511", ask("f513", [["blksize", "511"]]), "OACK blksize=511"],
    ["blksize 512 alone", ask("f513", [["blksize", "512"]]), "OACK blksize=512"],
    ["blksize 65464", ask("f513", [["blksize", "65464"]]), "OACK blksize=65464"],
    ["blksize too large", ask("f513", [["blksize", "65465"]]), "OACK blksize=65464"],
    ["blksize far too large", ask("f513", [["blksize", "99999999999999999999"]]), "OACK blksize=65464"],
    ["blksize too small", ask("f513", [["blksize", "7"]]), "ERROR 8 blksize must be at least 8"],
    ["blksize 0", ask("f513", [["blksize", "0"]]), "ERROR 8 blksize must be at least 8"],
    ["blksize -1 makes no sense", ask("f513", [["blksize", "-1"]]), "DATA 1 512"],
    ["blksize abc makes no sense", ask("f513", [["blksize", "abc"]]), "DATA 1 512"],
    ["blksize 1024x makes no sense", ask("f513", [["blksize", "1024x"]]), "DATA 1 512"],
    ["an empty value makes no sense", ask("f513", [["blksize", ""]]), "DATA 1 512"],
    ["timeout alone", ask("f513", [["timeout", "5"]]), "OACK timeout=5"],
    ["timeout 255", ask("f513", [["timeout", "255"]]), "OACK timeout=255"],
    ["timeout 0", ask("f513", [["timeout", "0"]]), "ERROR 8 timeout must be 1 to 255"],
    ["timeout 256", ask("f513", [["timeout", "256"]]), "ERROR 8 timeout must be 1 to 255"],
    ["tsize is answered by the size", ask("f513", [["tsize", "0"]]), "OACK tsize=513"],
    ["whatever number was sent", ask("f513", [["tsize", "5"]]), "OACK tsize=513"],
    ["in netascii the size is not known", ask("text", [["tsize", "0"]], "netascii"), "DATA 1 11"],
    ["utimeout", ask("f513", [["utimeout", "10000"]]), "OACK utimeout=10000"],
    ["utimeout too small", ask("f513", [["utimeout", "9999"]]), "ERROR 8 utimeout must be 10000 to 255000000"],
    ["rollover", ask("f513", [["rollover", "1"]]), "OACK rollover=1"],
    ["rollover 2", ask("f513", [["rollover", "2"]]), "ERROR 8 rollover must be 0 to 1"],
    ["windowsize", ask("f513", [["windowsize", "4"]]), "OACK windowsize=4"],
    ["windowsize above the limit", ask("f513", [["windowsize", "64"]]), "OACK windowsize=16"],
    ["windowsize 65535", ask("f513", [["windowsize", "65535"]]), "OACK windowsize=16"],
    ["windowsize 0", ask("f513", [["windowsize", "0"]]), "ERROR 8 windowsize must be 1 to 65535"],
    ["windowsize 65536", ask("f513", [["windowsize", "65536"]]), "ERROR 8 windowsize must be 1 to 65535"],
    [
      "U-Boot's request",
      ask("f513", [["timeout", "5"], ["tsize", "0"], ["blksize", "1468"], ["windowsize", "16"]]), // prettier-ignore
      "OACK timeout=5 tsize=513 blksize=1468 windowsize=16",
    ],
    ["modes in any case", ask("f513", [], "OcTeT"), "DATA 1 512"],
    ["mode mail", ask("f513", [], "mail"), "ERROR 4 Mode mail is not supported"],
    ["a mode that is none", ask("f513", [], "foo"), "ERROR 4 Mode foo is not supported"],
    ["sub-folders", ask("sub/file"), "DATA 1 1"],
    ["a leading slash", ask("/f511"), "DATA 1 511"],
    ["two of them", ask("//f511"), "DATA 1 511"],
    ["a leading dot", ask("./f511"), "DATA 1 511"],
    ["missing", ask("nowhere"), "ERROR 1 File not found"],
    ["a folder", ask("sub"), "ERROR 1 Not a file"],
    ["dot-dot", ask("../x"), "ERROR 2 Access violation"],
    ["dot-dot that stays inside", ask("sub/../f511"), "ERROR 2 Access violation"],
    ["absolute", ask("/etc/passwd"), "ERROR 2 Access violation"],
    ["absolute, with the root in it", ask(join(root, "f511")), "ERROR 2 Access violation"],
    ["no name", ask(""), "ERROR 4 Malformed request: the file name is empty"],
    ["a name of 256", ask("a".repeat(256)), "ERROR 0 The file name is too long"],
    ["a name that is not UTF-8", text("\0\x01\xff\xfe\0octet\0"), "ERROR 1 File not found"],
    ["an overlong dot-dot", text("\0\x01\xc0\xae\xc0\xae/x\0octet\0"), "ERROR 1 File not found"],
    ["no mode", text("\0\x01f511\0"), "ERROR 4 Malformed request: file name and mode must each end with a zero byte"],
    [
      "no zero at all",
      text("\0\x01f511"),
      "ERROR 4 Malformed request: file name and mode must each end with a zero byte",
    ],
    [
      "no zero after the mode",
      text("\0\x01f511\0octet"),
      "ERROR 4 Malformed request: file name and mode must each end with a zero byte",
    ],
    ["an option without value", text("\0\x01f511\0octet\0blksize\0"), "DATA 1 511"],
    ["an option that is cut off", text("\0\x01f511\0octet\0blksize\x0014"), "DATA 1 511"],
    ["a write request", buildRequest("wrq", "new", "octet"), "ERROR 4 Write requests are not supported"],
    ["one byte", text("\0"), "ERROR 4 Malformed packet"],
    ["nothing at all", text(""), "ERROR 4 Malformed packet"],
    ["an unknown operation", text("\0\x09xy"), "ERROR 4 Illegal TFTP operation 9"],
    ["a stray ACK", text("\0\x04\0\x01"), "ERROR 4 Not a request"],
    ["a stray DATA", buildData(1, new Uint8Array(5)), "ERROR 4 Not a request"],
    ["a stray OACK", text("\0\x06blksize\x008\0"), "ERROR 4 Not a request"],
    ["a stray ERROR is not answered", text("\0\x05\0\0oops\0"), "nothing"],
  ];
  for (const [what, request, answer] of cases) {
    const peer = await TftpPeer.open(t, port);
    peer.raw(request);
    assert.equal(await peer.hear(answer === "nothing" ? 150 : 5_000), answer, what);
    if (peer.transferPort !== undefined) peer.error(0, "enough");
    peer.close();
  }
});

test("block numbers go on with 0 after 65535, or with 1 where that was agreed on", async (t) => {
  const whole = randomBytes(8 * 65_600 + 3);
  const { port } = await startTftp(t, await folderWith(t, { big: whole }));
  for (const rollover of [[], [["rollover", "1"]]] satisfies OptionList[]) {
    const options: OptionList = [["blksize", "8"], ["windowsize", "16"], ...rollover]; // prettier-ignore
    const got = await download(t, { port, filename: "big", options });
    assert.ok(got.equals(whole), rollover.join(" "));
  }
});

test("netascii: LF becomes CR LF, CR becomes CR NUL, across blocks", async (t) => {
  const line = "one\ntwo\rthree\r\n";
  const whole = line.repeat(20_000);
  const { port } = await startTftp(t, await folderWith(t, { text: whole, empty: "" }));
  const want = whole.replace(/[\r\n]/g, (end) => (end === "\n" ? "\r\n" : "\r\0"));
  for (const options of [
    [],
    [
      ["blksize", "101"],
      ["windowsize", "7"],
      ["tsize", "0"],
    ],
  ] satisfies OptionList[]) {
    // prettier-ignore
    const got = await download(t, { port, filename: "text", mode: "netascii", options });
    assert.equal(got.toString("latin1"), want);
  }
  assert.equal((await download(t, { port, filename: "empty", mode: "NETASCII" })).length, 0);
});

test("the timer is our own, whatever timeout was agreed: at most two seconds between repeats", async (t) => {
  const { port } = await startTftp(t, await folderWith(t, { file: content }));
  const peer = await TftpPeer.open(t, port);
  peer.request("file", [["timeout", "255"]]);
  for (let repeat = 0; repeat < 4; repeat += 1) assert.equal(await peer.hear(3_000), "OACK timeout=255");
  peer.ack(0);
  for (let repeat = 0; repeat < 4; repeat += 1) assert.equal(await peer.hear(3_000), "DATA 1 512");
});

test("an OACK is repeated until ACK 0, and can be refused", async (t) => {
  const server = await startTftp(t, await folderWith(t, { file: content }));
  const peer = await TftpPeer.open(t, server.port);
  peer.request("file", [["blksize", "1024"]]);
  assert.equal(await peer.hear(), "OACK blksize=1024");
  assert.equal(await peer.hear(), "OACK blksize=1024");
  // Not an answer to an OACK.
  peer.ack(1);
  assert.equal(await peer.hear(), "OACK blksize=1024");
  peer.error(8, "no");
  await until(() => server.transfers === 0);
});

test("a stranger gets ERROR 5 and the transfer goes on", async (t) => {
  const { port } = await startTftp(t, await folderWith(t, { file: content }));
  const peer = await TftpPeer.open(t, port);
  const stranger = await TftpPeer.open(t, port);
  peer.request("file");
  assert.equal(await peer.hear(), "DATA 1 512");
  stranger.transferPort = peer.transferPort;
  stranger.ack(1);
  assert.equal(await stranger.hear(), "ERROR 5 Unknown transfer ID");
  stranger.error(0, "stop it");
  assert.equal(await stranger.hear(100), "nothing");
  peer.ack(1);
  // Perhaps DATA 1 once more in between, on a slow machine.
  let heard = await peer.hear();
  while (heard === "DATA 1 512") heard = await peer.hear();
  assert.equal(heard, "DATA 2 512");
});

test("noise from the client's own port does not end a transfer", async (t) => {
  const { port } = await startTftp(t, await folderWith(t, { file: content }));
  const peer = await TftpPeer.open(t, port);
  peer.request("file");
  assert.equal(await peer.hear(), "DATA 1 512");
  const target = peer.transferPort ?? 0;
  for (const noise of ["", "\0", "\0\x04", "\0\x09xx", "\0\x03\0\x01data", "\0\x01f\0octet\0", "\x01\x04\0\x01"]) {
    peer.sendTo(target, Buffer.from(noise, "latin1"));
  }
  // Padded, as some boot ROMs do it.
  peer.sendTo(target, Buffer.from("\0\x04\0\x01\0\0\0\0\0\0", "latin1"));
  let heard = await peer.hear();
  while (heard === "DATA 1 512") heard = await peer.hear();
  assert.equal(heard, "DATA 2 512");
});

test("a repeated request is the same transfer, an other one takes its place", async (t) => {
  const server = await startTftp(t, await folderWith(t, { one: content, two: content }));
  const peer = await TftpPeer.open(t, server.port);
  peer.request("one");
  assert.equal(await peer.hear(), "DATA 1 512");
  const first = peer.transferPort;
  peer.request("one");
  assert.equal(await peer.hear(), "DATA 1 512");
  assert.equal(peer.transferPort, first);
  assert.equal(server.transfers, 1);
  peer.ack(1);
  let heard = await peer.hear();
  while (heard === "DATA 1 512") heard = await peer.hear();
  assert.equal(heard, "DATA 2 512");
  // A board that was reset asks for its first file again.
  peer.request("two");
  heard = await peer.hear();
  while (heard === "DATA 2 512") heard = await peer.hear();
  assert.equal(heard, "DATA 1 512");
  assert.notEqual(peer.transferPort, first);
  assert.equal(server.transfers, 1);
});

test("more transfers than allowed are refused, in all and per client", async (t) => {
  const root = await folderWith(t, { file: content });
  const server = await startTftp(t, root, { limits: { transfers: 3, transfersPerPeer: 2 } });
  const peers = await Promise.all(Array.from({ length: 3 }, () => TftpPeer.open(t, server.port)));
  const heard = [];
  for (const peer of peers) {
    peer.request("file");
    heard.push(await peer.hear());
  }
  assert.deepEqual(heard, ["DATA 1 512", "DATA 1 512", "ERROR 0 Too many transfers, try again later"]);
  peers[0]?.error(0, "done");
  await until(() => server.transfers === 1);
  peers[2]?.request("file");
  assert.equal(await peers[2]?.hear(), "DATA 1 512");
});

test("a client that fell silent is given up, and so is one that takes too long", async (t) => {
  const root = await folderWith(t, { file: content });
  for (const limits of [{ silenceMs: 300 }, { totalMs: 300 }]) {
    const server = await startTftp(t, root, { limits });
    const peer = await TftpPeer.open(t, server.port);
    peer.request("file");
    let heard = await peer.hear();
    while (heard === "DATA 1 512") heard = await peer.hear();
    assert.match(heard, /^ERROR 0 (No answer|The transfer took too long)/);
    assert.equal(server.transfers, 0);
  }
});

test("a file that becomes shorter on the way ends in an ERROR", async (t) => {
  const root = await folderWith(t, { file: randomBytes(4 << 20) });
  const { port } = await startTftp(t, root);
  const peer = await TftpPeer.open(t, port);
  peer.request("file", [["blksize", "8192"]]);
  assert.equal(await peer.hear(), "OACK blksize=8192");
  await truncate(join(root, "file"), 10);
  peer.ack(0);
  let heard = await peer.hear();
  for (let block = 1; heard.startsWith("DATA"); block += 1) {
    peer.ack(Number(heard.split(" ")[1]));
    heard = await peer.hear();
  }
  assert.equal(heard, "ERROR 0 Read error on the server");
});

test("a file that the agent may not read is refused", async (t) => {
  const root = await folderWith(t, { file: content });
  await chmod(join(root, "file"), 0);
  // Root may read everything: be nobody for as long as it takes.
  const uid = process.geteuid?.();
  const nobody = 65534;
  if (uid === 0) {
    process.seteuid?.(nobody);
    t.after(() => process.seteuid?.(0));
  }
  const { port } = await startTftp(t, root);
  await assert.rejects(download(t, { port, filename: "file" }), /ERROR 2 Access violation/);
  if (uid === 0) process.seteuid?.(0);
});

test("stop frees the port at once, also in mid-transfer, and tells the client", async (t) => {
  const root = await folderWith(t, { file: content });
  const first = await startTftp(t, root);
  const peer = await TftpPeer.open(t, first.port);
  peer.request("file");
  assert.equal(await peer.hear(), "DATA 1 512");
  first.stop();
  const second = await startTftp(t, root, { port: first.port });
  assert.equal(await peer.hear(), "ERROR 0 The server was stopped");
  assert.ok((await download(t, { port: second.port, filename: "file" })).equals(content));
  first.stop();
});

test("a port that is taken, and an address that is not ours, are told", async (t) => {
  const root = await folderWith(t);
  const { port } = await startTftp(t, root);
  await assert.rejects(startTftp(t, root, { port }), {
    code: "E_IO",
    message: `port already in use: 127.0.0.1:${port}`,
  });
  await assert.rejects(startTftp(t, root, { hosts: ["198.51.100.1"] }), { code: "E_IO", message: /not an address of/ });
  // What was bound before the failure is free again.
  const other = await startTftp(t, root, { hosts: ["127.0.0.2"], port });
  await assert.rejects(startTftp(t, root, { hosts: ["127.0.0.3", "127.0.0.1"], port }), { code: "E_IO" });
  await startTftp(t, root, { hosts: ["127.0.0.3"], port });
  other.stop();
});

test("several addresses, IPv4 and IPv6: the answer comes from the one that was asked", async (t) => {
  const root = await folderWith(t, { file: content });
  const { port, addresses } = await startTftp(t, root, { hosts: ["127.0.0.1", "127.0.0.2", "::1"] });
  assert.deepEqual(addresses, ["127.0.0.1", "127.0.0.2", "::1"]);
  for (const address of addresses) {
    const peer = await TftpPeer.open(t, port, address);
    peer.request("file");
    const received = await peer.next();
    assert.equal(received?.address, address);
    peer.error(0, "enough");
  }
  const wildcard = await startTftp(t, root, { hosts: ["::"] });
  assert.ok(wildcard.addresses.includes("127.0.0.1") && wildcard.addresses.includes("::1"));
  assert.ok((await download(t, { port: wildcard.port, address: "::1", filename: "file" })).equals(content));
});
