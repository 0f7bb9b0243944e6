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
  fc.oneof(fc.constantFrom("blksize", "TSIZE", "timeout", "windowsize", "tsize"), word),
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
      const terms = negotiate(asked, { sizeBytes: size ?? undefined, windowLimit });
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

test("a live TFTP server survives any packets, at its port and at its transfers', with documented errors only", async (t) => {
  const content = randomBytes(20_000);
  const root = await folderWith(t, { file: content });
  const server = await startTftp(t, root, { limits: { silenceMs: 300, transfers: 8 } });
  const documented = new Set([0, 1, 2, 4, 5, 8]);
  await fc.assert(
    fc.asyncProperty(fc.array(fc.tuple(packet, fc.boolean()), { minLength: 1, maxLength: 30 }), async (packets) => {
      const peer = await TftpPeer.open(t, server.port);
      peer.request("file", [["windowsize", "4"]]);
      await peer.next();
      for (const [sent, toTransfer] of packets) {
        if (toTransfer && peer.transferPort !== undefined) peer.sendTo(peer.transferPort, sent);
        else peer.raw(sent);
      }
      for (let heard = await peer.next(20); heard !== undefined; heard = await peer.next(5)) {
        if (heard.packet.op === "error") assert.ok(documented.has(heard.packet.code), heard.packet.message);
        else assert.ok(heard.packet.op === "data" || heard.packet.op === "oack", heard.packet.op);
      }
      peer.close();
    }),
    { numRuns: 300, interruptAfterTimeLimit: 20_000 },
  );
  await until(() => server.transfers === 0);
  assert.ok((await download(t, { port: server.port, filename: "file" })).equals(content));
});
