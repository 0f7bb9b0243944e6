// What our controller for tests answers, and that its faults are what they claim to be; asked through grpc-js.
import assert from "node:assert/strict";
import { createPrivateKey, X509Certificate } from "node:crypto";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { connect as connectTls } from "node:tls";
import { test, type TestContext } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { credentials, Metadata, status, type ClientDuplexStream, type ClientReadableStream } from "@grpc/grpc-js";
import { ExporterStatus } from "../../proto/gen/jumpstarter/v1/common.ts";
import {
  ControllerServiceDefinition,
  type GetServiceEndpointsResponse,
  type ListenResponse,
  type StatusResponse,
  type TelemetryEndpoint,
} from "../../proto/gen/jumpstarter/v1/jumpstarter.ts";
import {
  RouterServiceDefinition,
  type StreamRequest,
  type StreamResponse,
} from "../../proto/gen/jumpstarter/v1/router.ts";
import {
  TelemetryServiceDefinition,
  type LogEntry,
  type PushLogsResponse,
} from "../../proto/gen/jumpstarter/v1/telemetry.ts";
import { scratch } from "../sim/agent.ts";
import { createAuthority } from "../sim/certificates.ts";
import { startController, type ControllerOptions, type Lab } from "../sim/controller/controller.ts";
import { startLabProcess } from "../sim/controller/process-client.ts";
import { parseSelector } from "../sim/controller/selector.ts";
import { grpcClient } from "../sim/grpc-client.ts";

const { EXPORTER_STATUS_AVAILABLE, EXPORTER_STATUS_LEASE_READY, EXPORTER_STATUS_OFFLINE } = ExporterStatus;

test("certificates are signed by their authority, for names and addresses", async (t) => {
  const authority = await createAuthority(scratch(t));
  const { certificate, key } = await authority.serverCertificate();
  const server = new X509Certificate(certificate);
  assert.ok(server.verify(new X509Certificate(authority.certificate).publicKey));
  assert.ok(server.checkHost("localhost") && server.checkIP("127.0.0.1"));
  assert.ok(server.checkPrivateKey(createPrivateKey(key)));
});

test("selectors match as those of Kubernetes", () => {
  const labels = { board: "rpi4", zone: "b" };
  for (const text of ["", "board=rpi4", "board==rpi4,zone!=a", "zone in (a, b)", "zone notin (a),board", "!gone"]) {
    assert.ok(parseSelector(text).matches(labels), text);
  }
  for (const text of ["board=rpi3", "zone!=b", "gone", "!zone", "gone in (x)"]) {
    assert.ok(!parseSelector(text).matches(labels), text);
  }
  assert.equal(parseSelector("b!=c,a=b").toString(), "a=b,b notin (c)");
  assert.throws(() => parseSelector("a b"), /unable to parse requirement/);
});

test("an exporter is told of its lease at once, and then of each change", async (t) => {
  const { lab, exporter } = await setUp(t);
  await exporter.register();
  await exporter.report(EXPORTER_STATUS_AVAILABLE);
  const stream = exporter.status();
  assert.equal((await stream.next()).leased, false);
  lab.createLease({ name: "l1", client: "ann", selector: "kind=board", context: { build: "7" } });
  const told = { leased: true, leaseName: "l1", clientName: "ann", context: { build: "7" } };
  assert.deepEqual(await stream.next(), told);
  lab.transfer("l1", "bob");
  assert.deepEqual(await stream.next(), { ...told, clientName: "bob" });
  lab.assign({ name: "l2", client: "ann", exporter: "board" });
  assert.deepEqual(await stream.next(), { leased: true, leaseName: "l2", clientName: "ann", context: {} });
  await exporter.call("releaseLease", { name: "l2" });
  assert.equal((await stream.next()).leased, false);
  lab.createLease({ name: "l3", client: "ann", exporterName: "board", durationMs: 50 });
  assert.equal((await stream.next()).leaseName, "l3");
  assert.equal((await stream.next()).leased, false);
  assert.equal(lab.lease("l3").conditions.at(-1)?.reason, "Expired");
});

test("a lease waits for an exporter that is online, registered, Available and free", async (t) => {
  const { lab, exporter } = await setUp(t);
  const reason = () => lab.lease("l1").conditions.find(({ type }) => type === "Pending")?.reason;
  lab.createLease({ name: "l1", client: "ann", selector: "kind=board" });
  assert.equal(reason(), "Offline");
  await exporter.report(EXPORTER_STATUS_LEASE_READY);
  assert.equal(reason(), "Offline", "it has not registered");
  await exporter.register();
  assert.equal(reason(), "NotReady");
  await exporter.report(EXPORTER_STATUS_AVAILABLE);
  assert.equal(lab.lease("l1").exporter, "board");
  lab.createLease({ name: "l2", client: "bob", selector: "kind=board" });
  assert.match(lab.lease("l2").conditions[0]?.message ?? "", /all of them are already leased/);
  lab.deleteLease("l1");
  assert.equal(lab.lease("l2").exporter, "board");
  lab.createLease({ name: "l3", client: "bob", exporterName: "nowhere" });
  assert.equal(lab.lease("l3").conditions[0]?.reason, "ExporterNotFound");
});

test("an exporter without Status stream is lost after a while, and counts as silent when it is back", async (t) => {
  const { lab, exporter } = await setUp(t, { offlineAfterMs: 100 });
  await exporter.register();
  await exporter.report(EXPORTER_STATUS_OFFLINE);
  const stream = exporter.status();
  await stream.next();
  assert.equal(lab.exporter("board").status, ExporterStatus.EXPORTER_STATUS_UNSPECIFIED);
  await exporter.report(EXPORTER_STATUS_LEASE_READY);
  lab.statusStreams.end();
  await lab.waitFor(() => lab.exporter("board").status === EXPORTER_STATUS_OFFLINE, { what: "it to be missed" });
  assert.match(lab.exporter("board").statusMessage, /Connection lost/);
  await exporter.status().next();
  await exporter.call("unregister", { reason: "Exporter shutdown" });
  assert.equal(lab.exporter("board").status, EXPORTER_STATUS_OFFLINE);
  assert.deepEqual(
    lab.records.unregisters.map(({ reason }) => reason),
    ["Exporter shutdown"],
  );
});

test("callers are refused as the real controller refuses them", async (t) => {
  const { lab, exporter } = await setUp(t);
  const refused = async (code: status, details: RegExp, change: (metadata: Metadata) => void) => {
    const metadata = exporter.metadata();
    change(metadata);
    await assert.rejects(exporter.call("register", { labels: {}, reports: [] }, metadata), { code, details });
  };
  await refused(status.UNAUTHENTICATED, /missing authorization/, (m) => m.remove("authorization"));
  await refused(status.UNKNOWN, /failed to authenticate token/, (m) => m.set("authorization", "Bearer x"));
  await refused(status.INVALID_ARGUMENT, /malformed/, (m) => m.set("authorization", "Basic x"));
  await refused(status.INVALID_ARGUMENT, /missing metadata: jumpstarter-name/, (m) => m.remove("jumpstarter-name"));
  await refused(status.INVALID_ARGUMENT, /multiple metadata/, (m) => m.add("jumpstarter-kind", "Exporter"));
  await refused(status.INVALID_ARGUMENT, /kind mismatch/, (m) => m.set("jumpstarter-kind", "Client"));
  await refused(status.UNKNOWN, /not found/, (m) => m.set("jumpstarter-name", "nobody"));
  lab.addExporter({ name: "other" });
  await refused(status.PERMISSION_DENIED, /permission denied for exporter default\/other/, (m) =>
    m.set("jumpstarter-name", "other"),
  );
  lab.refuseTokens("board", { code: status.UNAUTHENTICATED, details: "token is expired" });
  await assert.rejects(exporter.register(), { code: status.UNAUTHENTICATED, details: "token is expired" });
  lab.rotateToken("board");
  await exporter.register();
});

test("a dial meets its Listen, and is refused with the texts that clients know", async (t) => {
  const { lab, exporter, client } = await setUp(t, { dialWaitMs: 0 });
  const refused = (code: status, details: RegExp) => assert.rejects(client.dial("l1"), { code, details });
  await refused(status.UNKNOWN, /not found/);
  await exporter.register();
  lab.assign({ name: "l1", client: "ann", exporter: "board" });
  await refused(status.UNAVAILABLE, /exporter is not listening on lease l1/);
  const listen = exporter.listen("l1");
  await lab.waitFor(() => lab.records.listens.length === 1);
  assert.equal((await client.dial("l1")).routerToken, (await listen.next()).routerToken);
  await exporter.report(EXPORTER_STATUS_AVAILABLE);
  await refused(status.FAILED_PRECONDITION, /exporter is not ready \(status: Available\)/);
  await exporter.report(EXPORTER_STATUS_OFFLINE);
  await refused(status.FAILED_PRECONDITION, /exporter is offline/);
  await exporter.report(EXPORTER_STATUS_LEASE_READY);

  const letGo = lab.listenQueues.hold();
  for (let n = 0; n < 8; n++) await client.dial("l1");
  await refused(status.RESOURCE_EXHAUSTED, /listener buffer full on lease l1/);
  const newer = exporter.listen("l1");
  for (let n = 0; n < 8; n++) await listen.next();
  await listen.end(status.OK);
  letGo();
  const stream = await lab.peerlessDial("l1");
  assert.ok((await newer.next()).routerToken);
  assert.equal(
    lab.records.tunnels.find((tunnel) => tunnel.stream === stream),
    undefined,
  );
  lab.transfer("l1", "bob");
  await refused(status.UNKNOWN, /permission denied/);
  await exporter.listen("l9").end(status.UNKNOWN);
});

test("the router pairs two callers, passes frames on as they are, and ends both", async (t) => {
  const { lab } = await setUp(t);
  const { stream, token } = lab.router.token();
  const [first, second] = [tunnel(t, lab, token), tunnel(t, lab, token)];
  first.write({ payload: Buffer.from("hello"), frameType: 0 });
  assert.deepEqual(await second.next(), { payload: Buffer.from("hello"), frameType: 0 });
  second.write({ payload: Buffer.alloc(0), frameType: 7 });
  assert.equal((await first.next()).frameType, 7);
  const big = Buffer.alloc(60_000, "x");
  for (let n = 0; n < 100; n++) first.write({ payload: big, frameType: 0 });
  for (let n = 0; n < 100; n++) assert.equal((await second.next()).payload.length, big.length);
  first.stream.end();
  second.stream.end();
  await first.end(status.OK);
  await second.end(status.OK);
  const record = await lab.waitFor(() => lab.records.tunnels.find((one) => one.stream === stream && one.ended === 2));
  assert.equal(record.messages, 102);
  await tunnel(t, lab, "nonsense").end(status.UNAUTHENTICATED);
  await tunnel(t, lab, lab.router.token({ validForSeconds: -5 }).token).end(status.UNAUTHENTICATED);
});

test("a tunnel hears that its peer is gone when it next sends, or at once when asked to", async (t) => {
  const { lab } = await setUp(t);
  for (const prompt of [false, true]) {
    lab.router.prompt = prompt;
    const { token } = lab.router.token();
    const left = tunnel(t, lab, token);
    left.write({ payload: Buffer.from("1"), frameType: 0 });
    const right = tunnel(t, lab, token);
    await right.next();
    left.stream.cancel();
    await lab.waitFor(() => lab.router.open === 1 || prompt);
    if (!prompt) right.write({ payload: Buffer.from("2"), frameType: 0 });
    await right.end(status.CANCELLED);
  }
  const { token } = lab.router.token();
  const [a, b] = [tunnel(t, lab, token), tunnel(t, lab, token)];
  await lab.waitFor(() => lab.router.open === 2);
  assert.equal(lab.router.dropTunnels(), 2);
  await a.end(status.UNAVAILABLE);
  await b.end(status.UNAVAILABLE);
});

test("RPCs fail, are swallowed, come late or take effect without an answer", async (t) => {
  const { lab, exporter } = await setUp(t);
  lab.faults.answer("ReportStatus", status.UNAVAILABLE, "try later", { times: 2 });
  for (let n = 0; n < 2; n++) await assert.rejects(exporter.report(EXPORTER_STATUS_AVAILABLE), { code: 14 });
  await exporter.report(EXPORTER_STATUS_AVAILABLE);
  lab.assign({ name: "l1", client: "ann", exporter: "board" });
  lab.faults.answer("ReleaseLease", status.UNAVAILABLE, "lost", { times: 1, afterEffect: true });
  await assert.rejects(exporter.call("releaseLease", { name: "l1" }), { details: /lost/ });
  assert.ok(lab.lease("l1").ended);
  const swallowed = lab.faults.swallow("Register", { caller: "board" });
  await assert.rejects(exporter.register(200), { code: status.DEADLINE_EXCEEDED });
  swallowed.off();
  await exporter.register();
  lab.faults.delay("Register", 100, { times: 1 });
  const beganMs = performance.now();
  await exporter.register();
  assert.ok(performance.now() - beganMs >= 95);
});

test("status messages are doubled, held, reordered and forged; streams end cleanly or with an error", async (t) => {
  const { lab, exporter } = await setUp(t);
  const stream = exporter.status();
  await stream.next();
  lab.statusStreams.repeat("board", 2);
  lab.assign({ name: "l1", client: "ann", exporter: "board" });
  assert.deepEqual([(await stream.next()).leaseName, (await stream.next()).leaseName], ["l1", "l1"]);
  lab.statusStreams.repeat("board", 1);
  const messages = lab.statusStreams.hold("board");
  lab.deleteLease("l1");
  lab.assign({ name: "l2", client: "ann", exporter: "board" });
  assert.equal(messages.held.length, 2);
  messages.release((held) => held.reverse());
  assert.deepEqual([(await stream.next()).leaseName, (await stream.next()).leased], ["l2", false]);
  lab.statusStreams.send("board", { leased: true, leaseName: "forged", clientName: "eve" });
  assert.equal((await stream.next()).leaseName, "forged");
  lab.statusStreams.end("board", status.UNKNOWN, "watch channel closed");
  await stream.end(status.UNKNOWN);
  const again = exporter.status();
  await again.next();
  lab.statusStreams.end();
  await again.end(status.OK);
});

test("a controller that was away comes back on the same port, with all it knew", async (t) => {
  const { lab, exporter } = await setUp(t);
  await exporter.register();
  lab.assign({ name: "l1", client: "ann", exporter: "board" });
  const stream = exporter.status();
  await stream.next();
  await lab.controller.stop();
  await stream.end(status.UNAVAILABLE);
  await assert.rejects(exporter.report(EXPORTER_STATUS_AVAILABLE), { code: status.UNAVAILABLE });
  await lab.controller.start();
  const again = exporter.status({ waitForReady: true });
  assert.equal((await again.next()).leaseName, "l1");
  assert.equal(lab.exporter("board").statusStreams, 1);
  lab.controller.reset();
  await again.end(status.UNAVAILABLE);
  lab.forgetExporter("board");
  assert.equal(lab.exporter("board").devices, null);
  assert.throws(() => lab.lease("l1"), /no lease l1/);
});

test("connections are reset; certificates change", async (t) => {
  const { lab } = await setUp(t);
  const dial = (ca: string) => connectTls({ port: lab.controller.port, host: "127.0.0.1", ca, ALPNProtocols: ["h2"] });
  const open = dial(lab.ca);
  await once(open, "data");
  const closed = once(open, "error");
  lab.controller.reset();
  assert.match(String(await closed), /ECONNRESET/);
  await lab.replaceCertificates("same");
  const same = dial(lab.ca);
  await once(same, "secureConnect");
  same.destroy();
  await lab.replaceCertificates("another");
  const [error] = (await once(dial(lab.ca), "error")) as [Error];
  assert.match(String(error), /unable to verify|self-signed/);
});

test("older controllers lack what came later", async (t) => {
  const eight = await setUp(t, { release: "0.8" });
  await eight.exporter.report(EXPORTER_STATUS_AVAILABLE);
  eight.lab.assign({ name: "l1", client: "ann", exporter: "board", context: { build: "7" } });
  await assert.rejects(eight.exporter.call("releaseLease", { name: "l1" }), { code: status.INVALID_ARGUMENT });
  await assert.rejects(eight.exporter.call("getServiceEndpoints", {}), { code: status.UNIMPLEMENTED });
  assert.deepEqual((await eight.exporter.status().next()).context, {});
  const reported = { status: ExporterStatus.EXPORTER_STATUS_AFTER_LEASE_HOOK, releaseLease: true };
  await eight.exporter.call("reportStatus", reported);
  assert.ok(eight.lab.lease("l1").ended);
  await eight.exporter.register();
  eight.lab.createLease({ name: "l2", client: "ann", exporterName: "board" });
  assert.equal(eight.lab.lease("l2").exporter, "board", "placed although the hook still runs");
  const seven = await setUp(t, { release: "0.7" });
  await assert.rejects(seven.exporter.report(EXPORTER_STATUS_AVAILABLE), { code: status.UNIMPLEMENTED });
  seven.lab.assign({ name: "l1", client: "ann", exporter: "board" });
  const dialled = await seven.client.dial("l1");
  assert.equal(
    (await seven.exporter.listen("l1").next()).routerToken,
    dialled.routerToken,
    "dialled before it listened",
  );
});

test("a lab in a process of its own answers again after SIGSTOP", async (t) => {
  const lab = await startLabProcess(t);
  await lab.addExporter({ name: "board", labels: { kind: "board" } });
  await lab.addClient({ name: "ann" });
  const config = (await lab.exporterConfig("board", {})) as { token: string };
  const exporter = peer(t, lab, "Exporter", "board", () => config.token);
  await exporter.register();
  assert.equal(await lab.assign({ name: "l1", client: "ann", exporter: "board" }), "l1");
  lab.signal("SIGSTOP");
  await untilStopped(lab.pid);
  await assert.rejects(exporter.register(200), { code: status.DEADLINE_EXCEEDED });
  lab.signal("SIGCONT");
  await exporter.report(EXPORTER_STATUS_LEASE_READY);
  assert.equal((await lab.untilStatus("board", "LEASE_READY")).lease, "l1");
  await assert.rejects(lab.deleteLease("nothing"), /no lease nothing/);
  assert.deepEqual((await lab.records()).problems, []);
});

test("a router in another process serves the lab's tunnels, and can be stopped alone", async (t) => {
  const routerKey = "shared";
  const away = await startLabProcess(t, { routerKey });
  const lab = await startController({ routerKey, outsideRouter: { endpoint: away.routerEndpoint, ca: away.ca } });
  t.after(() => lab.close());
  const { token } = lab.router.token();
  const [first, second] = [tunnel(t, lab, token), tunnel(t, lab, token)];
  first.write({ payload: Buffer.from("before"), frameType: 0 });
  assert.equal((await second.next()).payload.toString(), "before");
  away.signal("SIGSTOP");
  await untilStopped(away.pid);
  first.write({ payload: Buffer.from("meanwhile"), frameType: 0 });
  away.signal("SIGCONT");
  assert.equal((await second.next()).payload.toString(), "meanwhile");
  away.signal("SIGKILL");
  await second.end(status.UNAVAILABLE);
});

test("telemetry is announced to exporters, and takes their own records only", async (t) => {
  const { lab, exporter } = await setUp(t, { telemetry: { minSeverity: "warning" } });
  const { telemetryEndpoints } = await exporter.call<GetServiceEndpointsResponse>("getServiceEndpoints", {});
  const [{ endpoint, certificate, minSeverity }] = telemetryEndpoints as [TelemetryEndpoint];
  assert.deepEqual([certificate, minSeverity], ["", "warning"]);
  const client = grpcClient(TelemetryServiceDefinition, endpoint, credentials.createInsecure());
  t.after(() => client.close());
  const push = (metadata: Metadata) =>
    new Promise<PushLogsResponse>((resolve, reject) => {
      const entries = ["board", "other"].map((exporter) => ({ ...blank, exporter }));
      client.pushLogs({ entries }, metadata, (error, response) => (error ? reject(error) : resolve(response)));
    });
  assert.deepEqual(await push(exporter.metadata()), { accepted: 1, dropped: 1 });
  assert.deepEqual(
    lab.records.logs.map(({ entry }) => entry.exporter),
    ["board"],
  );
  await assert.rejects(push(new Metadata()), { code: status.UNAUTHENTICATED });
});

const blank: LogEntry = {
  ...{
    timestamp: undefined,
    severity: "info",
    message: "",
    component: "exporter",
    exporter: "",
    lease: "",
    client: "",
  },
  ...{ operation: "", result: "", driverType: "", extraFields: {}, namespace: "" },
};

async function setUp(t: TestContext, options: ControllerOptions = {}) {
  const lab = await startController(options);
  t.after(async () => {
    assert.deepEqual(lab.records.problems, []);
    await lab.close();
  });
  lab.addExporter({ name: "board", labels: { kind: "board" } });
  for (const name of ["ann", "bob"]) lab.addClient({ name });
  return {
    lab,
    exporter: peer(t, lab, "Exporter", "board", () => lab.exporterToken("board")),
    client: peer(t, lab, "Client", "ann", () => lab.clientToken("ann")),
  };
}

type Address = Pick<Lab, "endpoint" | "ca">;

/** An exporter or a client of the lab, call by call. */
function peer(t: TestContext, lab: Address, kind: string, name: string, token: () => string) {
  const secure = credentials.createSsl(Buffer.from(lab.ca));
  const options = { "grpc.initial_reconnect_backoff_ms": 100, "grpc.max_reconnect_backoff_ms": 500 };
  const client = grpcClient(ControllerServiceDefinition, lab.endpoint, secure, options);
  t.after(() => client.close());
  const metadata = () => {
    const all = new Metadata();
    all.set("jumpstarter-kind", kind);
    all.set("jumpstarter-namespace", "default");
    all.set("jumpstarter-name", name);
    all.set("authorization", `Bearer ${token()}`);
    return all;
  };
  type Unary = (...args: unknown[]) => void;
  const call = <R>(rpc: string, request: object, sent = metadata(), timeoutMs = 20_000) =>
    new Promise<R>((resolve, reject) => {
      const method = (client as unknown as Record<string, Unary>)[rpc]?.bind(client);
      const done = (error: Error | null, response: R) => (error ? reject(error) : resolve(response));
      method?.(request, sent, { deadline: Date.now() + timeoutMs }, done);
    });
  return {
    metadata,
    call,
    register: (timeoutMs?: number) => call("register", { labels: {}, reports: [] }, metadata(), timeoutMs),
    report: (value: ExporterStatus) => call("reportStatus", { status: value, message: "" }),
    dial: (leaseName: string) => call<ListenResponse>("dial", { leaseName }),
    status(options: { waitForReady?: boolean } = {}) {
      const sent = metadata();
      sent.setOptions(options);
      return reader<StatusResponse>(client.status({}, sent));
    },
    listen: (leaseName: string) => reader<ListenResponse>(client.listen({ leaseName }, metadata())),
  };
}

function tunnel(t: TestContext, lab: Lab, token: string) {
  const client = grpcClient(RouterServiceDefinition, lab.routerEndpoint, credentials.createSsl(Buffer.from(lab.ca)));
  t.after(() => client.close());
  const metadata = new Metadata();
  metadata.set("authorization", `Bearer ${token}`);
  const stream: ClientDuplexStream<StreamRequest, StreamResponse> = client.stream(metadata);
  return { stream, write: (message: StreamRequest) => stream.write(message), ...reader<StreamResponse>(stream) };
}

/** Messages one by one, and the status at the end. */
function reader<T>(stream: ClientReadableStream<T> | ClientDuplexStream<never, T>) {
  const received: T[] = [];
  let wake = () => {};
  const ended = new Promise<status>((resolve) => {
    stream.on("status", ({ code }: { code: status }) => {
      resolve(code);
      wake();
    });
  });
  stream.on("error", () => {});
  stream.on("data", (message: T) => {
    received.push(message);
    wake();
  });
  return {
    async next(): Promise<T> {
      const until = AbortSignal.timeout(20_000);
      while (received.length === 0) {
        if (until.aborted) throw new Error("no message came");
        await Promise.race([new Promise<void>((resolve) => (wake = resolve)), once(until, "abort"), ended]);
        if (received.length === 0) {
          const code = await Promise.race([ended, sleep(0, undefined)]);
          if (code !== undefined) throw new Error(`the stream has ended with ${status[code]}`);
        }
      }
      return received.shift() as T;
    },
    async end(code: status) {
      const timer = AbortSignal.timeout(20_000);
      const result = await Promise.race([ended, once(timer, "abort").then(() => undefined)]);
      assert.equal(result === undefined ? "still open" : status[result], status[code]);
    },
  };
}

async function untilStopped(pid: number): Promise<void> {
  for (let waitedMs = 0; waitedMs < 10_000; waitedMs += 10) {
    if (/^State:\s+T/m.test(readFileSync(`/proc/${pid}/status`, "utf8"))) return;
    await sleep(10);
  }
  throw new Error(`process ${pid} does not stop`);
}
