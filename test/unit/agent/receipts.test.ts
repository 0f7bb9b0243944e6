import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { chmodSync, existsSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, test } from "node:test";
import type { FlashReport, FlashStart } from "../../../agent/driver/receipt.ts";
import { configDigest } from "../../../agent/ops/receipts/config-digest.ts";
import { parseReceipt } from "../../../agent/ops/receipts/format.ts";
import { keepReceipts } from "../../../agent/ops/receipts/keeper.ts";
import { generateHostKey, publicPemOf, readPrivateKey, verifyReceipt } from "../../../agent/ops/receipts/signature.ts";
import { ReceiptStore } from "../../../agent/ops/receipts/store.ts";
import { scratch } from "../../sim/agent.ts";
import { missingLoops, smallFileSystem } from "../../sim/loop.ts";

const start: FlashStart = {
  startedAt: "2026-03-01T12:00:00.000Z",
  driver: "storage",
  method: "block",
  image: { name: "image.raw", bytes: 3, encoding: null },
};
const report: FlashReport = { ...start, verdict: "verified", durationMs: 7, steps: [] };

function keeper(store: ReceiptStore, exporter = "bench") {
  const warnings: string[] = [];
  const exported = () => ({ power: { type: "a.Power", config: { password: "hunter2" } } });
  const log = { warn: (message: string) => void warnings.push(message) };
  const kept = keepReceipts(store, "1.2.3", { exporter, lease: () => "lease-1", exported, log });
  return { begin: (given: FlashStart) => kept.begin(given), warnings };
}

describe("receipts on disk", () => {
  test("a flash has a beginning, and then a receipt with all that the exporter knows", async (t) => {
    const directory = join(scratch(t), "state", "receipts");
    const store = new ReceiptStore({ directory });
    const { begin, warnings } = keeper(store);
    const started = await begin(start);
    assert.deepEqual(
      (await store.list()).map(({ state }) => state),
      ["running"],
    );
    assert.deepEqual(await store.settle(), [], "we are alive");
    const receipt = await started.end(report);
    assert.equal(receipt.exporter, "bench");
    assert.equal(receipt.lease, "lease-1");
    assert.match(receipt.configSha256 ?? "", /^[0-9a-f]{64}$/);
    assert.equal(receipt.versions?.["jumpstarter-agent"], "1.2.3");
    assert.equal(receipt.versions["node"], process.versions.node);
    assert.deepEqual(readdirSync(directory), [`${receipt.id}.json`]);
    assert.deepEqual(parseReceipt(readFileSync(join(directory, `${receipt.id}.json`), "utf8")), receipt);
    assert.deepEqual(warnings, []);
  });

  test("an exporter's name leads nowhere", async (t) => {
    const directory = scratch(t);
    const { id = "" } = await (await keeper(new ReceiptStore({ directory }), "../../a/b .").begin(start)).end(report);
    assert.deepEqual(readdirSync(directory), [`${id}.json`]);
    assert.match(id, /^\d{8}T\d{9}Z-[\w-]+-[0-9a-f]{6}$/);
  });

  test("what a process that is gone has begun is an interrupted flash", async (t) => {
    const directory = scratch(t);
    const store = new ReceiptStore({ directory });
    await keeper(store).begin(start);
    const [name = ""] = readdirSync(directory);
    const id = name.replace(".started.json", "");
    // Another process has our number now: it began at another time.
    const marker = JSON.parse(readFileSync(join(directory, name), "utf8")) as { process: { startTicks: string } };
    marker.process.startTicks = "1";
    writeFileSync(join(directory, name), JSON.stringify(marker));

    const [seen] = await store.list();
    assert.equal(seen?.state === "ended" && seen.receipt.verdict, "interrupted", "also before anybody has settled it");
    const [settled, ...others] = await store.settle();
    assert.deepEqual(others, []);
    assert.equal(settled?.verdict, "interrupted");
    assert.equal(settled.durationMs, undefined);
    assert.deepEqual(readdirSync(directory), [`${id}.json`]);
    assert.deepEqual(await store.settle(), []);
  });

  test("what ended and was killed before it could tidy up has ended", async (t) => {
    const directory = scratch(t);
    const store = new ReceiptStore({ directory });
    const started = await keeper(store).begin(start);
    const [name = ""] = readdirSync(directory);
    const marker = readFileSync(join(directory, name), "utf8").replace(/"startTicks": "\d+"/, '"startTicks": "1"');
    const { id = "" } = await started.end(report);
    writeFileSync(join(directory, name), marker);
    assert.deepEqual(await store.settle(), []);
    assert.deepEqual(readdirSync(directory), [`${id}.json`]);
    const kept = await store.get(id);
    assert.equal(kept.state === "ended" && kept.receipt.verdict, "verified");
  });

  test("a beginning that is cut off or garbled keeps nobody from starting", async (t) => {
    const directory = scratch(t);
    const store = new ReceiptStore({ directory });
    for (const [index, text] of ["", "{", "null", "[]", '{"exporter":1}', "\0"].entries()) {
      writeFileSync(join(directory, `broken-${index}.started.json`), text);
    }
    assert.deepEqual(new Set((await store.list()).map(({ state }) => state)), new Set(["damaged"]));
    assert.deepEqual(await store.settle(), []);
    assert.deepEqual(readdirSync(directory), []);
  });

  test("the oldest go when there are too many, with their signatures", async (t) => {
    const directory = scratch(t);
    const keyPath = join(scratch(t), "key.pem");
    writeFileSync(keyPath, generateHostKey(), { mode: 0o600 });
    const store = new ReceiptStore({ directory, key: await readPrivateKey(keyPath), maxReceipts: 3 });
    const old = ["20200101T000000Z-a-000000", "20210101T000000Z-a-000000", "20220101T000000Z-a-000000"];
    for (const id of old) {
      await store.end(id, { format: "jumpstarter-agent/flash-receipt/v1", exporter: "a", ...report });
    }
    const { id } = await (await keeper(store).begin(start)).end(report);
    const kept = [...old.slice(1), id].flatMap((name) => [`${name}.dsse.json`, `${name}.json`]);
    assert.deepEqual(readdirSync(directory).sort(), kept.sort());
    const small = new ReceiptStore({ directory, maxBytes: 1 });
    const last = await (await keeper(small).begin(start)).end(report);
    assert.deepEqual(readdirSync(directory), [`${last.id}.json`], "the newest stays, however large");
  });

  test("a hundred failures are a hundred failed receipts", async (t) => {
    const store = new ReceiptStore({ directory: scratch(t) });
    const { begin } = keeper(store);
    const failure = { step: "write", code: "E_IO", message: "[Errno 5] Input/output error" } as const;
    await Promise.all(
      Array.from({ length: 100 }, async () => (await begin(start)).end({ ...report, verdict: "failed", failure })),
    );
    const flashes = await store.list();
    assert.equal(flashes.length, 100);
    for (const flash of flashes) assert.equal(flash.state === "ended" && flash.receipt.verdict, "failed");
  });

  test("a full disk costs a warning, never the flash, and leaves no halves", { skip: missingLoops }, async (t) => {
    const directory = smallFileSystem(t, 64 * 1024);
    const store = new ReceiptStore({ directory });
    writeFileSync(join(directory, "filler"), "");
    assert.throws(() => writeFileSync(join(directory, "filler"), Buffer.alloc(1024 * 1024)), { code: "ENOSPC" });
    const { begin, warnings } = keeper(store);
    const receipt = await (await begin(start)).end(report);
    assert.equal(receipt.verdict, "verified");
    assert.equal(receipt.id, undefined, "it is not kept");
    assert.equal(warnings.length, 2);
    assert.match(warnings.join(), /the receipt of this flash is not kept in .*No space left/);
    assert.deepEqual(readdirSync(directory), ["filler"]);
  });

  test("no directory can be made: a warning", async (t) => {
    const file = join(scratch(t), "file");
    writeFileSync(file, "");
    const { begin, warnings } = keeper(new ReceiptStore({ directory: join(file, "receipts") }));
    assert.equal((await (await begin(start)).end(report)).verdict, "verified");
    assert.equal(warnings.length, 2);
  });
});

describe("digest of a configuration", () => {
  test("is that of drivers, whatever the order, and no secret goes into it", () => {
    const digestOf = (config: Record<string, unknown>) => configDigest({ one: { type: "T", config } });
    assert.equal(digestOf({ a: 1, b: { c: 2, d: 3 } }), digestOf({ b: { d: 3, c: 2 }, a: 1 }));
    assert.notEqual(digestOf({ a: 1 }), digestOf({ a: 2 }));
    for (const key of ["password", "http_password", "api_key", "secret", "access_key_id", "bearerToken"]) {
      assert.equal(digestOf({ [key]: "x" }), digestOf({ [key]: "y" }), key);
    }
    assert.equal(digestOf({ url: "http://ann:x@host/" }), digestOf({ url: "http://bob:y@host/" }));
    assert.notEqual(digestOf({ url: "http://host/" }), digestOf({ url: "http://other/" }));
  });
});

describe("signatures", () => {
  const key = async (directory: string) => {
    const path = join(directory, "key.pem");
    writeFileSync(path, generateHostKey(), { mode: 0o600 });
    return await readPrivateKey(path);
  };

  test("openssl agrees that the envelope's signature is over the DSSE encoding", async (t) => {
    const directory = scratch(t);
    const store = new ReceiptStore({ directory: join(directory, "receipts"), key: await key(directory) });
    const { id = "" } = await (await keeper(store).begin(start)).end(report);
    const envelope = JSON.parse(readFileSync(store.path(id, "envelope"), "utf8")) as {
      payloadType: string;
      payload: string;
      signatures: { sig: string }[];
    };
    const body = readFileSync(store.path(id, "receipt"));
    assert.deepEqual(Buffer.from(envelope.payload, "base64"), body);
    const { payloadType } = envelope;
    const signed = Buffer.concat([Buffer.from(`DSSEv1 ${payloadType.length} ${payloadType} ${body.length} `), body]);
    writeFileSync(join(directory, "signed"), signed);
    writeFileSync(join(directory, "sig"), Buffer.from(envelope.signatures[0]?.sig ?? "", "base64"));
    writeFileSync(join(directory, "pub.pem"), publicPemOf(await readPrivateKey(join(directory, "key.pem"))));
    const words = ["pkeyutl", "-verify", "-rawin", "-pubin", "-inkey", "pub.pem", "-in", "signed", "-sigfile", "sig"];
    const child = spawn("openssl", words, { cwd: directory, stdio: "ignore" });
    assert.deepEqual(await once(child, "exit"), [0, null]);
  });

  test("one changed bit of the receipt or the envelope is found", async (t) => {
    const directory = scratch(t);
    const signer = await key(directory);
    const store = new ReceiptStore({ directory: join(directory, "receipts"), key: signer });
    const { id = "" } = await (await keeper(store).begin(start)).end(report);
    const text = readFileSync(store.path(id, "receipt"), "utf8");
    const envelope = readFileSync(store.path(id, "envelope"), "utf8");
    verifyReceipt(text, envelope, signer);
    assert.throws(() => verifyReceipt(text.replace("verified", "writtenn"), envelope, signer), /was changed after/);
    const other = await key(scratch(t));
    assert.throws(() => verifyReceipt(text, envelope, other), /signed with another key: [0-9a-f]{64}, not/);
    let refused = 0;
    const keyid = envelope.indexOf('"keyid":"');
    for (let at = 0; at < envelope.length; at += 7) {
      const changed = Buffer.from(envelope);
      changed.writeUInt8(changed.readUInt8(at) ^ 1, at);
      // The id of a key is a hint, and not signed.
      if (at >= keyid && at < keyid + 75) continue;
      // Base64 of ed25519 has bits at its end that say nothing, and a changed newline is none.
      if (at >= envelope.length - 8) continue;
      assert.throws(() => verifyReceipt(text, changed.toString("latin1"), signer), { code: "E_DIGEST" }, `at ${at}`);
      refused += 1;
    }
    assert.ok(refused > 50, `${refused}`);
  });

  test("a key that others can read, or of another kind, does not sign", async (t) => {
    const directory = scratch(t);
    await key(directory);
    chmodSync(join(directory, "key.pem"), 0o644);
    await assert.rejects(readPrivateKey(join(directory, "key.pem")), /open to other users: chmod 600/);
    writeFileSync(join(directory, "no.pem"), "-----BEGIN", { mode: 0o600 });
    await assert.rejects(readPrivateKey(join(directory, "no.pem")), { code: "E_CONFIG" });
  });
});

describe("jmp-agent receipts", () => {
  async function run(directory: string, ...words: string[]) {
    const child = spawn(process.execPath, ["--import", "tsx", "agent/cli/jmp-agent.ts", "receipts", ...words], {
      env: { ...process.env, STATE_DIRECTORY: directory },
    });
    let out = "";
    for (const stream of [child.stdout, child.stderr]) stream.on("data", (chunk: Buffer) => (out += chunk.toString()));
    const [code] = (await once(child, "close")) as [number];
    return { code, out };
  }

  test("makes a key once, lists, shows, verifies, and names what was changed", async (t) => {
    const state = scratch(t);
    const directory = join(state, "receipts");
    const made = await run(state, "keygen");
    assert.equal(made.code, 0, made.out);
    assert.equal(statSync(join(directory, "host-key.pem")).mode & 0o777, 0o600);
    const keyPem = readFileSync(join(directory, "host-key.pem"), "utf8");
    assert.match((await run(state, "keygen")).out, /is there already, and stays/);
    assert.equal(readFileSync(join(directory, "host-key.pem"), "utf8"), keyPem);

    const store = new ReceiptStore({ directory, key: await readPrivateKey(join(directory, "host-key.pem")) });
    const { id = "" } = await (
      await keeper(store).begin(start)
    ).end({ ...report, image: { name: "a\x1b[2J", encoding: null } });
    const listed = await run(state, "list");
    assert.match(listed.out, new RegExp(`^${id}  verified \\*  0.0 s +storage  a\\?\\[2J`, "m"));
    assert.match((await run(state, "show", id.slice(0, 12))).out, /^exporter +bench$/m);
    assert.equal((await run(state, "show", "latest", "--json")).out, readFileSync(store.path(id, "receipt"), "utf8"));
    const page = join(state, "page.html");
    assert.equal((await run(state, "show", id, "--html", page)).code, 0);
    assert.ok(existsSync(page));

    assert.equal((await run(state, "verify", "latest", store.path(id, "receipt"))).code, 0);
    writeFileSync(store.path(id, "receipt"), readFileSync(store.path(id, "receipt"), "utf8").replace("bench", "bunch"));
    const verdict = await run(state, "verify", id);
    assert.equal(verdict.code, 1);
    assert.match(verdict.out, /^BAD .* the receipt was changed after it was signed/);
    assert.equal((await run(state, "show", "nothing")).code, 2);
  });
});
