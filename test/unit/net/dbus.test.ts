import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { createServer } from "node:net";
import { once } from "node:events";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import type { AgentError } from "../../../agent/driver/errors.ts";
import { createExporter } from "../../../agent/session/exporter.ts";
import { parseBusAddresses } from "../../../net/sockets/dbus-address.ts";
import { Identity } from "../../../net/sockets/dbus-identity.ts";
import { dbusNetwork } from "../../../net/sockets/interface.ts";
import { missingPrograms } from "../../../scripts/programs.mjs";
import { freePort, scratch } from "../../sim/agent.ts";

const missing = (missingPrograms as (programs: string[]) => string[])(["dbus-daemon"]);
const noBus = missing.length > 0 && "dbus-daemon not installed";

const type = "jumpstarter_driver_network.driver.DbusNetwork";

/** The driver of the session bus, with this in the environment. */
async function sessionBus(t: TestContext, address: string | undefined) {
  const before = process.env["DBUS_SESSION_BUS_ADDRESS"];
  if (address === undefined) delete process.env["DBUS_SESSION_BUS_ADDRESS"];
  else process.env["DBUS_SESSION_BUS_ADDRESS"] = address;
  const exporter = await createExporter({ name: "test", export: { bus: { type, config: { kind: "session" } } } });
  if (before === undefined) delete process.env["DBUS_SESSION_BUS_ADDRESS"];
  else process.env["DBUS_SESSION_BUS_ADDRESS"] = before;
  t.after(() => exporter.close());
  return { exporter, connect: () => exporter.calls("bus", dbusNetwork).connect() };
}

test("addresses: paths, abstract names, TCP, escapes, lists", () => {
  assert.deepEqual(parseBusAddresses("unix:path=/run/dbus/system_bus_socket"), [
    { kind: "unix", path: "/run/dbus/system_bus_socket" },
  ]);
  assert.deepEqual(parseBusAddresses("unix:abstract=/tmp/dbus-x,guid=0123"), [
    { kind: "abstract", name: "/tmp/dbus-x" },
  ]);
  assert.deepEqual(parseBusAddresses("tcp:host=%3a%3a1,port=44,family=ipv6"), [
    { kind: "tcp", host: "::1", port: 44, family: 6 },
  ]);
  assert.deepEqual(parseBusAddresses("autolaunch:;unix:path=/a%20b%2C%c3%a4;launchd:env=X;tcp:host=h,port=1;"), [
    { kind: "unix", path: "/a b,ä" },
    { kind: "tcp", host: "h", port: 1, family: 0 },
  ]);
});

test("addresses that nobody can use are told as what is wrong with them", () => {
  const wrong: [string, RegExp][] = [
    ["", /^invalid bus addr: there is none/],
    ["nothing", /^invalid bus addr: nothing has no transport/],
    ["unix:", /^invalid bus addr: unix needs path or abstract/],
    ["unix:path=/a,path=/b", /^invalid bus addr: path is given twice/],
    ["unix:path=/a,abstract=b", /^invalid bus addr: both/],
    ["unix:path", /^invalid bus addr: path is not key=value/],
    ["unix:path=/a%2", /^invalid bus addr: a % in/],
    ["unix:path=/a%ff", /^invalid bus addr: .* is not UTF-8/],
    ["tcp:port=1", /^invalid bus addr: tcp needs host/],
    ["tcp:host=h,port=x", /^invalid bus addr: tcp needs port/],
    ["tcp:host=h,port=70000", /^invalid bus addr: tcp needs port/],
    ["tcp:host=h,port=1,family=ipx", /^invalid bus addr: family ipx/],
    ["launchd:env=X;autolaunch:", /^invalid bus scheme: launchd, autolaunch/],
  ];
  for (const [text, reason] of wrong) assert.throws(() => parseBusAddresses(text), { message: reason }, text);
});

test("the kind of bus is in a label; no other kind is taken", async (t) => {
  const { exporter } = await sessionBus(t, "unix:path=/nowhere");
  const [driver] = exporter.tree.drivers;
  assert.equal(driver?.planned.labels["jumpstarter.dev/dbusnetwork/kind"], "session");
  const other = createExporter({ name: "test", export: { bus: { type, config: { kind: "starter" } } } });
  await assert.rejects(other, /invalid bus type/);
});

test("an address that is none takes the driver offline, not the exporter", async (t) => {
  const { connect } = await sessionBus(t, "nonsense");
  await assert.rejects(connect(), (error: AgentError) => {
    assert.equal(error.code, "E_DEVICE_OFFLINE");
    assert.match(error.message, /invalid bus addr/);
    return true;
  });
});

test("of several addresses the first that answers is taken; if none does, all are told", async (t) => {
  const path = join(scratch(t), "bus");
  const server = createServer((socket) => socket.end("here")).listen(path);
  await once(server, "listening");
  t.after(() => server.close());
  const port = await freePort();
  const closed = `unix:path=/nowhere/bus;unix:abstract=jmp-nobody-${process.pid};tcp:host=127.0.0.1,port=${port}`;
  const stream = await (await sessionBus(t, `${closed};unix:path=${path}`)).connect();
  const [greeting] = (await once(stream, "data")) as [Buffer];
  assert.equal(greeting.toString(), "here");
  stream.destroy();
  await assert.rejects((await sessionBus(t, closed)).connect(), (error: AgentError) => {
    assert.equal(error.code, "E_CONNECTION");
    assert.match(error.message, /No such file.*; .*refused.*; .*refused/);
    return true;
  });
});

test("a client's user is replaced by ours, whatever pieces its words come in", () => {
  const hex = "3432"; // 42
  const conversations: [string, string][] = [
    [
      "\0AUTH EXTERNAL 31303030\r\nBEGIN\r\nl\x01AUTH EXTERNAL 30\r\n",
      `\0AUTH EXTERNAL ${hex}\r\nBEGIN\r\nl\x01AUTH EXTERNAL 30\r\n`,
    ],
    ["\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n", "\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n"],
    ["\0AUTH EXTERNAL\r\nDATA 30\r\nBEGIN\r\n", `\0AUTH EXTERNAL\r\nDATA ${hex}\r\nBEGIN\r\n`],
    ["BEGIN\r\nAUTH EXTERNAL 30\r\n", "BEGIN\r\nAUTH EXTERNAL 30\r\n"],
    ["\0AUTH\r\nAUTH COOKIE 30\r\nDATA 30\r\n", "\0AUTH\r\nAUTH COOKIE 30\r\nDATA 30\r\n"],
    ["\0AUTH EXTERNAL 31", "\0AUTH EXTERNAL 31"],
    ["x".repeat(20_000), "x".repeat(20_000)],
  ];
  for (const [said, heard] of conversations) {
    for (const size of [1, 2, 7, 100_000]) {
      const identity = new Identity(hex);
      const out: Buffer[] = [];
      for (let at = 0; at < said.length; at += size) {
        out.push(Buffer.from(identity.pass(Buffer.from(said.slice(at, at + size), "latin1"))));
      }
      assert.equal(Buffer.concat([...out, identity.rest()]).toString("latin1"), heard);
    }
  }
});

test("a bus takes a client of another user", { skip: noBus }, async (t) => {
  const daemon = spawn(
    "dbus-daemon",
    ["--session", "--nofork", "--nopidfile", "--print-address"].concat(
      `--address=unix:abstract=jmp-unit-${process.pid}`,
    ),
  );
  t.after(() => daemon.kill("SIGKILL"));
  const [address] = (await once(daemon.stdout, "data")) as [Buffer];
  const stream = await (await sessionBus(t, address.toString().trim())).connect();
  stream.write("\0AUTH EXTERNAL 3939393939\r\n");
  const [answer] = (await once(stream, "data")) as [Buffer];
  assert.match(answer.toString(), /^OK [0-9a-f]{32}\r\n$/);
  // The ends of the two directions stay two.
  stream.end("NOTHING\r\n");
  const [second] = (await once(stream, "data")) as [Buffer];
  assert.match(second.toString(), /^ERROR/);
  await once(stream, "end");
});

test("without a word in the environment, it is where systemd puts it", async (t) => {
  const { connect } = await sessionBus(t, undefined);
  const uid = process.getuid?.() ?? 0;
  try {
    (await connect()).destroy();
  } catch (error) {
    assert.ok((error as AgentError).message.includes(`/run/user/${uid}/bus`), String(error));
  }
});
