import assert from "node:assert/strict";
import { once } from "node:events";
import http2, { type IncomingHttpHeaders } from "node:http2";
import { test, type TestContext } from "node:test";
import { status } from "@grpc/grpc-js";
import { checkExporterConfig } from "../../../agent/config/schema.ts";
import { ChannelPool } from "../../../agent/controller/channel-pool.ts";
import { createControllerClient, type ControllerClient } from "../../../agent/controller/controller-client.ts";
import { releaseLease } from "../../../agent/controller/release-lease.ts";
import { controllerSettings, type ControllerSettings } from "../../../agent/controller/settings.ts";
import { StatusReporter } from "../../../agent/controller/status-reporter.ts";
import type { AgentError } from "../../../agent/driver/errors.ts";
import { startController, type ControllerOptions, type Lab } from "../../sim/controller/controller.ts";
import { labSettings } from "../../sim/lab-settings.ts";
import { eventually } from "../../sim/rig.ts";
import { VirtualClock } from "../../sim/virtual-clock.ts";

const failsWith = (code: AgentError["code"], message: RegExp) => (error: unknown) => {
  assert.match((error as AgentError).message, message);
  assert.equal((error as AgentError).code, code);
  return true;
};

const compat = "Lease released (compat: ReportStatus with release_lease)";

interface SetUp {
  readonly lab: Lab;
  readonly controller: ControllerClient;
  readonly channels: ChannelPool;
  settings: ControllerSettings;
}

async function setUp(t: TestContext, options: ControllerOptions = {}): Promise<SetUp> {
  const lab = await startController(options);
  t.after(() => lab.close());
  lab.addExporter({ name: "board" });
  lab.addClient({ name: "ann" });
  const channels = new ChannelPool({ keptMs: 50 });
  t.after(() => channels.close());
  const parts: SetUp = {
    lab,
    channels,
    settings: labSettings(lab, "board"),
    controller: createControllerClient({ settings: () => parts.settings, channels }),
  };
  return parts;
}

/** Settings of a configuration with these keys beside its name. */
function settingsOf(more: Record<string, unknown>, env: NodeJS.ProcessEnv = {}): ControllerSettings {
  const metadata = { name: "board", namespace: "lab" };
  const { config, problems } = checkExporterConfig(
    { metadata, endpoint: "lab.example:8082", token: "t", ...more },
    env,
  );
  assert.deepEqual(problems, []);
  assert.ok(config);
  return controllerSettings(config, env);
}

test("settings without an endpoint or a token are refused with a hint", () => {
  for (const more of [{ endpoint: null }, { token: null }, { token: " " }, { endpoint: "" }]) {
    assert.throws(
      () => settingsOf(more),
      (error: AgentError) => {
        assert.ok(error.hint);
        return failsWith("E_CONFIG", /^endpoint or token not set in exporter config$/)(error);
      },
    );
  }
  assert.throws(() => settingsOf({ endpoint: "https://lab.example" }), failsWith("E_CONFIG", /^endpoint: .*host:port/));
  assert.throws(() => settingsOf({ token: "two words" }), failsWith("E_CONFIG", /^token: (?!.*two words)/));
});

test("settings say how controller and routers are reached", () => {
  const { endpoint, namespace, name, token, channel, routerChannel, warnings } = settingsOf({ token: " abc\n" });
  assert.deepEqual(
    { endpoint, namespace, name, token, warnings },
    {
      endpoint: { kind: "tcp", host: "lab.example", port: 8082 },
      ...{ namespace: "lab", name: "board", token: "abc", warnings: [] },
    },
  );
  assert.deepEqual(channel, {
    connectTimeoutMs: 4_000,
    ca: undefined,
    keepaliveMs: 20_000,
    keepaliveTimeoutMs: 20_000,
  });
  assert.equal(routerChannel.keepaliveTimeoutMs, 180_000);
});

test("certificates are not verified if the file or the environment says so, and these come before an authority", () => {
  const verify = (more: Record<string, unknown>, env: NodeJS.ProcessEnv = {}) => settingsOf(more, env).channel.verify;
  const ca = Buffer.from("no certificate").toString("base64");
  assert.equal(verify({ tls: { insecure: true, ca } }), false);
  assert.equal(verify({}, { JUMPSTARTER_GRPC_INSECURE: "1" }), false);
  assert.equal(verify({}, { JMP_GRPC_INSECURE: "1" }), false);
  assert.equal(verify({}, { JMP_GRPC_INSECURE: "0" }), undefined);
  assert.throws(() => settingsOf({ tls: { ca } }), failsWith("E_CONFIG", /^tls\.ca: there is no certificate in it/));
  const damaged = Buffer.from("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").toString("base64");
  assert.throws(() => settingsOf({ tls: { ca: damaged } }), failsWith("E_CONFIG", /^tls\.ca: .*damaged/));
});

test("gRPC options that are known are heeded, and the others named", () => {
  const { channel, routerChannel, warnings } = settingsOf({
    grpcOptions: {
      "grpc.keepalive_time_ms": "30000",
      keepalive_timeout_ms: 7_000,
      "grpc.ssl_target_name_override": "controller",
      "grpc.default_authority": "authority",
      "grpc.lb_policy_name": "round_robin",
      "grpc.max_receive_message_length": -1,
      "grpc.enable_retries": 1,
      "grpc.http2.bdp_probe": 1,
    },
  });
  for (const { keepaliveMs, keepaliveTimeoutMs, serverName, authority } of [channel, routerChannel]) {
    assert.deepEqual(
      [keepaliveMs, keepaliveTimeoutMs, serverName, authority],
      [30_000, 7_000, "controller", "authority"],
    );
  }
  assert.deepEqual(warnings, [
    "grpcOptions.grpc.enable_retries: is not known here, and is ignored",
    "grpcOptions.grpc.http2.bdp_probe: is not known here, and is ignored",
  ]);
  assert.equal(settingsOf({ grpcOptions: { keepalive_time_ms: 2_147_483_647 } }).channel.keepaliveMs, undefined);
  assert.equal(settingsOf({ grpcOptions: { keepalive_time_ms: 1 } }).channel.keepaliveMs, 1_000);
  assert.match(settingsOf({ grpcOptions: { keepalive_time_ms: "soon" } }).warnings[0] ?? "", /number of milliseconds/);
});

test("a controller takes what the client says, and says what it knows", async (t) => {
  const { lab, controller } = await setUp(t);
  const over = new AbortController();
  const reports = [{ uuid: "1", parentUuid: undefined, labels: { a: "b" }, description: "d", methodsDescription: {} }];
  await controller.register({ labels: { "jumpstarter.dev/name": "board" }, reports });
  assert.equal(lab.records.registers[0]?.reports[0]?.description, "d");
  await controller.reportStatus({ status: "AVAILABLE", message: "here" });
  const { name, message, releaseLease: released } = lab.records.statuses[0] ?? {};
  assert.deepEqual({ name, message, released }, { name: "AVAILABLE", message: "here", released: false });

  const statuses = controller.status(over.signal);
  assert.equal((await statuses.next()).value?.leased, false);
  lab.assign({ name: "l1", exporter: "board", client: "ann" });
  const lease = (await statuses.next()).value;
  assert.deepEqual([lease?.leased, lease?.leaseName, lease?.clientName], [true, "l1", "ann"]);
  const clients = controller.listen("l1", over.signal);
  const first = clients.next();
  await lab.waitFor(() => lab.records.listens.length === 1);
  await lab.peerlessDial("l1");
  assert.equal((await first).value?.routerEndpoint, lab.routerEndpoint);
  assert.deepEqual(await controller.serviceEndpoints(), { telemetryEndpoints: [] });
  await controller.releaseLease("l1");
  assert.equal((await statuses.next()).value?.leased, false);
  assert.equal(lab.controller.connections, 1);
  over.abort();
  await assert.rejects(statuses.next(), failsWith("E_CANCELLED", /./));
  await controller.unregister("Exporter shutdown");
  assert.equal(lab.records.unregisters[0]?.reason, "Exporter shutdown");
  assert.deepEqual(lab.records.problems, []);
});

test("credentials go with every call, each key once", async (t) => {
  const seen: { path: string; raw: string[] }[] = [];
  const server = http2.createServer();
  const listen = (stream: http2.ServerHttp2Stream, headers: IncomingHttpHeaders, _flags: number, raw: string[]) => {
    seen.push({ path: String(headers[":path"]), raw });
    stream.respond({ ":status": 200, "grpc-status": "12" }, { endStream: true });
  };
  server.on("stream", listen as (stream: http2.ServerHttp2Stream) => void);
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const channels = new ChannelPool();
  t.after(async () => {
    await channels.close();
    server.close();
  });
  const { port } = server.address() as { port: number };
  const settings = { ...settingsOf({ endpoint: `127.0.0.1:${port}` }), channel: { insecure: true } };
  const controller = createControllerClient({ settings: () => settings, channels });
  const { signal } = new AbortController();
  for (const call of [
    controller.register({ labels: {}, reports: [] }),
    controller.unregister("x"),
    controller.reportStatus({ status: "OFFLINE", message: "" }),
    controller.releaseLease("l"),
    controller.serviceEndpoints(),
    controller.status(signal).next(),
    controller.listen("l", signal).next(),
  ]) {
    await assert.rejects(call, failsWith("E_UNSUPPORTED", /./));
  }
  assert.equal(seen.length, 7);
  for (const { path, raw } of seen) {
    const given = raw.flatMap((key, index) => (index % 2 === 0 ? [[key, raw[index + 1]]] : []));
    const own = given.filter(([key]) => key?.startsWith("jumpstarter-") || key === "authorization");
    assert.deepEqual(
      own.sort(),
      [
        ["authorization", "Bearer t"],
        ["jumpstarter-kind", "Exporter"],
        ["jumpstarter-name", "board"],
        ["jumpstarter-namespace", "lab"],
      ],
      path,
    );
  }
});

test("a token that was changed counts from the next call on", async (t) => {
  const parts = await setUp(t);
  const { lab, controller } = parts;
  await controller.register({ labels: {}, reports: [] });
  const old = parts.settings.token;
  const token = lab.rotateToken("board");
  await assert.rejects(controller.register({ labels: {}, reports: [] }), (error: Error) => {
    assert.ok(!error.message.includes(old));
    return true;
  });
  parts.settings = { ...parts.settings, token };
  await controller.register({ labels: {}, reports: [] });
  assert.equal(lab.controller.connections, 1);
});

test("an authority that was changed counts from the next call on", async (t) => {
  const parts = await setUp(t);
  const { controller } = parts;
  const trusted = parts.settings;
  parts.settings = { ...trusted, channel: { ...trusted.channel, ca: undefined } };
  await assert.rejects(controller.serviceEndpoints(), failsWith("E_CONNECTION", /certificate/));
  parts.settings = trusted;
  await controller.serviceEndpoints();
});

test("exporters that go to one place share a connection, which closes after its last use", async (t) => {
  const parts = await setUp(t);
  const { lab, channels } = parts;
  lab.addExporter({ name: "other" });
  const other = labSettings(lab, "other");
  const controllers = [parts.controller, createControllerClient({ settings: () => other, channels })];
  const over = new AbortController();
  const streams = controllers.map((controller) => controller.status(over.signal));
  for (const stream of streams) assert.equal((await stream.next()).value?.leased, false);
  assert.equal(lab.controller.connections, 1);
  const { channel, release } = channels.acquire(other.endpoint, { ...other.channel, verify: false });
  assert.equal(channels.size, 2);
  release();
  release();
  await eventually("what was never used is gone", () => channels.size === 1);
  assert.notEqual(channel, channels.acquire(other.endpoint, { ...other.channel, verify: false }).channel);
  await streams[0]?.return();
  assert.equal(lab.controller.connections, 1);
  await streams[1]?.return();
  await eventually("the connection is closed", () => lab.controller.connections === 0);
});

function releasing(parts: SetUp) {
  const clock = new VirtualClock();
  const lines: string[] = [];
  const write = (line: string) => void lines.push(line);
  const log = { debug: () => {}, info: write, warn: write };
  const { controller } = parts;
  const reporter = new StatusReporter({ controller, clock, log });
  const over = new AbortController();
  const release = (lease: string) => releaseLease(lease, { controller, reporter, clock, log, signal: over.signal });
  return { clock, lines, reporter, over, release };
}

test("a lease is released by ReleaseLease", async (t) => {
  const parts = await setUp(t);
  const { release, lines, reporter } = releasing(parts);
  reporter.report("AVAILABLE", "");
  await reporter.flush();
  parts.lab.assign({ name: "l1", exporter: "board", client: "ann" });
  await release("l1");
  assert.equal(parts.lab.lease("l1").ended, true);
  assert.equal(parts.lab.records.statuses.length, 1);
  await release("l1 that is gone");
  assert.deepEqual(lines, []);
});

test("an older controller is asked by ReportStatus, and not by ReleaseLease again", async (t) => {
  const parts = await setUp(t, { release: "0.8" });
  const { lab } = parts;
  const { release, lines, reporter } = releasing(parts);
  t.after(() => reporter.stop());
  reporter.report("AVAILABLE", "Available for new lease");
  await reporter.flush();
  for (const lease of ["l1", "l2"]) {
    lab.records.clear();
    lab.assign({ name: lease, exporter: "board", client: "ann" });
    await release(lease);
    await reporter.flush();
    assert.equal(lab.lease(lease).ended, true);
    const asked = lab.records.calls.filter(({ rpc }) => rpc === "ReleaseLease").length;
    assert.equal(asked, lease === "l1" ? 1 : 0);
    assert.deepEqual(
      lab.records.statuses.map(({ name, message, releaseLease: released }) => [name, message, released]),
      [
        ["AFTER_LEASE_HOOK", compat, true],
        ["AVAILABLE", "Available for new lease", false],
      ],
    );
  }
  assert.deepEqual(lines, []);
});

test("the older way keeps a status that is not AVAILABLE, and any of four refusals leads to it", async (t) => {
  const parts = await setUp(t);
  const { lab } = parts;
  const { PERMISSION_DENIED, INVALID_ARGUMENT, UNAUTHENTICATED, UNIMPLEMENTED } = status;
  for (const code of [PERMISSION_DENIED, INVALID_ARGUMENT, UNAUTHENTICATED, UNIMPLEMENTED]) {
    parts.controller.lacks.clear();
    const { release, reporter } = releasing(parts);
    reporter.report("BEFORE_LEASE_HOOK_FAILED", "");
    await reporter.flush();
    const fault = lab.faults.answer("ReleaseLease", code, "no");
    lab.assign({ name: `l${code}`, exporter: "board", client: "ann" });
    await release(`l${code}`);
    fault.off();
    assert.equal(lab.lease(`l${code}`).ended, true);
    assert.deepEqual(lab.records.statuses.at(-1)?.name, "BEFORE_LEASE_HOOK_FAILED");
    assert.equal(parts.controller.lacks.has("ReleaseLease"), true);
  }
});

test("a controller that refuses everything was not found to be an old one", async (t) => {
  const parts = await setUp(t);
  const { release, lines } = releasing(parts);
  parts.lab.refuseTokens("board", { code: status.UNAUTHENTICATED, details: "the token is not valid" });
  await release("l1");
  assert.equal(parts.controller.lacks.size, 0);
  assert.deepEqual(lines, ["Failed to release lease l1: the token is not valid"]);
});

test("a release is tried through an outage until its signal ends it", async (t) => {
  const parts = await setUp(t);
  const { lab } = parts;
  const { clock, over, release, lines } = releasing(parts);
  lab.assign({ name: "l1", exporter: "board", client: "ann" });
  const fault = lab.faults.answer("ReleaseLease", status.UNAVAILABLE, "not now");
  const pass = setInterval(() => void clock.advance(1_000), 5);
  t.after(() => clearInterval(pass));
  const released = release("l1");
  await lab.waitFor(() => fault.count > 3);
  fault.off();
  await released;
  assert.equal(lab.lease("l1").ended, true);
  assert.equal(lines.length, 2);

  const endless = lab.faults.answer("ReleaseLease", status.UNAVAILABLE, "not now");
  const aborted = release("l1");
  await lab.waitFor(() => endless.count > 3);
  const reason = new Error("30 s are over");
  over.abort(reason);
  await assert.rejects(aborted, reason);
  clearInterval(pass);
  await clock.advance(0);
  assert.equal(clock.sleeping, 0);
});
