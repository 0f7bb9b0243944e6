import assert from "node:assert/strict";
import { test } from "node:test";
import { canLayout, readControl } from "../../../agent/sys/can.ts";
import { canStates, canStructures, ifinfomsg, readCanLink, writeCanLinkChange } from "../../../agent/sys/can-link.ts";
import {
  nlmsghdr,
  readAttributes,
  readMessages,
  rtattr,
  uint32,
  writeAttribute,
  writeMessage,
} from "../../../agent/sys/netlink-messages.ts";
import { loadCanLinks, readError } from "../../../agent/sys/rtnetlink.ts";
import { cValues, layoutExpressions, noCompiler } from "../../sim/c-values.ts";

test("the structures are laid out as C lays them out", { skip: noCompiler }, (t) => {
  const structures = { ...canLayout, ...canStructures, ifinfomsg, nlmsghdr, rtattr };
  const headers = ["sys/socket.h", "time.h", "linux/can.h", "linux/can/netlink.h", "linux/rtnetlink.h"];
  const expected: [string, number][] = [];
  const expressions = Object.entries(structures).flatMap(([name, { bytes, ...members }]) => {
    expected.push([name, bytes], ...Object.entries(members).map(([m, at]): [string, number] => [`${name}.${m}`, at]));
    const names = Object.fromEntries(Object.keys(members).map((member) => [member, member]));
    return layoutExpressions(`struct ${name}`, names);
  });
  const values = cValues(t, headers, expressions);
  assert.deepEqual(
    values.map((value, index) => [expected[index]?.[0], value]),
    expected,
  );
});

/** An answer to RTM_GETLINK, as the kernel writes it. */
function linkBody(options: { type?: number; flags?: number; kind?: string; data?: Buffer; xstats?: Buffer }): Buffer {
  const head = Buffer.alloc(16);
  head.writeUInt16LE(options.type ?? 280, 2);
  head.writeInt32LE(7, 4);
  head.writeUInt32LE(options.flags ?? 0x41, 8);
  const info = [writeAttribute(1, Buffer.from(`${options.kind ?? "can"}\0`))];
  if (options.data !== undefined) info.push(writeAttribute(2, options.data));
  if (options.xstats !== undefined) info.push(writeAttribute(3, options.xstats));
  return Buffer.concat([
    head,
    writeAttribute(3, Buffer.from("can0\0")),
    writeAttribute(4, uint32(72)),
    writeAttribute(0x8000 | 18, ...info),
  ]);
}

const words = (...values: number[]) => Buffer.concat(values.map(uint32));

test("a controller's state, bit rates and counters are read from what netlink says", () => {
  const data = Buffer.concat([
    writeAttribute(1, words(500_000, 875, 0, 0, 0, 0, 0, 0)),
    writeAttribute(4, uint32(2)),
    writeAttribute(5, words(0, 0x20)),
    writeAttribute(6, uint32(100)),
    writeAttribute(8, Buffer.from([130, 0, 5, 0])),
    writeAttribute(9, words(2_000_000, 750, 0, 0, 0, 0, 0, 0)),
  ]);
  const xstats = words(11, 12, 13, 14, 15, 16);
  assert.deepEqual(readCanLink(linkBody({ data, xstats })), {
    index: 7,
    name: "can0",
    up: true,
    running: true,
    mtuBytes: 72,
    kind: "can",
    controller: {
      state: "ERROR-PASSIVE",
      bitrate: 500_000,
      dataBitrate: 2_000_000,
      samplePoint: 0.875,
      fd: true,
      listenOnly: false,
      restartMs: 100,
      sendErrors: 130,
      receiveErrors: 5,
      busErrors: 11,
      busOffs: 14,
      restarts: 16,
    },
  });
  assert.equal(readCanLink(linkBody({ kind: "vcan" }))?.controller, undefined);
  assert.equal(readCanLink(linkBody({ type: 1 })), undefined, "Ethernet");
  assert.equal(canStates.length, 6);
});

test("a change of a link holds what is asked for, and nothing else", () => {
  const body = writeCanLinkChange(3, { bitrate: 250_000, samplePoint: 0.8, fd: false, listenOnly: true, restartMs: 5 });
  assert.deepEqual([...body.subarray(0, 16)], [0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
  const info = readAttributes(readAttributes(body.subarray(16)).get(18) ?? Buffer.alloc(0));
  assert.equal(info.get(1)?.toString(), "can");
  const data = readAttributes(info.get(2) ?? Buffer.alloc(0));
  assert.deepEqual([...data.keys()], [1, 5, 6]);
  assert.equal(data.get(1)?.readUInt32LE(0), 250_000);
  assert.equal(data.get(1)?.readUInt32LE(4), 800);
  assert.deepEqual([...(data.get(5) ?? [])], [0x22, 0, 0, 0, 0x02, 0, 0, 0]);
  assert.equal(data.get(6)?.readUInt32LE(0), 5);
  assert.deepEqual([...writeCanLinkChange(3, { up: true })].slice(8), [1, 0, 0, 0, 1, 0, 0, 0]);
});

test("messages follow each other on multiples of four bytes; a cut one is none", () => {
  const first = writeMessage(16, 2, 9, Buffer.from("abcde"));
  const second = writeMessage(3, 0, 9, Buffer.alloc(4));
  const padded = Buffer.concat([first, Buffer.alloc(3), second]);
  assert.deepEqual(
    readMessages(padded).map(({ type, flags, sequence, body }) => [type, flags, sequence, body.length]),
    [
      [16, 2, 9, 5],
      [3, 0, 9, 4],
    ],
  );
  assert.equal(readMessages(padded.subarray(0, padded.length - 1)).length, 1);
});

test("the kernel refuses with its own words", async () => {
  const links = await loadCanLinks();
  assert.ok(Array.isArray(links.list()));
  assert.throws(() => links.change(0x7fff_fff0, { up: true }), { code: "ENODEV" });
  assert.deepEqual(
    readError(
      Buffer.concat([Buffer.from([0xf0, 0xff, 0xff, 0xff]), Buffer.alloc(16), writeAttribute(1, Buffer.from("no\0"))]),
    ),
    { errno: 16, text: "no" },
  );
});

test("time stamps and lost frames are read from control data", () => {
  const control = Buffer.alloc(56);
  control.writeUInt32LE(32, 0);
  control.writeInt32LE(1, 8);
  control.writeInt32LE(35, 12);
  control.writeBigInt64LE(1_700_000_000n, 16);
  control.writeUInt32LE(250_000_000, 24);
  control.writeUInt32LE(20, 32);
  control.writeInt32LE(1, 40);
  control.writeInt32LE(40, 44);
  control.writeUInt32LE(77, 48);
  assert.deepEqual(readControl(control), { timestampS: 1_700_000_000.25, lost: 77 });
  assert.deepEqual(readControl(control.subarray(0, 40)), { timestampS: 1_700_000_000.25, lost: undefined });
});
