import assert from "node:assert/strict";
import { PassThrough, Writable, type Duplex } from "node:stream";
import { test } from "node:test";
import { ChannelRelay, type RelayOptions } from "../../../../net/ssh-mitm/relay.ts";
import {
  channelRequest,
  globalRequest,
  messages,
  openFailures,
  readChannelRequest,
  readGlobalRequest,
} from "../../../../net/ssh-mitm/protocol.ts";

import { restrain } from "../../../../net/ssh-mitm/transport.ts";

const uint32 = (...values: number[]) => {
  const bytes = Buffer.alloc(4 * values.length);
  values.forEach((value, index) => bytes.writeUInt32BE(value, 4 * index));
  return bytes;
};
const text = (value: string) => Buffer.concat([uint32(value.length), Buffer.from(value)]);
const message = (number: number, ...parts: Buffer[]) => Buffer.concat([Buffer.from([number]), ...parts]);

const open = (sender: number, type = "session") =>
  message(messages.channelOpen, text(type), uint32(sender, 1 << 21, 1 << 15));
const confirm = (recipient: number, sender: number) =>
  message(messages.openConfirmation, uint32(recipient, sender, 1 << 21, 1 << 15));
const data = (recipient: number, value: string) => message(messages.data, uint32(recipient), text(value));
const close = (recipient: number) => message(messages.close, uint32(recipient));
const ptyRequest = (recipient: number, columns: number, rows: number) =>
  Buffer.concat([channelRequest(recipient, "pty-req", true), text("vt100"), uint32(columns, rows, 0, 0), text("")]);

function relay(options: Partial<RelayOptions> = {}) {
  const client: Buffer[] = [];
  const dut: Buffer[] = [];
  const it = new ChannelRelay({
    forwarding: false,
    maxChannels: 2,
    terminal: { columns: 80, rows: 24 },
    // What is sent is copied there, so that what is passed on may be a part of a larger buffer.
    toClient: (payload) => client.push(Buffer.from(payload)),
    toDut: (payload) => dut.push(Buffer.from(payload)),
    ...options,
  });
  const taken = (from: Buffer[]) => from.splice(0);
  return { it, toClient: () => taken(client), toDut: () => taken(dut) };
}

/** With one session that both sides have opened: 7 for the client, 3 for the board. */
function withSession(options: Partial<RelayOptions> = {}) {
  const all = relay(options);
  all.it.connected();
  all.it.fromClient(open(7));
  all.it.fromDut(confirm(7, 3));
  all.toClient();
  all.toDut();
  return all;
}

test("messages about a channel pass as they are, to either side", () => {
  const { it, toClient, toDut } = withSession();
  const sent = [
    channelRequest(3, "exec", true),
    data(3, "in"),
    message(messages.windowAdjust, uint32(3, 9)),
    message(messages.eof, uint32(3)),
  ];
  for (const payload of sent) it.fromClient(payload);
  assert.deepEqual(toDut(), sent);
  const received = [
    message(messages.channelSuccess, uint32(7)),
    data(7, "out"),
    message(messages.extendedData, uint32(7, 1), text("err")),
    Buffer.concat([channelRequest(7, "exit-status", false), uint32(3)]),
    message(messages.eof, uint32(7)),
    close(7),
  ];
  for (const payload of received) it.fromDut(payload);
  assert.deepEqual(toClient(), received);
});

test("a channel is over when both have closed it, and its numbers are free again", () => {
  const { it, toClient, toDut } = withSession();
  it.fromDut(close(7));
  it.fromDut(data(7, "after its end"));
  it.fromClient(data(3, "on the way"));
  it.fromClient(close(3));
  assert.deepEqual(toClient(), [close(7)]);
  assert.deepEqual(toDut(), [data(3, "on the way"), close(3)]);
  it.fromClient(data(3, "to nobody"));
  it.fromDut(data(7, "to nobody"));
  assert.deepEqual([...toClient(), ...toDut()], []);
  it.fromClient(open(7));
  assert.deepEqual(toDut(), [open(7)]);
});

test("what the client says before its board is there waits, within bounds", () => {
  const { it, toDut } = relay();
  it.fromClient(open(0));
  it.fromClient(open(1));
  assert.deepEqual(toDut(), []);
  it.connected();
  assert.deepEqual(toDut(), [open(0), open(1)]);

  const chatty = relay().it;
  assert.throws(() => {
    for (let count = 0; count < 1_000; count += 1) chatty.fromClient(globalRequest("keepalive@openssh.com", true));
  }, RangeError);
  const large = relay().it;
  assert.throws(() => large.fromClient(data(0, "x".repeat(300_000))), RangeError);
});

test("a board that cannot be reached is told to all who wait, once", () => {
  const { it, toClient } = relay();
  it.fromClient(open(4));
  it.failed("no way there");
  const [failure, goodbye, ...more] = toClient();
  assert.deepEqual(failure?.subarray(0, 9), message(messages.openFailure, uint32(4, openFailures.connectFailed)));
  assert.ok(failure?.includes("no way there"));
  assert.equal(goodbye?.[0], messages.disconnect);
  assert.ok(goodbye?.includes("no way there"));
  assert.deepEqual(more, []);

  const late = withSession();
  late.it.fromClient(open(8));
  late.it.failed("gone");
  const answers = late.toClient();
  assert.deepEqual(
    answers.map((payload) => payload[0]),
    [messages.openFailure, messages.disconnect],
  );
  assert.equal(answers[0]?.readUInt32BE(1), 8);
});

test("only sessions are opened, and not too many", () => {
  const { it, toClient, toDut } = withSession();
  it.fromClient(open(8, "direct-tcpip"));
  it.fromClient(open(9));
  it.fromClient(open(10));
  assert.deepEqual(toDut(), [open(9)]);
  const refusals = toClient().map((payload) => [payload[0], payload.readUInt32BE(1), payload.readUInt32BE(5)]);
  assert.deepEqual(refusals, [
    [messages.openFailure, 8, openFailures.prohibited],
    [messages.openFailure, 10, openFailures.shortage],
  ]);
  it.fromDut(open(5, "forwarded-tcpip"));
  assert.equal(toDut()[0]?.[0], messages.openFailure);
  assert.deepEqual(toClient(), []);
});

test("with forwarding, either side opens other channels, but the board no sessions", () => {
  const { it, toClient, toDut } = withSession({ forwarding: true, maxChannels: 4 });
  it.fromClient(open(8, "direct-tcpip"));
  it.fromDut(open(5, "forwarded-tcpip"));
  it.fromDut(open(6, "session"));
  assert.deepEqual(toClient(), [open(5, "forwarded-tcpip")]);
  assert.deepEqual(
    toDut().map((payload) => payload[0]),
    [messages.channelOpen, messages.openFailure],
  );
  it.fromClient(confirm(5, 11));
  it.fromDut(data(11, "out"));
  it.fromClient(data(5, "in"));
  assert.deepEqual([...toDut(), ...toClient()], [confirm(5, 11), data(5, "in"), data(11, "out")]);
});

test("agents and displays are forwarded only where forwarding is allowed", () => {
  for (const type of ["auth-agent-req@openssh.com", "x11-req"]) {
    const { it, toDut } = withSession();
    it.fromClient(channelRequest(3, type, true));
    const [asked] = toDut();
    // The board refuses what it does not know, in its turn.
    assert.deepEqual(asked && readChannelRequest(asked).type, "refused@jumpstarter.dev");
    assert.equal(asked && readChannelRequest(asked).wantsReply, true);
    const free = withSession({ forwarding: true });
    free.it.fromClient(channelRequest(3, type, true));
    assert.deepEqual(free.toDut(), [channelRequest(3, type, true)]);
  }
});

test("answers to global requests reach who asked, in order", () => {
  const { it, toClient, toDut } = withSession();
  it.fromClient(globalRequest("keepalive@openssh.com", true));
  it.ping();
  it.fromClient(globalRequest("tcpip-forward", true));
  it.fromClient(globalRequest("tcpip-forward", false));
  assert.deepEqual(
    toDut().map((payload) => readGlobalRequest(payload).type),
    ["keepalive@openssh.com", "keepalive@openssh.com", "refused@jumpstarter.dev"],
  );
  const [first, second, third] = [1, 2, 3].map((number) => message(messages.requestSuccess, uint32(number)));
  for (const answer of [first, second, third]) it.fromDut(answer as Buffer);
  assert.deepEqual(toClient(), [first, third]);
});

test("the board's own global requests end here: its host keys are not ours", () => {
  const { it, toClient, toDut } = withSession();
  it.fromDut(globalRequest("hostkeys-00@openssh.com", false));
  it.fromDut(globalRequest("keepalive@openssh.com", true));
  assert.deepEqual([toClient(), toDut()], [[], [Buffer.from([messages.requestFailure])]]);
});

test("terminals without a size get one; others keep theirs", () => {
  const { it, toDut } = withSession();
  it.fromClient(ptyRequest(3, 0, 0));
  it.fromClient(ptyRequest(3, 132, 0));
  it.fromClient(ptyRequest(3, 10, 5));
  assert.deepEqual(toDut(), [ptyRequest(3, 80, 24), ptyRequest(3, 132, 24), ptyRequest(3, 10, 5)]);
});

test("a client is idle until it has said what is to run", () => {
  const { it } = relay();
  assert.equal(it.idle, true);
  it.connected();
  it.fromClient(open(0));
  it.fromDut(confirm(0, 0));
  assert.equal(it.idle, true);
  it.fromClient(channelRequest(0, "env", false));
  assert.equal(it.idle, true);
  it.fromClient(channelRequest(0, "subsystem", true));
  assert.equal(it.idle, false);
  it.fromClient(open(1));
  assert.equal(it.idle, true);
  it.fromDut(message(messages.openFailure, uint32(1, 1), text(""), text("")));
  assert.equal(it.idle, false);
  // With forwarding, waiting for a first connection is work.
  assert.equal(relay({ forwarding: true }).it.idle, false);
});

test("a message that is cut off ends the connection", () => {
  const { it } = withSession();
  assert.throws(() => it.fromClient(message(messages.channelOpen, uint32(200))), RangeError);
  assert.throws(() => it.fromClient(message(messages.data)), RangeError);
  assert.throws(() => it.fromDut(message(messages.globalRequest, uint32(9), Buffer.from("short"))), RangeError);
  assert.throws(() => it.fromClient(channelRequest(3, "pty-req", true)), RangeError);
});

test("a side that sends without windows is not read while the other has too much to take", async () => {
  const written: (() => void)[] = [];
  const target = new Writable({ highWaterMark: 16, write: (_chunk, _encoding, done) => void written.push(done) });
  const stream = new PassThrough();
  const after = restrain(stream, target as Duplex);
  stream.resume();
  target.write(Buffer.alloc(1024 * 1024));
  after();
  assert.equal(stream.isPaused(), false);
  target.write(Buffer.alloc(8 * 1024 * 1024));
  after();
  assert.equal(stream.isPaused(), true);
  after();
  while (written.length > 0) {
    written.shift()?.();
    await new Promise((resolve) => setImmediate(resolve));
  }
  assert.equal(stream.isPaused(), false);
});
