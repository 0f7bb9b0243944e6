import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import http2, { type ServerHttp2Session, type ServerHttp2Stream } from "node:http2";
import { connect as connectTcp, createServer, type Socket } from "node:net";
import { test, type TestContext } from "node:test";
import { status } from "@grpc/grpc-js";
import { parseEndpoint } from "../../../agent/client/address.ts";
import { Channel, type ChannelOptions } from "../../../agent/client/channel.ts";
import { rpcMethod } from "../../../agent/client/rpc-method.ts";
import { openRouterStream, openStream } from "../../../agent/client/stream.ts";
import type { AgentError } from "../../../agent/driver/errors.ts";
import { encodeFrame, frameTypes } from "../../../agent/stream/frames.ts";
import { prefixed } from "../../../agent/stream/rpc-messages.ts";
import { ControllerServiceDefinition, StatusResponse } from "../../../proto/gen/jumpstarter/v1/jumpstarter.ts";
import { startController } from "../../sim/controller/controller.ts";
import { eventually } from "../../sim/rig.ts";
import { stallingProxy } from "../../sim/stalling-proxy.ts";

const register = rpcMethod(ControllerServiceDefinition, "register");
const statusMethod = rpcMethod(ControllerServiceDefinition, "status");
const nothing = { labels: {}, reports: [] };

async function startLab(t: TestContext) {
  const lab = await startController();
  t.after(() => lab.close());
  lab.addExporter({ name: "board" });
  const metadata = {
    ...{ "jumpstarter-kind": "Exporter", "jumpstarter-namespace": lab.namespace, "jumpstarter-name": "board" },
    authorization: `Bearer ${lab.exporterToken("board")}`,
  };
  const open = (options: ChannelOptions = {}, port = lab.controller.port, host = "127.0.0.1") =>
    openChannel(t, { host, port }, { ca: lab.ca, ...options });
  return { lab, metadata, open };
}

function openChannel(t: TestContext, place: { host: string; port: number }, options: ChannelOptions): Channel {
  const channel = new Channel({ kind: "tcp", ...place }, options);
  t.after(() => channel.close());
  return channel;
}

const failsWith = (code: AgentError["code"], message: RegExp) => (error: unknown) => {
  assert.match((error as AgentError).message, message);
  assert.equal((error as AgentError).code, code);
  return true;
};

/** An HTTP/2 server of Node's that answers as the test says. */
async function startServer(
  t: TestContext,
  answer: (stream: ServerHttp2Stream, session: ServerHttp2Session, headers: http2.IncomingHttpHeaders) => void,
  settings: http2.Settings = {},
) {
  const server = http2.createServer({ settings });
  const sessions = new Set<ServerHttp2Session>();
  server.on("session", (session) => {
    sessions.add(session);
    session.on("close", () => sessions.delete(session));
    session.on("error", () => {});
  });
  server.on("stream", (stream, headers) => {
    stream.on("error", () => {});
    answer(stream, stream.session as ServerHttp2Session, headers);
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  t.after(() => {
    for (const session of sessions) session.destroy();
    server.close();
  });
  const { port } = server.address() as { port: number };
  return {
    server,
    sessions,
    channel: (options: ChannelOptions = {}) =>
      openChannel(t, { host: "127.0.0.1", port }, { insecure: true, ...options }),
  };
}

const leased = (name: string) =>
  prefixed(StatusResponse.encode({ leased: true, leaseName: name, context: {} }).finish());

function begin(stream: ServerHttp2Stream): void {
  stream.respond({ ":status": 200, "content-type": "application/grpc" }, { waitForTrailers: true });
  stream.on("wantTrailers", () => stream.sendTrailers({ "grpc-status": "0" }));
}

test("an endpoint has port 443 unless it says another", () => {
  const tcp = (host: string, port: number) => ({ kind: "tcp", host, port });
  for (const [text, expected] of [
    ["lab.example", tcp("lab.example", 443)],
    ["lab.example:8082", tcp("lab.example", 8082)],
    ["10.0.0.1:1", tcp("10.0.0.1", 1)],
    ["[2001:db8::1]:8082", tcp("2001:db8::1", 8082)],
    ["[::1]", tcp("::1", 443)],
    ["::1", tcp("::1", 443)],
    ["dns:///lab.example:8082", tcp("lab.example", 8082)],
    [" lab.example ", tcp("lab.example", 443)],
  ] as const) {
    assert.deepEqual(parseEndpoint(text), expected, text);
  }
  for (const text of ["", ":80", "lab:0", "lab:65536", "https://lab.example", "a b", "lab:80:90", "[lab]:80"]) {
    assert.throws(() => parseEndpoint(text), failsWith("E_INVALID", /is no endpoint/), text);
  }
});

test("the peer's certificate is checked for authority and name", async (t) => {
  const { lab, metadata, open } = await startLab(t);
  const call = (channel: Channel) => channel.unary(register, nothing, { what: "Register", metadata });
  await call(open());
  await call(open({}, lab.controller.port, "localhost"));
  await assert.rejects(call(open({ ca: undefined })), failsWith("E_CONNECTION", /certificate/));
  await assert.rejects(call(open({ serverName: "elsewhere.example" })), failsWith("E_CONNECTION", /altnames/));
  await call(open({ serverName: "localhost" }));
  await call(open({ ca: undefined, verify: false }));
  await call(open({ ca: undefined, verify: false, serverName: "elsewhere.example" }));
  await lab.replaceCertificates("another");
  await assert.rejects(call(open()), failsWith("E_CONNECTION", /certificate/));
  await call(open({ verify: false }));
});

test("each gRPC status that matters has a code of its own", async (t) => {
  const { lab, metadata, open } = await startLab(t);
  const channel = open();
  for (const [number, code] of [
    [status.PERMISSION_DENIED, "E_PERMISSION_DENIED"],
    [status.UNAUTHENTICATED, "E_UNAUTHENTICATED"],
    [status.UNIMPLEMENTED, "E_UNSUPPORTED"],
    [status.INVALID_ARGUMENT, "E_INVALID"],
    [status.NOT_FOUND, "E_NO_METHOD"],
    [status.UNAVAILABLE, "E_CONNECTION"],
    [status.DEADLINE_EXCEEDED, "E_TIMEOUT"],
    [status.FAILED_PRECONDITION, "E_NOT_READY"],
    [status.UNKNOWN, "E_FAILED"],
  ] as const) {
    const fault = lab.faults.answer("Register", number, "as you like it");
    await assert.rejects(
      channel.unary(register, nothing, { what: "Register", metadata }),
      failsWith(code, /as you like/),
    );
    fault.off();
  }
  assert.equal(lab.controller.connections, 1);
});

test("a name that cannot be resolved is named, and found once it can be", async (t) => {
  const channel = openChannel(t, { host: "nowhere.invalid", port: 1 }, {});
  for (let count = 0; count < 3; count += 1) {
    await assert.rejects(
      channel.unary(register, nothing, { what: "Register" }),
      failsWith("E_CONNECTION", /^Failed resolving nowhere\.invalid \(E/),
    );
  }
});

test("a host that takes connections and says nothing is given up", async (t) => {
  const sockets = new Set<Socket>();
  const silent = createServer((socket) => {
    sockets.add(socket.resume());
    socket.on("error", () => {});
    socket.on("close", () => sockets.delete(socket));
  });
  t.after(() => silent.close());
  silent.listen(0, "127.0.0.1");
  await once(silent, "listening");
  const { port } = silent.address() as { port: number };
  for (const options of [{}, { insecure: true }]) {
    const channel = openChannel(t, { host: "127.0.0.1", port }, { connectTimeoutMs: 100, ...options });
    await assert.rejects(
      channel.unary(register, nothing, { what: "Register" }),
      failsWith("E_CONNECTION", /^127\.0\.0\.1:\d+ does not answer$/),
    );
  }
  await eventually("all is closed", () => sockets.size === 0);
});

test("a host that does not even take connections is given up", async (t) => {
  const script =
    "import socket,sys\ns=socket.socket()\ns.bind(('127.0.0.1',0))\ns.listen(0)\nprint(s.getsockname()[1],flush=True)\nsys.stdin.read()";
  const listener = spawn("python3", ["-c", script], { stdio: ["pipe", "pipe", "inherit"] });
  t.after(() => listener.kill("SIGKILL"));
  const [line] = (await once(listener.stdout, "data")) as [Buffer];
  const port = Number(line.toString());
  // The kernel completes a few connections for a program that never accepts, and then ignores all who knock.
  const held: Socket[] = [];
  t.after(() => held.forEach((socket) => socket.destroy()));
  for (let full = false; !full;) {
    const socket = connectTcp(port, "127.0.0.1");
    held.push(socket);
    socket.on("error", () => {});
    full = await Promise.race([
      once(socket, "connect").then(() => false),
      new Promise<boolean>((resolve) => setTimeout(resolve, 300, true)),
    ]);
    assert.ok(held.length < 20, "the backlog never fills");
  }
  const channel = openChannel(t, { host: "127.0.0.1", port }, { connectTimeoutMs: 200 });
  await assert.rejects(
    channel.unary(register, nothing, { what: "Register" }),
    failsWith("E_CONNECTION", /does not answer/),
  );
});

test("a reset connection fails its calls at once, and the next call makes a new one", async (t) => {
  const { lab, metadata, open } = await startLab(t);
  const channel = open();
  lab.faults.swallow("Register", { times: 1 });
  const call = channel.unary(register, nothing, { what: "Register", metadata });
  await lab.waitFor(() => lab.records.calls.length === 1);
  lab.controller.reset();
  await assert.rejects(call, failsWith("E_CONNECTION", /./));
  await channel.unary(register, nothing, { what: "Register", metadata });
});

test("a connection that falls silent is noticed by pings, with and without calls", async (t) => {
  const { lab, metadata, open } = await startLab(t);
  const proxy = await stallingProxy(t, lab.controller.port);
  const channel = open({ keepaliveMs: 100, keepaliveTimeoutMs: 500 }, proxy.port);
  const stream = channel.serverStream(statusMethod, {}, { what: "Status", metadata });
  assert.equal((await stream.next()).value?.leased, false);
  proxy.stall();
  await assert.rejects(stream.next(), failsWith("E_CONNECTION", /^127\.0\.0\.1:\d+ has stopped to answer$/));
  await eventually("the connection is closed", () => proxy.connections === 0);

  await channel.unary(register, nothing, { what: "Register", metadata });
  proxy.stall();
  await eventually("the idle connection is closed too", () => proxy.connections === 0);
  await channel.unary(register, nothing, { what: "Register", metadata });
});

test("a connection that answers pings is kept, however long nothing else comes", async (t) => {
  let pings = 0;
  const { channel, sessions } = await startServer(t, (stream, session) => {
    session.on("ping", () => (pings += 1));
    begin(stream);
    stream.write(leased("first"));
    stream.on("data", () => {});
  });
  const stream = channel({ keepaliveMs: 20, keepaliveTimeoutMs: 5_000 }).serverStream(
    statusMethod,
    {},
    { what: "Status" },
  );
  await stream.next();
  await eventually("it is pinged again and again", () => pings >= 5);
  assert.equal(sessions.size, 1);
  await stream.return();
});

test("a call ends at its deadline, which its peer is told", async (t) => {
  let timeout: unknown;
  const { channel } = await startServer(t, (_stream, _session, headers) => (timeout = headers["grpc-timeout"]));
  await assert.rejects(
    channel().unary(register, nothing, { what: "Register", deadlineMs: 500 }),
    failsWith("E_TIMEOUT", /^Register was not answered within 0\.5 s$/),
  );
  assert.equal(timeout, "500m");
});

test("a live connection is kept when a call's deadline passes", async (t) => {
  const { lab, metadata, open } = await startLab(t);
  const channel = open();
  const stream = channel.serverStream(statusMethod, {}, { what: "Status", metadata });
  await stream.next();
  const fault = lab.faults.swallow("Register");
  const call = (deadlineMs: number) => channel.unary(register, nothing, { what: "Register", metadata, deadlineMs });
  await assert.rejects(call(100), failsWith("E_TIMEOUT", /not answered/));
  fault.off();
  await call(10_000);
  lab.assign({ name: "l1", exporter: "board", client: "ann" });
  assert.equal((await stream.next()).value?.leaseName, "l1");
  await stream.return();
});

test("a connection that lets a deadline pass in silence is not used for the next call, and cut if it stays silent", async (t) => {
  const { lab, metadata, open } = await startLab(t);
  const proxy = await stallingProxy(t, lab.controller.port);
  const channel = open({}, proxy.port);
  const call = (deadlineMs: number) => channel.unary(register, nothing, { what: "Register", metadata, deadlineMs });
  await call(10_000);
  proxy.stall();
  await assert.rejects(call(200), failsWith("E_TIMEOUT", /not answered/));
  await call(10_000);
  assert.equal(proxy.connections, 2);
  await eventually("the silent one is cut", () => proxy.connections === 1);
});

test("a channel closes although its peer has fallen silent, or was never reached", async (t) => {
  const { lab, metadata, open } = await startLab(t);
  const proxy = await stallingProxy(t, lab.controller.port);
  const channel = open({}, proxy.port);
  const stream = channel.serverStream(statusMethod, {}, { what: "Status", metadata });
  await stream.next();
  proxy.stall();
  const ended = assert.rejects(stream.next(), failsWith("E_CONNECTION", /./));
  await channel.close();
  await ended;
  await eventually("the connection is closed", () => proxy.connections === 0);

  lab.controller.mute(true);
  const unreached = open();
  const call = unreached.unary(register, nothing, { what: "Register" });
  const failed = assert.rejects(call, failsWith("E_CONNECTION", /./));
  await unreached.close();
  await failed;
});

test("a deadline also ends a call that waits for its connection", async (t) => {
  const { lab, open } = await startLab(t);
  lab.controller.mute(true);
  await assert.rejects(
    open().unary(register, nothing, { what: "Register", deadlineMs: 100 }),
    failsWith("E_TIMEOUT", /not answered/),
  );
});

test("a stream may be asked to say its first word in time", async (t) => {
  const { channel } = await startServer(t, (stream) => begin(stream));
  const stream = channel().serverStream(statusMethod, {}, { what: "Status", firstAnswerMs: 100 });
  await assert.rejects(stream.next(), failsWith("E_TIMEOUT", /^Status was not answered/));
});

test("after a GOAWAY calls under way go on, and new ones take a new connection", async (t) => {
  const streams: ServerHttp2Stream[] = [];
  const { channel, sessions } = await startServer(t, (stream) => {
    streams.push(stream);
    begin(stream);
    stream.write(leased(`on ${streams.length}`));
  });
  const one = channel();
  const first = one.serverStream(statusMethod, {}, { what: "Status" });
  assert.equal((await first.next()).value?.leaseName, "on 1");
  for (const session of sessions) session.goaway(0);
  let second: ReturnType<typeof one.serverStream> | undefined;
  await eventually("the GOAWAY has come", () => {
    void second?.return(undefined);
    second = one.serverStream(statusMethod, {}, { what: "Status" });
    second.next().catch(() => {}); // refused while the GOAWAY is under way
    return sessions.size === 2;
  });
  streams[0]?.end(leased("still on 1"));
  assert.equal((await first.next()).value?.leaseName, "still on 1");
  assert.equal((await first.next()).done, true);
  await eventually("the first connection is closed", () => sessions.size === 1);
  await second?.return(undefined);
});

test("calls above the server's limit take another connection instead of waiting for ever", async (t) => {
  const { channel, sessions } = await startServer(
    t,
    (stream) => {
      begin(stream);
      stream.write(leased("yes"));
    },
    { maxConcurrentStreams: 2 },
  );
  const one = channel();
  const open = [];
  for (let count = 0; count < 5; count += 1) {
    const stream = one.serverStream(statusMethod, {}, { what: "Status" });
    assert.equal((await stream.next()).value?.leaseName, "yes");
    open.push(stream);
  }
  assert.equal(sessions.size, 3);
  for (const stream of open) await stream.return();
});

test("a server that complains of pings is pinged less often", async (t) => {
  const waits: number[] = [];
  const { channel, server } = await startServer(t, (stream) => begin(stream));
  server.on("session", (session) => {
    const from = performance.now();
    session.once("ping", () => {
      waits.push(performance.now() - from);
      session.goaway(11, 0, Buffer.from("too_many_pings"));
      session.close();
    });
  });
  const one = channel({ keepaliveMs: 50 });
  for (let count = 0; count < 4; count += 1) {
    await one
      .serverStream(statusMethod, {}, { what: "Status" })
      .next()
      .catch(() => {});
    await eventually("it was pinged", () => waits.length === count + 1);
  }
  assert.ok((waits[3] ?? 0) > 350, String(waits));
});

test("metadata that HTTP/2 cannot carry is refused without a connection being harmed", async (t) => {
  const { metadata, open } = await startLab(t);
  const channel = open();
  const bad = { ...metadata, authorization: "Bearer a\nb" };
  await assert.rejects(channel.unary(register, nothing, { what: "Register", metadata: bad }), (error: Error) => {
    assert.doesNotMatch(error.message, /a\nb/);
    return true;
  });
  await channel.unary(register, nothing, { what: "Register", metadata });
});

async function meet(t: TestContext) {
  const { lab } = await startLab(t);
  const { token } = lab.router.token();
  const end = () => {
    const channel = openChannel(t, { host: "127.0.0.1", port: lab.router.port }, { ca: lab.ca });
    return openRouterStream(channel, { authorization: `Bearer ${token}` }, { what: "a tunnel" });
  };
  return { lab, token, end };
}

test("a router stream takes bytes before its peer is there", { timeout: 60_000 }, async (t) => {
  const { lab, end } = await meet(t);
  const ours = end();
  ours.write("hello ");
  ours.write("peer");
  await lab.waitFor(() => lab.router.open === 1);
  const theirs = end();
  theirs.write("hello you");
  let heard = "";
  theirs.on("data", (chunk: Buffer) => (heard += chunk.toString()));
  const [answer] = (await once(ours, "data")) as [Buffer];
  assert.equal(answer.toString(), "hello you");
  await eventually("all has come", () => heard === "hello peer");
  // An end is told, and bytes still come the other way.
  ours.end();
  await once(theirs, "end");
  theirs.end("bye");
  const [last] = (await once(ours, "data")) as [Buffer];
  assert.equal(last.toString(), "bye");
  await once(ours, "end");
  await lab.waitFor(() => lab.router.open === 0);
});

test("a router stream that is destroyed cancels its RPC", async (t) => {
  const { lab, end } = await meet(t);
  const ours = end();
  ours.write("hello");
  await lab.waitFor(() => lab.router.open === 1);
  ours.destroy();
  await lab.waitFor(() => lab.router.open === 0);
});

test("a router stream that has ended on our side only does not linger after it is destroyed", async (t) => {
  const { lab, end } = await meet(t);
  const ours = end();
  ours.end("hello");
  await lab.waitFor(() => lab.router.open === 1);
  await eventually("our end is told", () => ours.writableFinished);
  ours.destroy();
  await lab.waitFor(() => lab.router.open === 0);
});

test("what ends a tunnel at the router is its error", async (t) => {
  const { lab, end } = await meet(t);
  const ours = end();
  await lab.waitFor(() => lab.router.open === 1);
  lab.router.dropTunnels(status.UNAVAILABLE, "the router goes");
  const [error] = (await once(ours, "error")) as [Error];
  assert.match(error.message, /the router goes/);

  const channel = openChannel(t, { host: "127.0.0.1", port: lab.router.port }, { ca: lab.ca });
  const refused = openRouterStream(channel, { authorization: "Bearer no" }, { what: "a tunnel" });
  const [refusal] = (await once(refused, "error")) as [AgentError];
  assert.equal(refusal.code, "E_UNAUTHENTICATED");
});

test("a stream that ends with a reason waits for it, also when the event loop has stood still meanwhile", async (t) => {
  const server = await startServer(t, (peer) => {
    peer.respond({ ":status": 200, "content-type": "application/grpc" }, { waitForTrailers: true });
    peer.once("wantTrailers", () =>
      peer.sendTrailers({ "grpc-status": status.UNAVAILABLE, "grpc-message": "the board is gone" }),
    );
    peer.write(prefixed(encodeFrame({ payload: Buffer.alloc(0), frameType: frameTypes.GOAWAY })));
    setTimeout(() => {
      for (const end = performance.now() + 400; performance.now() < end;);
      peer.end();
    }, 20);
  });
  const { stream } = await openStream(server.channel(), {}, { what: "Stream", endsWithReason: true });
  await assert.rejects(once(stream.resume(), "end"), failsWith("E_CONNECTION", /the board is gone/));
});
