import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { chmodSync, existsSync, mkdirSync, readdirSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { connect, createServer } from "node:net";
import { dirname, join } from "node:path";
import { test, type TestContext } from "node:test";
import { askAgents } from "../../../agent/host/control-client.ts";
import { serveControl, type ControlHandlers } from "../../../agent/host/control.ts";
import { scratch } from "../../sim/agent.ts";

const idle: ControlHandlers = { reload: async () => [], status: async () => ({ exporters: [] }) };

/** A user with directories of its own, so that no real agent is asked. */
function user(t: TestContext): NodeJS.ProcessEnv & { XDG_RUNTIME_DIR: string } {
  const directory = scratch(t);
  return { XDG_RUNTIME_DIR: directory, TMPDIR: directory };
}

async function serve(t: TestContext, env: NodeJS.ProcessEnv, handlers: Partial<ControlHandlers> = {}) {
  const server = await serveControl({ ...idle, ...handlers }, env);
  t.after(() => server.close());
  return server;
}

/** Says these bytes to a socket and answers all that comes back. */
async function say(path: string, bytes: string): Promise<string> {
  const socket = connect(path);
  socket.on("error", () => {});
  socket.write(bytes);
  let heard = "";
  socket.on("data", (chunk: Buffer) => (heard += chunk.toString()));
  await once(socket, "close");
  return heard;
}

test("a request reaches its handler, and the answer comes back", async (t) => {
  const env = user(t);
  const asked: unknown[] = [];
  await serve(t, env, {
    reload: async (request) => {
      asked.push(request);
      return [{ exporter: "bench", outcome: "reloaded", changes: ["power: changed"], problems: [] }];
    },
  });
  const [first, ...others] = await askAgents("reload", { exporter: "bench" }, { env });
  assert.deepEqual(others, []);
  assert.equal(first?.pid, process.pid);
  assert.deepEqual(first?.answer, [
    { exporter: "bench", outcome: "reloaded", changes: ["power: changed"], problems: [] },
  ]);
  await askAgents("reload", {}, { env });
  assert.deepEqual(asked, [{ exporter: "bench" }, {}]);
  assert.deepEqual((await askAgents("status", {}, { env }))[0]?.answer, { exporters: [] });
  assert.deepEqual(await askAgents("status", {}, { env, pid: process.pid + 1 }), []);
});

test("the socket is its user's alone, and goes with the agent", async (t) => {
  const env = user(t);
  const server = await serve(t, env);
  assert.equal(server.path, join(env.XDG_RUNTIME_DIR, "jumpstarter-agent", `${process.pid}.sock`));
  assert.equal(statSync(server.path).mode & 0o777, 0o600);
  assert.equal(statSync(dirname(server.path)).mode & 0o777, 0o700);
  await server.close();
  await server.close();
  assert.equal(existsSync(server.path), false);
});

test("a service's runtime directory comes first, a missing one of the user is passed over", async (t) => {
  const directory = scratch(t);
  const service = await serve(t, { RUNTIME_DIRECTORY: `${directory}:/nowhere`, TMPDIR: directory });
  assert.equal(dirname(service.path), join(directory, "control"));
  const lost = await serve(t, { XDG_RUNTIME_DIR: join(directory, "gone"), TMPDIR: directory });
  assert.equal(dirname(lost.path), join(directory, `jumpstarter-agent-${process.getuid?.()}`));
});

test("a directory that others can enter, or that leads elsewhere, is refused by both sides", async (t) => {
  const env = user(t);
  const directory = join(env.XDG_RUNTIME_DIR, "jumpstarter-agent");
  const server = await serve(t, env);
  chmodSync(directory, 0o755);
  await assert.rejects(serveControl(idle, env), { code: "E_IO", message: /is open to other users/ });
  assert.deepEqual(await askAgents("status", {}, { env }), []);
  chmodSync(directory, 0o700);
  assert.equal((await askAgents("status", {}, { env })).length, 1);

  const other = user(t);
  symlinkSync(dirname(server.path), join(other.XDG_RUNTIME_DIR, "jumpstarter-agent"));
  await assert.rejects(serveControl(idle, other), { code: "E_IO", message: /is not a directory/ });
  assert.deepEqual(await askAgents("status", {}, { env: other }), []);
});

test("a directory of another user is refused by both sides", async (t) => {
  if (process.getuid?.() !== 0) return t.skip("only root can make one");
  const { chownSync } = await import("node:fs");
  const env = user(t);
  const server = await serve(t, env);
  chownSync(dirname(server.path), 65534, 65534);
  await assert.rejects(serveControl(idle, env), { code: "E_IO", message: /belongs to another user/ });
  assert.deepEqual(await askAgents("status", {}, { env }), []);
});

test("a second agent of the same number is refused while the first lives", async (t) => {
  const env = user(t);
  await serve(t, env);
  await assert.rejects(serveControl(idle, env), { code: "E_IO", message: /another process already serves/ });
});

test("a path that no socket can have is refused with its length", async (t) => {
  const long = join(scratch(t), "x".repeat(100));
  mkdirSync(long);
  await assert.rejects(serveControl(idle, { XDG_RUNTIME_DIR: long, TMPDIR: long }), { message: /longer than the 107/ });
});

test("an error of a handler arrives with its code; the agent goes on", async (t) => {
  const env = user(t);
  await serve(t, env, { reload: () => Promise.reject(new Error("no such luck")) });
  const [failed] = await askAgents("reload", {}, { env });
  assert.equal(failed?.error?.code, "E_FAILED");
  assert.equal(failed?.error?.message, "no such luck");
  assert.equal((await askAgents("status", {}, { env }))[0]?.error, undefined);
});

test("what is no request is answered with why, and an endless one is cut", async (t) => {
  const env = user(t);
  const { path } = await serve(t, env);
  const code = async (bytes: string) => (JSON.parse(await say(path, bytes)) as { error: { code: string } }).error.code;
  assert.equal(await code("hello\n"), "E_INVALID");
  assert.equal(await code("{}\n"), "E_INVALID");
  assert.equal(await code('{"request":"constructor"}\n'), "E_INVALID");
  assert.equal(await code('{"request":"reload","params":{"exporter":7}}\n'), "E_INVALID");
  assert.equal(await code('{"request":"reload","params":{"more":"x"}}\n'), "E_INVALID");
  assert.equal(await code("x".repeat(100_000)), "E_LIMIT");
  // Somebody who connects and leaves is no reason for anything.
  connect(path).end();
  connect(path).destroy();
  assert.deepEqual(JSON.parse(await say(path, '{"request":"status"}\nmore')), { answer: { exporters: [] } });
});

test("sockets of dead agents are removed, all other files stay", async (t) => {
  const env = user(t);
  const { path } = await serve(t, env);
  const directory = dirname(path);
  // A process that is killed leaves its socket.
  const child = spawn(process.execPath, [
    "-e",
    `require("net").createServer().listen(process.argv[1] + "/" + process.pid + ".sock", () => console.log("up"))`,
    directory,
  ]);
  t.after(() => child.kill("SIGKILL"));
  await once(child.stdout, "data");
  child.kill("SIGKILL");
  await once(child, "exit");
  writeFileSync(join(directory, "notes.sock"), "");
  writeFileSync(join(directory, "1.sock.old"), "");
  assert.ok(existsSync(join(directory, `${child.pid}.sock`)));
  assert.equal((await askAgents("status", {}, { env })).length, 1);
  assert.deepEqual(readdirSync(directory).sort(), ["1.sock.old", `${process.pid}.sock`, "notes.sock"].sort());
});

test("an agent that answers nonsense or hangs up is reported, the others are heard", async (t) => {
  const env = user(t);
  const { path } = await serve(t, env);
  for (const [name, answer] of [
    ["4000000001.sock", "nonsense\n"],
    ["4000000002.sock", ""],
    ["4000000003.sock", '{"error":{"code":"E_NEW","message":"from the future"}}\n'],
  ] as const) {
    const server = createServer((socket) => socket.on("error", () => {}).end(answer));
    server.listen(join(dirname(path), name));
    await once(server, "listening");
    t.after(() => server.close());
  }
  const answers = await askAgents("status", {}, { env });
  assert.deepEqual(
    answers.map(({ error }) => error?.code),
    [undefined, "E_INVALID", "E_CONNECTION", "E_FAILED"],
  );
});

test("closing ends what is under way", async (t) => {
  const env = user(t);
  let begun: () => void = () => {};
  const began = new Promise<void>((resolve) => (begun = resolve));
  const server = await serve(t, env, {
    status: () => {
      begun();
      return new Promise(() => {});
    },
  });
  const asked = askAgents("status", {}, { env });
  await began;
  await server.close();
  assert.equal((await asked)[0]?.error?.code, "E_CONNECTION");
});
