import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { test } from "node:test";
import fc from "fast-check";
import { negotiate } from "../../net/tftp/options.ts";
import {
  buildAck,
  buildData,
  buildError,
  buildOack,
  buildRequest,
  parsePacket,
  type OptionList,
} from "../../net/tftp/protocol.ts";
import { download, folderWith, startTftp, TftpPeer, until } from "../sim/tftp.ts";

const word = fc.string({ unit: "grapheme", maxLength: 40 }).filter((text) => !/[\0\p{Surrogate}]/u.test(text));
const option = fc.tuple(
  fc.oneof(fc.constantFrom("blksize", "TSIZE", "timeout", "windowsize", "tsize", "utimeout", "rollover"), word),
  fc.oneof(fc.integer({ min: -5, max: 70_000 }).map(String), word),
);
const options: fc.Arbitrary<OptionList> = fc.array(option, { maxLength: 8 });
const bytes = fc.uint8Array({ maxLength: 600 });
/** Bytes that look like TFTP, more or less. */
const packet = fc.oneof(
  bytes,
  fc.tuple(fc.integer({ min: 0, max: 8 }), bytes).map(([op, rest]) => Uint8Array.of(0, op, ...rest)),
  fc
    .tuple(
      fc.constantFrom("rrq" as const, "wrq" as const),
      fc.oneof(fc.constantFrom("file", "../file", "/", "sub"), word),
      fc.oneof(fc.constantFrom("octet", "netascii", "mail"), word),
      options,
    ) // prettier-ignore
    .map(([op, name, mode, list]) => buildRequest(op, name, mode, list)),
  fc.integer({ min: 0, max: 70_000 }).map(buildAck),
  fc.tuple(fc.integer({ min: 0, max: 70_000 }), bytes).map(([block, data]) => buildData(block, data)),
);

test("any bytes are a packet or malformed, and what was built is parsed as it was", () => {
  fc.assert(fc.property(bytes, (any) => void parsePacket(any)));
  const name = word.filter((text) => text !== "");
  fc.assert(
    fc.property(fc.constantFrom("rrq" as const, "wrq" as const), name, word, options, (op, filename, mode, list) => {
      const parsed = parsePacket(buildRequest(op, filename, mode, list));
      assert.deepEqual(parsed, { op, filename, mode: mode.toLowerCase(), options: list.map((pair) => [...pair]) });
    }),
  );
  fc.assert(
    fc.property(fc.nat(65_535), bytes, word, options, (number, data, message, list) => {
      assert.deepEqual(parsePacket(buildAck(number)), { op: "ack", block: number });
      assert.deepEqual(parsePacket(buildData(number, data)), { op: "data", block: number, data });
      const code = number & 0xff;
      assert.deepEqual(parsePacket(buildError(code, message)), { op: "error", code, message });
      if (list.length > 0)
        assert.deepEqual(parsePacket(buildOack(list)), { op: "oack", options: list.map((p) => [...p]) });
    }),
  );
});

test("whatever is asked, the terms stay within what the RFCs and the limits allow", () => {
  fc.assert(
    fc.property(options, fc.integer({ min: 1, max: 1024 }), fc.option(fc.nat()), (asked, windowLimit, size) => {
      const terms = negotiate(asked, { sizeBytes: size ?? "as-announced", windowLimit });
      if ("refused" in terms) return;
      assert.ok(terms.blockSizeBytes >= 8 && terms.blockSizeBytes <= 65_464);
      assert.ok(terms.windowSize >= 1 && terms.windowSize <= windowLimit);
      assert.ok(terms.windowSize === 1 || terms.windowSize * terms.blockSizeBytes <= 1 << 20);
      for (const [name, value] of terms.accepted) {
        assert.ok(asked.some(([askedName]) => askedName === name));
        if (name.toLowerCase() === "blksize") assert.equal(value, String(terms.blockSizeBytes));
        if (name.toLowerCase() === "windowsize") assert.equal(value, String(terms.windowSize));
      }
    }),
  );
});

/** A valid packet with some of its bytes changed, cut off or doubled. */
const mutated = fc
  .tuple(packet, fc.array(fc.tuple(fc.nat(700), fc.nat(255)), { maxLength: 4 }), fc.option(fc.nat(700)))
  .map(([valid, changes, cut]) => {
    const bytes = Uint8Array.from(valid.subarray(0, cut ?? undefined));
    for (const [at, value] of changes) if (at < bytes.length) bytes[at] = value;
    return bytes;
  });

test("a live TFTP server survives 10,000 mutated packets, while it sends, takes and listens, in flat memory", async (t) => {
  const content = randomBytes(20_000);
  const root = await folderWith(t, { file: content });
  const uploads = { folder: await folderWith(t), maxBytes: 10_000 };
  const limits = { silenceMs: 200, transfers: 8, transfersPerPeer: 8 };
  const server = await startTftp(t, root, { limits, uploads });
  const documented = new Set([0, 1, 2, 3, 4, 5, 6, 8]);
  const kinds = ["data", "oack", "ack", "error"];
  let [packets, names] = [0, 0];
  /** What a request opens is told noise, and what it opened before is told it as well. */
  const batch = async (sent: readonly (readonly [Uint8Array, boolean])[], isWrite: boolean) => {
    const peer = await TftpPeer.open(t, server.port);
    const options: OptionList = [["windowsize", "4"]];
    peer.raw(
      isWrite
        ? buildRequest("wrq", `new${(names += 1)}`, "octet", options)
        : buildRequest("rrq", "file", "octet", options),
    );
    await peer.next(1_000);
    for (const [bytes, toTransfer] of sent) {
      const to = toTransfer ? peer.transferPort : undefined;
      peer.sendTo(to ?? peer.serverPort, bytes);
      packets += 1;
    }
    for (let heard = await peer.next(5); heard !== undefined; heard = await peer.next(1)) {
      const { packet } = heard;
      if (packet.op === "error") assert.ok(documented.has(packet.code), packet.message);
      else assert.ok(kinds.includes(packet.op), packet.op);
    }
    if (peer.transferPort !== undefined) peer.error(0, "enough");
    peer.close();
  };
  const sample = fc.array(fc.tuple(fc.oneof(packet, mutated), fc.boolean()), { minLength: 40, maxLength: 60 });
  const run = (numRuns: number) =>
    fc.assert(fc.asyncProperty(sample, fc.boolean(), batch), { numRuns, interruptAfterTimeLimit: 25_000 });
  await run(30);
  const before = process.memoryUsage();
  await run(200);
  const after = process.memoryUsage();
  assert.ok(packets >= 10_000, `${packets} packets`);
  const grown = (kind: "rss" | "external" | "arrayBuffers") => (after[kind] - before[kind]) / (1 << 20);
  assert.ok(grown("arrayBuffers") < 20 && grown("rss") < 100, `${grown("arrayBuffers")} and ${grown("rss")} MiB more`);
  await until(() => server.transfers === 0);
  assert.ok((await download(t, { port: server.port, filename: "file" })).equals(content));
});
