/** What of the side-car needs no Python: planning, reports, the way of calls over a bridge, and the protocol. */
import assert from "node:assert/strict";
import { chmodSync, mkdirSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { PassThrough } from "node:stream";
import { test } from "node:test";
import { credentials, Metadata, type ServiceError } from "@grpc/grpc-js";
import fc from "fast-check";
import * as z from "zod";
import type { Bridge } from "../../../agent/driver/bridge.ts";
import { createCatalog } from "../../../agent/driver/catalog.ts";
import { defineDriver, type AnyDriver } from "../../../agent/driver/driver.ts";
import type { Entry } from "../../../agent/driver/entry.ts";
import { AgentError, DeviceOffline } from "../../../agent/driver/errors.ts";
import { defineInterface } from "../../../agent/driver/interface.ts";
import { planTree } from "../../../agent/driver/plan.ts";
import { report } from "../../../agent/session/report.ts";
import { asPython, className, type SideCarConfig } from "../../../agent/sidecar/config.ts";
import { isolatedLines } from "../../../agent/sidecar/lines.ts";
import { kinds, message, MessageCutter, parseAnswer, parseMetadata } from "../../../agent/sidecar/protocol.ts";
import { findPython } from "../../../agent/sidecar/python.ts";
import sideCar from "../../../agent/sidecar/driver.ts";
import composite from "../../../boards/composite/driver.ts";
import mockPower from "../../../boards/power/driver.ts";
import { DriverCallRequest, ExporterServiceDefinition } from "../../../proto/gen/jumpstarter/v1/jumpstarter.ts";
import { RouterServiceDefinition } from "../../../proto/gen/jumpstarter/v1/router.ts";
import { scratch } from "../../sim/agent.ts";
import { startExporter } from "../../sim/exporter.ts";
import { grpcClient } from "../../sim/grpc-client.ts";

const power = "jumpstarter_driver_power.driver.MockPower";
const uuid = "11111111-2222-4333-8444-555555555555";
const below = "66666666-7777-4888-8999-000000000000";

/** A catalog whose drivers of unknown types are run elsewhere; `meant` are the spellings it was asked about. */
function catalogWith(bridged: AnyDriver = sideCar) {
  const meant: (string | undefined)[] = [];
  const catalog = createCatalog(
    new Map([
      ["jumpstarter_driver_composite.driver.Composite", async () => composite],
      [power, async () => mockPower],
      ["jumpstarter_agent.SideCar", async () => sideCar],
    ]),
    async (type, near) => {
      meant.push(near);
      return near === undefined && className.test(type) ? bridged : undefined;
    },
  );
  return { catalog, meant };
}

async function plan(children: Record<string, Entry>) {
  const planned = await planTree({ children }, catalogWith().catalog);
  return "root" in planned
    ? Object.fromEntries(planned.root.children)
    : planned.problems.map((p) => `${p.path.join(".")}: ${p.message}`);
}

test("an unknown type goes to the side-car with all that is configured below it", async () => {
  const planned = await plan({
    lab: {
      type: "lab.driver.Board",
      description: "d",
      methodsDescription: { on: "h" },
      config: { uuid, log_level: "debug", labels: { room: "4" }, port: 3 },
      children: { power: { type: power }, group: { children: { same: { ref: "lab.power" } } } },
    },
    again: { ref: "lab" },
  });
  assert.ok(!Array.isArray(planned));
  const { lab } = planned;
  assert.ok(lab);
  assert.equal(planned["again"], lab);
  assert.deepEqual([lab.type, lab.uuid, lab.logLevel, lab.children.size], ["lab.driver.Board", uuid, "DEBUG", 0]);
  assert.deepEqual(asPython(lab.config as unknown as SideCarConfig), {
    type: "lab.driver.Board",
    description: "d",
    methods_description: { on: "h" },
    config: { uuid, log_level: "debug", labels: { room: "4" }, port: 3 },
    children: {
      power: { type: power, config: {}, children: {} },
      group: { children: { same: { ref: "power" } } },
    },
  });
});

test("a driver that we have is run by Python when the configuration says so", async () => {
  const entry = { type: "jumpstarter_agent.SideCar", config: { type: power, python: "/p", config: { uuid } } };
  const planned = await plan({ power: entry });
  assert.ok(!Array.isArray(planned));
  assert.equal(planned["power"]?.type, power);
  assert.equal(planned["power"]?.uuid, uuid);
  assert.deepEqual(asPython(planned["power"]?.config as unknown as SideCarConfig), {
    type: power,
    config: { uuid },
    children: {},
  });
  const problems = await plan({
    a: { type: "jumpstarter_agent.SideCar", config: { type: "no class", more: 1 } },
    b: { type: "jumpstarter_agent.SideCar", config: { type: power, config: { log_level: "LOUD" } } },
  });
  assert.deepEqual(problems, [
    "export.a.config.type: must be the import path of a Python class",
    "export.a.config.more: unknown key",
    'export.b.config.config.log_level: must be one of "DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"',
  ]);
});

test("typos, links out of a side-car and links into one are problems", async () => {
  const { catalog, meant } = catalogWith();
  assert.ok("problems" in (await planTree({ children: { p: { type: `${power}s` } } }, catalog)));
  assert.deepEqual(meant, [power]);
  const problems = await plan({
    typo: { type: `${power}s` },
    word: { type: "power" },
    native: { type: power },
    lab: { type: "lab.Board", children: { out: { ref: "native" }, box: { children: { me: { ref: "lab" } } } } },
    into: { ref: "lab.box" },
  });
  assert.ok(Array.isArray(problems));
  assert.match(problems[0] ?? "", /typo\.type: Driver .* is not installed.* Did you mean jumpstarter_driver_power/);
  assert.match(problems[1] ?? "", /word\.type: power doesn't look like a class path/);
  assert.match(problems[2] ?? "", /^export\.lab\.children\.out\.ref: leads to native, which lab cannot reach/);
  assert.match(problems[3] ?? "", /^export\.lab\.children\.box\.children\.me\.ref: leads to lab/);
  assert.equal(problems.length, 5);
  assert.deepEqual(await plan({ lab: { type: "lab.Board" }, into: { ref: "lab.box" } }), [
    "export.into: Proxy driver into references nonexistent driver lab.box: Python runs lab with all below it, so refer to lab itself",
  ]);
});

/** A driver whose bridge leads to this test. */
function bridgedTo(bridge: Partial<Bridge>, open: () => void = () => {}): AnyDriver {
  const told = { labels: { "jumpstarter.dev/client": "lab.client.Client" }, methodsDescription: {} };
  const reports = [
    { uuid, ...told, description: "top" },
    { uuid: below, parentUuid: uuid, ...told, labels: { ...told.labels, "jumpstarter.dev/name": "deep" } },
  ];
  const nothing = () => Promise.reject(new Error("not asked for"));
  return defineDriver({
    types: [],
    summary: "",
    implements: defineInterface({ driverType: "other", client: "any.Client", methods: {} }),
    config: z.looseObject({}),
    bridge: () => ({
      client: undefined,
      reports,
      call: nothing,
      // eslint-disable-next-line require-yield
      streamingCall: async function* () {
        await nothing();
      },
      stream: nothing,
      ...bridge,
    }),
    open: () => {
      open();
      return { methods: {} };
    },
  });
}

async function serveBridge(t: Parameters<typeof startExporter>[0], driver: AnyDriver) {
  const { catalog } = catalogWith(driver);
  const entry = { type: "lab.Board", config: { uuid } };
  const { exporter, socketPath } = await startExporter(t, { lab: entry, other: { ref: "lab" } }, { catalog });
  const client = grpcClient(ExporterServiceDefinition, `unix:${socketPath}`, credentials.createInsecure());
  t.after(() => client.close());
  const call = (method: string, to = uuid) =>
    new Promise<{ error: ServiceError | null; uuid: string | undefined }>((resolve) =>
      client.driverCall({ uuid: to, method, args: [] }, (error, answer) =>
        resolve({ error, uuid: error === null ? answer.uuid : undefined }),
      ),
    );
  return { exporter, socketPath, call, client };
}

test("what is behind a bridge stands in the report, in each of its places", async (t) => {
  const { exporter } = await serveBridge(t, bridgedTo({}));
  const told = report(exporter).reports.map((one) => [one.labels["jumpstarter.dev/name"], one.uuid, one.parentUuid]);
  const root = exporter.tree.root.uuid;
  assert.deepEqual(told.slice(1), [
    ["lab", uuid, root],
    ["deep", below, uuid],
    ["other", uuid, root],
    ["deep", below, uuid],
  ]);
  assert.equal(exporter.tree.byUuid(below), exporter.tree.byUuid(uuid));
});

test("a bridge about which nothing is known yet has its own entry", async (t) => {
  const { exporter } = await serveBridge(t, bridgedTo({ reports: [], client: "known.Client" }));
  const [, lab] = report(exporter).reports;
  assert.deepEqual(lab?.labels, { "jumpstarter.dev/client": "known.Client", "jumpstarter.dev/name": "lab" });
});

test("calls and their errors cross a bridge as they are", async (t) => {
  const seen: Uint8Array[] = [];
  const answers = new Map<string, () => Uint8Array>([
    ["well", () => Buffer.from("\n\u0005bytes")],
    [
      "strange",
      () => {
        throw new AgentError("E_FAILED", "", { answer: { status: 15, details: "" } });
      },
    ],
    [
      "gone",
      () => {
        throw new DeviceOffline("its process ended");
      },
    ],
  ]);
  const bridge: Partial<Bridge> = {
    call: (request) => {
      seen.push(request);
      return Promise.resolve((answers.get(DriverCallRequest.decode(request).method) ?? assert.fail)());
    },
    streamingCall: async function* (request) {
      seen.push(request);
      yield Buffer.from("\n\u0003one");
      await Promise.resolve();
      throw new AgentError("E_FAILED", "x", { answer: { status: 10, details: "torn ü" } });
    },
  };
  const { call, client } = await serveBridge(t, bridgedTo(bridge));
  assert.equal((await call("well", below)).uuid, "bytes");
  assert.deepEqual(seen[0], Buffer.from(DriverCallRequest.encode({ uuid: below, method: "well", args: [] }).finish()));
  const strange = await call("strange");
  assert.deepEqual([strange.error?.code, strange.error?.details], [15, ""]);
  const gone = await call("gone");
  assert.deepEqual([gone.error?.code, gone.error?.details], [14, "its process ended"]);
  const items: string[] = [];
  const error = await new Promise<ServiceError>((resolve) => {
    const stream = client.streamingDriverCall({ uuid, method: "many", args: [] });
    stream.on("data", (item: { uuid: string }) => items.push(item.uuid));
    stream.on("error", (thrown: ServiceError) => resolve(thrown));
  });
  assert.deepEqual([items, error.code, error.details], [["one"], 10, "torn ü"]);
});

test("the messages of a stream cross a bridge with its metadata, both ways", async (t) => {
  let asked: object | undefined;
  let carrier: PassThrough | undefined;
  const { socketPath } = await serveBridge(
    t,
    bridgedTo({
      stream: (request) => {
        asked = request;
        carrier = new PassThrough();
        return Promise.resolve({ stream: carrier, metadata: new Map([["resource", '{"a":1}']]) });
      },
    }),
  );
  const client = grpcClient(RouterServiceDefinition, `unix:${socketPath}`, credentials.createInsecure());
  t.after(() => client.close());
  const request = { kind: "resource", uuid: below, x_jmp_content_encoding: "brotli" };
  const metadata = new Metadata();
  metadata.set("request", JSON.stringify(request));
  const stream = client.stream(metadata);
  const first = await new Promise<Metadata>((resolve) => stream.once("metadata", resolve));
  assert.deepEqual(first.get("resource"), ['{"a":1}']);
  assert.deepEqual(asked, request);
  const sizes = [1, 70_000, 0, 500_000];
  for (const size of sizes) stream.write({ payload: Buffer.alloc(size, 7), frameType: 0 });
  stream.end();
  const got: number[] = [];
  for await (const frame of stream) got.push((frame as { payload: Buffer }).payload.length);
  assert.deepEqual(got, sizes);
});

test("messages are the same however they are cut", () => {
  const part = fc
    .tuple(fc.constantFrom(...Object.values(kinds)), fc.uint8Array({ maxLength: 300 }))
    .map(([kind, bytes]) => ({ kind, payload: Buffer.from(bytes) }));
  fc.assert(
    fc.property(
      fc.array(part, { maxLength: 8 }),
      fc.array(fc.integer({ min: 1, max: 90 }), { minLength: 1 }),
      (sent, cuts) => {
        const bytes = Buffer.concat(sent.map(({ kind, payload }) => message(kind, payload)));
        const whole = new MessageCutter();
        const passing = new MessageCutter();
        const got: { kind: number; payload: Buffer }[] = [];
        const passed: Buffer[] = [];
        const others: { kind: number; payload: Buffer }[] = [];
        for (let at = 0, turn = 0; at < bytes.length; turn += 1) {
          const end = at + (cuts[turn % cuts.length] as number);
          // Where it was read into, the next chunk comes.
          const chunk = Buffer.from(bytes.subarray(at, end));
          got.push(...whole.cut(chunk));
          for (const piece of passing.pass(chunk)) {
            if ("bytes" in piece) passed.push(Buffer.from(piece.bytes));
            else others.push(piece);
          }
          chunk.fill(0xff);
          at = end;
        }
        assert.deepEqual(got, sent);
        const calls = sent.filter(({ kind }) => kind === kinds.message);
        assert.deepEqual(Buffer.concat(passed), Buffer.concat(calls.map(({ payload }) => message(0, payload))));
        assert.deepEqual(
          others,
          sent.filter(({ kind }) => kind !== kinds.message),
        );
      },
    ),
  );
});

test("nonsense from the other process is an error, never an exception of ours", () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 64 }), (bytes) => {
      const chunk = Buffer.from(bytes);
      for (const read of [() => [...new MessageCutter().cut(chunk)], () => [...new MessageCutter().pass(chunk)]]) {
        try {
          read();
        } catch (error) {
          assert.ok(error instanceof AgentError && error.code === "E_CONNECTION");
        }
      }
      const answer = parseAnswer(chunk);
      assert.equal(answer === undefined, chunk.length === 0);
      parseMetadata(chunk);
    }),
  );
  assert.equal(parseAnswer(Buffer.from('{"status":17,"details":""}'))?.code, "E_CONNECTION");
  assert.deepEqual(parseAnswer(Buffer.from('{"status":15,"details":""}'))?.answer, { status: 15, details: "" });
  assert.deepEqual(parseAnswer(Buffer.from('{"status":4,"details":"late"}'))?.code, "E_TIMEOUT");
  const metadata = parseMetadata(Buffer.from('{"Resource":{"a":1},"x_jmp_accept_encoding":null,"b":"c"}'));
  assert.deepEqual(
    [...metadata],
    [
      ["resource", '{"a":1}'],
      ["x_jmp_accept_encoding", ""],
      ["b", "c"],
    ],
  );
});

test("lines of another process are cut, long ones in pieces or not at all", async () => {
  const cut = async (chunks: (string | Buffer)[], strict: boolean) => {
    const source = new PassThrough();
    const lines: string[] = [];
    let tooLong = false;
    isolatedLines(source, 10, (line) => lines.push(line), ...(strict ? [() => void (tooLong = true)] : []));
    for (const chunk of chunks) source.write(chunk);
    source.end();
    await new Promise((resolve) => source.once("close", resolve));
    return { lines, tooLong };
  };
  const umlaut = Buffer.from("ü\n");
  assert.deepEqual((await cut(["a\nb", "c\n\nd", umlaut.subarray(0, 1), umlaut.subarray(1)], false)).lines, [
    "a",
    "bc",
    "",
    "dü",
  ]);
  assert.deepEqual(await cut(["0123456789", "0123", "\nx"], false), {
    lines: ["01234567890123", "", "x"],
    tooLong: false,
  });
  assert.deepEqual(await cut(["a\n01234567890"], true), { lines: ["a"], tooLong: true });
});

test("the Python is the configured one, else that of jmp, else python3", (t) => {
  const folder = scratch(t);
  const bin = join(folder, "bin");
  const venv = join(folder, "venv/bin");
  for (const directory of [bin, venv]) mkdirSync(directory, { recursive: true });
  const program = (path: string, text = "") => {
    writeFileSync(path, text);
    chmodSync(path, 0o755);
  };
  const env = { PATH: `${folder}/none:${bin}` };
  assert.equal(findPython(undefined, env), undefined);
  program(join(bin, "python3"));
  assert.equal(findPython(undefined, env), join(bin, "python3"));
  program(join(venv, "python3"));
  program(join(venv, "jmp"), `#!${venv}/python3\nimport jmp\n`);
  symlinkSync(join(venv, "jmp"), join(bin, "jmp"));
  assert.equal(findPython(undefined, env), join(venv, "python3"));
  // A first line that names no Python, as long paths have.
  program(join(venv, "jmp"), `#!/bin/sh\n'''exec' python\n`);
  assert.equal(findPython(undefined, { PATH: venv }), join(venv, "python3"));
  assert.equal(findPython(undefined, { ...env, JMP_AGENT_PYTHON: "/some/python" }), "/some/python");
  assert.equal(findPython(undefined, { ...env, JMP_AGENT_PYTHON: join(folder, "venv") }), join(venv, "python3"));
  assert.equal(findPython("/mine", { ...env, JMP_AGENT_PYTHON: "/some/python" }), "/mine");
});
