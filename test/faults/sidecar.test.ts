/** Python drivers behind the side-car that crash, hang and babble, and an agent that is killed: who notices, and what is left. */
import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { once } from "node:events";
import { describe, test, type TestContext } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { connect, type Client } from "../../agent/client/connect.ts";
import type { RemoteNode } from "../../agent/client/node.ts";
import type { LogRecord } from "../../agent/driver/log.ts";
import { LogBus } from "../../agent/driver/log.ts";
import { power } from "../../boards/power/interface.ts";
import { serialConsole } from "../../boards/serial/interface.ts";
import { openFiles, startAgent } from "../sim/agent.ts";
import { startExporter } from "../sim/exporter.ts";
import { clientProgram, missingClient } from "../sim/python-client.ts";
import { eventually } from "../sim/rig.ts";

const version = "0.9.0";
const python = clientProgram(version, "python");
process.env["PYTHONPATH"] = "test/conformance";
process.env["PYTHONDONTWRITEBYTECODE"] = "1";

const sideCar = (type: string, config: Record<string, unknown> = {}, more: Record<string, unknown> = {}) => ({
  type: "jumpstarter_agent.SideCar",
  config: { type, config, python, ...more },
});
const lab = sideCar("sidecar_lab.Lab");

async function start(t: TestContext, drivers: Parameters<typeof startExporter>[1]) {
  const logs = new LogBus();
  const records: LogRecord[] = [];
  logs.subscribe((record) => records.push(record));
  const { exporter, socketPath } = await startExporter(t, drivers, { logs });
  const client = await connect({ host: socketPath });
  t.after(() => client.close());
  return { exporter, client, records, socketPath };
}

function find(client: Client, path: string): RemoteNode {
  const node = client.find(path);
  assert.ok(node, `no ${path}`);
  return node;
}

/** As Python's bytes.upper() has it. */
function loud(bytes: Buffer): Buffer {
  return Buffer.from(bytes.map((byte) => (byte >= 0x61 && byte <= 0x7a ? byte - 0x20 : byte)));
}

const alive = (pid: number) => existsSync(`/proc/${pid}`);

/** What a call fails with. */
async function failure(call: Promise<unknown>): Promise<Error & { code?: string }> {
  return call.then(
    (answer) => assert.fail(`no error, but ${JSON.stringify(answer)}`),
    (error: unknown) => error as Error & { code?: string },
  );
}

describe("side-car", { skip: missingClient(version), concurrency: 3 }, () => {
  test("drivers are built, reset and closed for each lease, in one process, with the same uuids", async (t) => {
    const { exporter, client, socketPath } = await start(t, { lab });
    const node = find(client, "lab");
    const uuids = [node.uuid, find(client, "lab.inner").uuid];
    assert.equal(node.labels["lab.example/shelf"], "3");
    await exporter.tree.reset();
    const pid = await node.call("pid");
    assert.deepEqual(await node.call("life"), ["built", "reset", "closed", "built", "reset"]);
    await exporter.tree.release();
    await exporter.tree.release();
    await exporter.tree.reset();
    assert.deepEqual(await node.call("life"), [..."built reset closed built reset closed built reset".split(" ")]);
    assert.equal(await node.call("pid"), pid);
    const again = await connect({ host: socketPath });
    t.after(() => again.close());
    assert.deepEqual([find(again, "lab").uuid, find(again, "lab.inner").uuid], uuids);
    // A client that gives up is heard of there.
    const gaveUp = failure(node.call("nap", [60], { signal: AbortSignal.timeout(300) }));
    assert.equal((await gaveUp).code, "E_CANCELLED");
    await eventually(
      "the call is cancelled",
      async () => ((await node.call("life")) as string[]).at(-1) === "CancelledError",
    );
    const stuck = await node.stream("stuck");
    for (let times = 0; times < 128; times += 1) stuck.write(Buffer.alloc(65_536));
    await sleep(300);
    stuck.destroy();
    await eventually("the stream is given up", async () => ((await node.call("life")) as string[]).at(-1) === "free");
    // What drivers have started goes with them.
    const child = Number(await node.call("start_process"));
    assert.ok(alive(child));
    await exporter.close();
    await eventually("nothing is left", () => !alive(child) && !alive(Number(pid)));
  });

  test("a process that is killed takes its calls along, and nothing else", async (t) => {
    const { client, records } = await start(t, { lab, power: { type: "jumpstarter_driver_power.driver.MockPower" } });
    const node = find(client, "lab");
    const pidOf = async () => Number(await node.call("pid"));
    const kill = async () => {
      const pid = await pidOf();
      process.kill(pid, "SIGKILL");
      return pid;
    };
    const states: Record<string, () => Promise<unknown>> = {
      call: () => node.call("nap", [60]),
      "streaming call": async () => {
        for await (const _ of node.streamingCall("count_slowly")) void _;
      },
      stream: async () => {
        const stream = await node.stream();
        stream.write(Buffer.from("x"));
        await once(stream, "data");
        await once(stream, "end");
        await once(stream, "close");
      },
    };
    for (const [state, under] of Object.entries(states)) {
      const failed = failure(under());
      await sleep(200);
      const pid = await kill();
      const { code, message } = await failed;
      assert.equal(code, "E_CONNECTION", `${state}: ${message}`);
      assert.match(message, /its Python process ended \(SIGKILL\)/, state);
      await find(client, "power").as(power).on();
      await eventually("the next call works", async () => (await pidOf().catch(() => pid)) !== pid);
    }
    // Between calls.
    const pid = await kill();
    await eventually(
      "the end is told",
      () => records.filter(({ message }) => message.includes("lab is offline")).length >= 4,
    );
    await eventually("the next call works", async () => (await pidOf().catch(() => pid)) !== pid);
    assert.equal(await find(client, "lab.inner").call("whoami"), "inner");
    // One that begins later may find the next process, and sleep well.
    const napping = failure(node.call("nap", [600]));
    await sleep(200);
    await node.call("garbage").catch(() => {});
    await napping;
    await eventually("the reason is told", () =>
      records.some(({ message }) => message.includes("what is not of the protocol")),
    );
    await eventually("the next call works", async () => (await pidOf().catch(() => 0)) > 0);
  });

  test("a driver that hangs is killed at the lease's end; the others have theirs at once", async (t) => {
    const { exporter, client } = await start(t, { lab, power: { type: "jumpstarter_driver_power.driver.MockPower" } });
    const node = find(client, "lab");
    const pid = Number(await node.call("pid"));
    const hanging = failure(node.call("hang"));
    await find(client, "power").as(power).on();
    await exporter.tree.release();
    assert.equal((await hanging).code, "E_CONNECTION");
    await eventually("it is gone", () => !alive(pid));
    await exporter.tree.reset();
    await eventually("the next lease works", async () => {
      const now = await node.call("pid").catch(() => pid);
      return now !== pid;
    });
  });

  test("what cannot start is offline with its reason, alone, and is in the report", async (t) => {
    const began = performance.now();
    const { client } = await start(t, {
      slow: sideCar("sidecar_lab.Slow"),
      broken: sideCar("sidecar_lab.Broken"),
      absent: sideCar("no_such_module.Driver"),
      nothing: sideCar("sidecar_lab.NoSuchClass"),
      silent: sideCar("sidecar_lab.Lab", {}, { python: "/bin/true" }),
      nowhere: sideCar("sidecar_lab.Lab", {}, { python: "/no/such/python" }),
      wrong: sideCar("sidecar_lab.Lab", { greeting: [1] }),
      power: { type: "jumpstarter_driver_power.driver.MockPower" },
    });
    // One of them takes ten minutes.
    assert.ok(performance.now() - began < 120_000);
    await find(client, "power").as(power).on();
    const reasons: Record<string, RegExp> = {
      slow: /still starting/,
      broken: /the hardware of Broken is missing/,
      absent: /no_such_module.Driver' is not installed: No module named 'no_such_module'/,
      nothing: /NoSuchClass/,
      silent: /its Python process ended \(exit code 0\)/,
      nowhere: /\/no\/such\/python cannot be started/,
      wrong: /greeting/,
    };
    for (const [name, reason] of Object.entries(reasons)) {
      const node = find(client, name);
      assert.match(node.clientClass, /^jumpstarter\.client\.DriverClient$/);
      if (name === "slow") continue; // a call would wait for it
      const { code, message } = await failure(node.call("pid"));
      assert.equal(code, "E_CONNECTION", message);
      assert.match(message, reason, name);
    }
  });

  test("drivers of ours call drivers of Python", async (t) => {
    const { exporter } = await start(t, {
      power: sideCar("jumpstarter_driver_power.driver.MockPower"),
      serial: sideCar("jumpstarter_driver_pyserial.driver.PySerial", { url: "loop://" }),
      lab,
    });
    const calls = exporter.calls("power", power);
    await calls.on();
    const readings = [];
    for await (const reading of calls.read()) readings.push(reading);
    assert.deepEqual(readings, [
      { voltage: 0, current: 0 },
      { voltage: 5, current: 2 },
    ]);
    const port = await exporter.calls("serial", serialConsole).connect();
    port.write(Buffer.from("there and back"));
    assert.equal(String((await once(port, "data"))[0]), "there and back");
    port.destroy();
    const { code } = await failure(exporter.calls("lab", power).on());
    assert.equal(code, "E_NO_METHOD");
  });

  test("a thousand calls and streams leave nothing behind", async (t) => {
    const { client } = await start(t, { lab });
    const node = find(client, "lab");
    const pid = Number(await node.call("pid"));
    const round = async (times: number) => {
      const many = Array.from({ length: times }, async (_, index) => {
        assert.deepEqual(await node.call("echo", [index]), [index]);
        if (index % 10 !== 0) return;
        for await (const item of node.streamingCall("count", [3])) if (item === 1) break;
        const stream = await node.stream();
        stream.end(Buffer.from(`word ${index}`));
        let got = "";
        for await (const chunk of stream) got += String(chunk);
        assert.equal(got, `WORD ${index}`);
        await node.lendSource((await import("node:stream")).Readable.from([Buffer.from("unread")]), (handle) =>
          node.call("unused", [handle]),
        );
      });
      await Promise.all(many);
    };
    await round(100);
    const settled = async () => {
      await sleep(300);
      return [openFiles(pid), openFiles(process.pid)] as const;
    };
    const before = await settled();
    for (let times = 0; times < 10; times += 1) await round(100);
    const after = await settled();
    // Up to 32 connections wait for the next call.
    for (const index of [0, 1] as const)
      assert.ok(after[index] <= before[index] + 40, `${before.join()} -> ${after.join()}`);
  });

  test("many bytes come back as they went, also to a reader that is slow", async (t) => {
    const { client } = await start(t, { lab });
    const node = find(client, "lab");
    const sent = Buffer.alloc(8 * 1024 * 1024);
    // Each place has its own number.
    for (let at = 0; at < sent.length; at += 4) sent.writeUInt32BE(0x80_00_00_00 + at, at);
    const expected = loud(sent);
    for (const pieceBytes of [1_000_003, 20_011]) {
      const stream = await node.stream();
      const written = (async () => {
        for (let at = 0; at < sent.length; at += pieceBytes) {
          if (!stream.write(sent.subarray(at, at + pieceBytes))) await once(stream, "drain");
        }
        stream.end();
      })();
      const got: Buffer[] = [];
      for await (const chunk of stream) {
        got.push(chunk as Buffer);
        if (got.length % 50 === 0) await sleep(5);
      }
      await written;
      assert.ok(Buffer.concat(got).equals(expected), `in pieces of ${pieceBytes}`);
    }
  });

  test("an agent that is killed leaves no Python", async (t) => {
    const agent = await startAgent(t, { lab });
    const client = await connect({ host: agent.socketPath });
    t.after(() => client.close());
    const node = find(client, "lab");
    const pids = [Number(await node.call("pid")), Number(await node.call("start_process"))];
    // Even if Python cannot hear of it.
    const hanging = failure(node.call("hang"));
    await sleep(200);
    agent.child.kill("SIGKILL");
    await hanging;
    await eventually("nothing is left", () => !pids.some(alive));
  });
});
