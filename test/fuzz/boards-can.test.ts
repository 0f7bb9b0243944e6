import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { readControl } from "../../agent/sys/can.ts";
import { canStates, readCanLink, writeCanLinkChange } from "../../agent/sys/can-link.ts";
import {
  readAttributes,
  readMessages,
  uint32,
  writeAttribute,
  writeMessage,
} from "../../agent/sys/netlink-messages.ts";
import { readError } from "../../agent/sys/rtnetlink.ts";
import type { CanFrame } from "../../boards/can/bus.ts";
import { canMessage } from "../../boards/can/interface.ts";
import { toFrame, toMessage } from "../../boards/can/messages.ts";
import {
  decodeFrame,
  describeError,
  encodeFilters,
  encodeFrame,
  fdLengthFor,
  passes,
} from "../../boards/can/protocol.ts";
import { frameOf } from "../sim/can-frames.ts";

const numRuns = 10_000;
const arrival = { timestampS: 1, channel: "can0", sentHere: false };

/** Whatever fits into some frame. */
const frame: fc.Arbitrary<CanFrame> = fc
  .record({ extended: fc.boolean(), remote: fc.boolean(), fd: fc.boolean(), flags: fc.nat(3), id: fc.nat(0x1fff_ffff), data: fc.uint8Array({ maxLength: 64 }) })
  .map(({ extended, fd, flags, id, data, ...given }) => {
    const remote = given.remote && !fd;
    return frameOf({
      extended,
      remote,
      fd,
      id: extended ? id : id & 0x7ff,
      bitrateSwitch: fd && (flags & 1) !== 0,
      errorStateIndicator: fd && (flags & 2) !== 0,
      data: remote ? [] : data.subarray(0, fd ? 64 : 8),
      dlc: remote ? data.length % 9 : Math.min(data.length, fd ? 64 : 8),
    });
  }); // prettier-ignore

test("any frame comes through bytes and through a message as it was", () => {
  fc.assert(
    fc.property(frame, (sent) => {
      const data = new Uint8Array(sent.fd ? fdLengthFor(sent.data.length) : sent.data.length);
      data.set(sent.data);
      const padded = { ...sent, data, dlc: sent.remote ? sent.dlc : data.length };
      assert.deepEqual(decodeFrame(encodeFrame(sent), arrival), { ...padded, ...arrival });
      const message = canMessage.parse(toMessage(sent));
      assert.deepEqual({ ...toFrame(message), data: Uint8Array.from(toFrame(message).data) }, sent);
    }),
    { numRuns },
  );
});

test("any bytes are a frame or none, and a frame can be encoded again", () => {
  const sizes = fc.oneof(fc.constant(16), fc.constant(72), fc.nat(80));
  const bytes = sizes.chain((length) => fc.uint8Array({ minLength: length, maxLength: length }));
  let frames = 0;
  fc.assert(
    fc.property(bytes, (given) => {
      // Of random lengths few are frames.
      if (given.length === 16 || given.length === 72) given[4] = (given[4] ?? 0) % (given.length === 16 ? 10 : 66);
      const read = decodeFrame(given, arrival);
      if (read === undefined) return;
      frames += 1;
      assert.ok(read.data.length <= (read.fd ? 64 : 8));
      assert.ok(read.id >= 0 && read.id <= (read.extended || read.error ? 0x1fff_ffff : 0x7ff));
      assert.notEqual(describeError(read), "");
      const again = decodeFrame(encodeFrame(read), arrival);
      assert.deepEqual(again, { ...read, data: again?.data, dlc: again?.dlc });
    }),
    { numRuns },
  );
  assert.ok(frames > numRuns / 2, `${frames}`);
});

test("our filters decide as the kernel's, which compares id and flags under the mask", () => {
  const filter = fc.record({ id: fc.nat(0x1fff_ffff), mask: fc.oneof(fc.nat(7), fc.nat(0x1fff_ffff)), extended: fc.option(fc.boolean(), { nil: undefined }) });
  fc.assert(
    fc.property(fc.array(filter, { minLength: 1, maxLength: 5 }), frame, (filters, sent) => {
      const view = new DataView(encodeFilters(filters).buffer);
      const word = sent.id + (sent.extended ? 0x8000_0000 : 0) + (sent.remote ? 0x4000_0000 : 0);
      const kernel = filters.some((_, index) => {
        const [id, mask] = [view.getUint32(index * 8, true), view.getUint32(index * 8 + 4, true)];
        return ((word & mask) >>> 0) === ((id & mask) >>> 0);
      });
      assert.equal(passes(filters, sent), kernel);
    }),
    { numRuns },
  );
}); // prettier-ignore

const attribute: fc.Arbitrary<Buffer> = fc
  .tuple(fc.nat(0xffff), fc.uint8Array({ maxLength: 40 }))
  .map(([type, value]) => writeAttribute(type, value));
/** An answer about a link, with attributes that make sense and some that do not, then a few bytes changed and the end cut off. */
const linkAnswer = fc
  .tuple(
    fc.array(fc.tuple(fc.nat(20), fc.uint8Array({ maxLength: 40 })), { maxLength: 12 }),
    fc.array(attribute, { maxLength: 4 }),
    fc.array(fc.tuple(fc.nat(300), fc.nat(255)), { maxLength: 4 }),
    fc.nat(300),
  )
  .map(([data, others, changes, cut]) => {
    const info = [writeAttribute(1, Buffer.from("can\0")), writeAttribute(2, ...data.map(([type, value]) => writeAttribute(type, value)))];
    const head = Buffer.alloc(16);
    head.writeUInt16LE(280, 2);
    const body = Buffer.concat([head, writeAttribute(3, Buffer.from("can0\0")), ...others, writeAttribute(18, ...info, writeAttribute(3, uint32(1)))]);
    for (const [at, value] of changes) if (at < body.length) body[at] = value;
    return cut % 3 === 0 ? body.subarray(0, Math.max(0, body.length - cut)) : body;
  }); // prettier-ignore

test("any answer about a link is a link whose numbers are numbers, or none", () => {
  let controllers = 0;
  fc.assert(
    fc.property(linkAnswer, (body) => {
      const link = readCanLink(body);
      if (link?.controller === undefined) return;
      controllers += 1;
      assert.ok(canStates.includes(link.controller.state));
      for (const value of Object.values(link.controller)) {
        if (typeof value === "number") assert.ok(Number.isFinite(value) && value >= 0);
      }
    }),
    { numRuns },
  );
  assert.ok(controllers > numRuns / 4, `${controllers}`);
});

test("any datagram is cut into messages and attributes that lie within it", () => {
  const real = linkAnswer.map((body) => writeMessage(16, 2, 1, body));
  const datagram = fc.oneof(
    fc.uint8Array({ maxLength: 200 }).map((bytes) => Buffer.from(bytes)),
    fc.array(real, { maxLength: 3 }).map((messages) => Buffer.concat(messages.map((one) => Buffer.concat([one, Buffer.alloc(-one.length & 3)])))),
  );
  fc.assert(
    fc.property(datagram, fc.array(fc.tuple(fc.nat(200), fc.nat(255)), { maxLength: 3 }), (bytes, changes) => {
      for (const [at, value] of changes) if (at < bytes.length) bytes[at] = value;
      const messages = readMessages(bytes);
      assert.ok(messages.reduce((sum, { body }) => sum + 16 + body.length, 0) <= bytes.length);
      for (const { body } of messages) {
        readError(body);
        const values = [...readAttributes(body).values()];
        assert.ok(values.reduce((sum, value) => sum + 4 + value.length, 0) <= body.length);
      }
      readControl(bytes);
    }),
    { numRuns },
  );
}); // prettier-ignore

test("any change of a link is made of whole attributes", () => {
  const number = fc.option(fc.nat(0xffff_ffff), { nil: undefined });
  const flag = fc.option(fc.boolean(), { nil: undefined });
  const change = fc.record({ up: flag, bitrate: number, dataBitrate: number, fd: flag, listenOnly: flag, restartMs: number });
  fc.assert(
    fc.property(change, (given) => {
      const data = readAttributes(
        readAttributes(readAttributes(writeCanLinkChange(1, given).subarray(16)).get(18) ?? Buffer.alloc(0)).get(2) ?? Buffer.alloc(0),
      );
      assert.equal(data.get(1)?.readUInt32LE(0), given.bitrate);
      assert.equal(data.get(9)?.readUInt32LE(0), given.dataBitrate);
      assert.equal(data.get(6)?.readUInt32LE(0), given.restartMs);
      assert.equal(data.has(5), given.fd !== undefined || given.listenOnly !== undefined);
    }),
    { numRuns },
  );
}); // prettier-ignore
