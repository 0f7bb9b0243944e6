import assert from "node:assert/strict";
import { once } from "node:events";
import { readdirSync, readFileSync } from "node:fs";
import { connect, createServer, type AddressInfo } from "node:net";
import { test, type TestContext } from "node:test";
import type { Logger } from "../../../../agent/driver/log.ts";
import { createExporter } from "../../../../agent/session/exporter.ts";
import adbServer from "../../../../boards/adb/driver.ts";
import { adb } from "../../../../boards/adb/interface.ts";
import { AdbServer } from "../../../../boards/adb/server.ts";
import { startAdbDevice } from "../../../sim/adb-device.ts";
import { adbHome, missingAdb } from "../../../sim/adb.ts";
import { freePort } from "../../../sim/agent.ts";
import { run } from "../../../sim/python-client.ts";
import { eventually } from "../../../sim/rig.ts";

const type = "jumpstarter_driver_adb.driver.AdbServer";
const skip = missingAdb();
adbHome();

async function server(t: TestContext, config: Record<string, unknown> = {}, names: readonly string[] = ["adb"]) {
  const port = typeof config["port"] === "number" ? config["port"] : await freePort();
  const entries = names.map((name) => [name, { type, config: { port, ...config } }]);
  const exporter = await createExporter({ name: "test", export: Object.fromEntries(entries) as Record<string, never> });
  t.after(() => exporter.close());
  const log: string[] = [];
  exporter.logs.subscribe((record) => log.push(record.message));
  return { exporter, port, log, calls: exporter.calls("adb", adb) };
}

const isOpen = async (port: number) => {
  const socket = connect(port, "127.0.0.1");
  try {
    await once(socket, "connect");
    return true;
  } catch {
    return false;
  } finally {
    socket.destroy();
  }
};

test("the server starts when it is first needed, and ends with the lease", { skip }, async (t) => {
  const { exporter, port, calls } = await server(t);
  await exporter.tree.reset();
  assert.equal(await isOpen(port), false, "nothing runs before somebody asks");
  assert.equal(await calls.list_devices(), "List of devices attached\n\n");
  assert.equal(await isOpen(port), true);
  await exporter.tree.release();
  assert.equal(await isOpen(port), false);
  // The next lease has its own.
  assert.equal(await calls.start_server(), port);
  assert.equal(await calls.start_server(), port);
  await exporter.close();
  assert.equal(await isOpen(port), false);
});

test("a device on the network is connected, listed, spoken to and disconnected", { skip }, async (t) => {
  const { calls, port } = await server(t);
  const device = await startAdbDevice(t);
  device.answers.set("getprop sys.boot_completed", "1\n");
  const name = `127.0.0.1:${device.port}`;
  assert.equal(await calls.connect_device(name), `connected to ${name}\n`);
  assert.equal(await calls.connect_device(name), `already connected to ${name}\n`);
  assert.match(await calls.list_devices(), new RegExp(`${name} +device product:double model:Double device:double`));

  const words = ["-P", `${port}`, "-s", name, "shell", "getprop sys.boot_completed"];
  assert.equal((await run("adb", words)).stdout, "1\n");
  assert.deepEqual(device.commands, ["getprop sys.boot_completed"]);

  assert.equal(await calls.disconnect_device(name), `disconnected ${name}\n`);
  await assert.rejects(calls.disconnect_device(name), { code: "E_FAILED", message: `no such device '${name}'` });
});

test("a device that refuses is an error, although adb's exit status is 0", { skip }, async (t) => {
  const { calls } = await server(t);
  const name = `127.0.0.1:${await freePort()}`;
  const message = `adb connect ${name} failed: failed to connect to '${name}': Connection refused`;
  await assert.rejects(calls.connect_device(name), { code: "E_FAILED", message });
});

test("a device that says nothing costs the configured time, and not the server", { skip }, async (t) => {
  const { calls } = await server(t, { connect_timeout: "0.3" });
  const device = await startAdbDevice(t, { silent: true });
  const name = `127.0.0.1:${device.port}`;
  await assert.rejects(calls.connect_device(name), {
    code: "E_TIMEOUT",
    message: `adb connect ${name} timed out after 0.3s`,
  });
  assert.equal(await calls.list_devices(), "List of devices attached\n\n", "and it is not tried any longer");
});

test("a call that is cancelled ends at once", { skip }, async (t) => {
  const { exporter } = await server(t);
  const device = await startAdbDevice(t, { silent: true });
  const cancel = new AbortController();
  const call = exporter.calls("adb", adb, { signal: cancel.signal }).connect_device(`127.0.0.1:${device.port}`);
  await eventually("adb is connected", () => device.connections.size > 0);
  cancel.abort(new Error("enough"));
  await assert.rejects(call, /enough|cancelled/);
});

test("words that are no device do not reach the server", { skip }, async (t) => {
  const { calls, port } = await server(t);
  for (const word of ["", "a b", "x;reboot", "x\n", "x".repeat(256)]) {
    await assert.rejects(calls.connect_device(word), { code: "E_INVALID" }, word);
    await assert.rejects(calls.disconnect_device(word), { code: "E_INVALID" }, word);
  }
  assert.equal(await isOpen(port), false);
});

test("the byte stream is a connection to the server, which it starts", { skip }, async (t) => {
  const { calls } = await server(t);
  const stream = await calls.connect();
  stream.write("000chost:version");
  const [answer] = (await once(stream, "data")) as [Buffer];
  assert.match(answer.toString(), /^OKAY/);
  stream.destroy();
});

test("a server that was killed is started again, by whoever it was killed", { skip }, async (t) => {
  const { calls, port, log } = await server(t);
  await calls.start_server();
  // Not by kill-server, in which adb now and then waits for itself for ever.
  process.kill(serverAt(port), "SIGKILL");
  await eventually("it is gone", async () => !(await isOpen(port)));
  assert.match(await calls.list_devices(), /List/);
  assert.equal(await calls.kill_server(), port);
  assert.equal(await isOpen(port), false);
  assert.equal(await calls.kill_server(), port, "killing none is no error");
  assert.match(await calls.list_devices(), /List/);
  assert.ok(!log.some((line) => line.includes("somebody else")));
});

test("two drivers of one port share a server, which ends with the last of them", { skip }, async (t) => {
  const { exporter, port, calls } = await server(t, {}, ["adb", "other"]);
  await Promise.all([calls.start_server(), exporter.calls("other", adb).start_server()]);
  const [first] = exporter.tree.drivers;
  await first?.step("release");
  assert.equal(await isOpen(port), true);
  await exporter.tree.release();
  assert.equal(await isOpen(port), false);
});

test("a server that somebody left on the port is used, told, and ended with the lease", { skip }, async (t) => {
  const { exporter, port, log, calls } = await server(t);
  const silent = { debug() {}, info() {}, warn() {}, error() {} } satisfies Logger;
  const left = new AdbServer("adb", port);
  t.after(() => left.close());
  await left.start({}, silent);
  await calls.start_server();
  await calls.list_devices();
  assert.equal(log.filter((line) => line.includes("started by somebody else")).length, 1, log.join());
  await exporter.tree.release();
  assert.equal(await isOpen(port), false);
});

test("something else on the port is told by name, and left alone", { skip }, async (t) => {
  const stranger = createServer((socket) => socket.on("error", () => {}).end("220 hello\r\n"));
  stranger.listen(0, "127.0.0.1");
  await once(stranger, "listening");
  t.after(() => stranger.close());
  const { port } = stranger.address() as AddressInfo;
  const { calls } = await server(t, { port });
  await assert.rejects(calls.start_server(), {
    code: "E_FAILED",
    message: `what listens on 127.0.0.1:${port} is no ADB server`,
  });
});

test("a program that is no adb is told with what it prints", { skip }, async (t) => {
  const { calls, port } = await server(t, { adb_path: "/bin/false" });
  await assert.rejects(calls.start_server(), {
    code: "E_FAILED",
    message: new RegExp(`did not start on port ${port}`),
  });
});

test("without adb the driver is offline, and no other", async (t) => {
  const { calls } = await server(t, { adb_path: "/nowhere/adb" });
  await assert.rejects(calls.list_devices(), {
    code: "E_DEVICE_OFFLINE",
    message: "ADB executable not found: /nowhere/adb",
  });
});

test("the server dies with the process that started it, however that ends", { skip }, async () => {
  const port = await freePort();
  const program = `import { AdbServer } from "./boards/adb/server.ts";
    const log = { debug() {}, info() {}, warn() {}, error() {} };
    await new AdbServer("adb", ${port}).start({}, log);
    process.kill(process.pid, "SIGKILL");`;
  const { code, stderr } = await run(process.execPath, ["--import", "tsx", "--input-type=module", "-e", program]);
  assert.equal(code, null, stderr);
  await eventually("the server has gone", async () => !(await isOpen(port)));
});

test("the address is told where it may be", async (t) => {
  const { calls, port } = await server(t, { adb_path: "/bin/true" });
  assert.equal(await calls.address(), `tcp://127.0.0.1:${port}`);
  const hidden = await server(t, { adb_path: "/bin/true", enable_address: false });
  await assert.rejects(hidden.calls.address(), /enable_address mode is not true/);
});

test("configurations that cannot work are refused", async () => {
  const refused = (config: Record<string, unknown>, message: RegExp) =>
    assert.rejects(createExporter({ name: "test", export: { adb: { type, config } } }), message);
  for (const port of [0, 65_536, 1.5]) await refused({ port }, /Invalid port number/);
  await refused({ port: true }, /port/);
  for (const connect_timeout of [0, -1, Infinity, true]) await refused({ connect_timeout }, /connect_timeout/);
  assert.equal(adbServer.config.parse({ port: "15038" }).port, 15_038);
});

/** The process of the server at a port, which its environment tells. */
function serverAt(port: number): number {
  const found = readdirSync("/proc").find((pid) => {
    if (!/^\d+$/.test(pid)) return false;
    try {
      const read = (name: string) => readFileSync(`/proc/${pid}/${name}`, "utf8").split("\0");
      return read("cmdline").includes("nodaemon") && read("environ").includes(`ANDROID_ADB_SERVER_PORT=${port}`);
    } catch {
      return false; // gone meanwhile
    }
  });
  assert.ok(found, `no server at ${port}`);
  return Number(found);
}
