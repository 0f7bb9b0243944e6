import { status } from "@grpc/grpc-js";
import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer } from "node:net";
import { test, type TestContext } from "node:test";
import { createServer as createTlsServer } from "node:tls";
import { checkExporterConfig, type ExporterConfig } from "../../../agent/config/schema.ts";
import { lookAtPeer } from "../../../agent/ops/doctor/tls-peer.ts";
import { checkController } from "../../../agent/ops/doctor/controller.ts";
import { freePort, scratch } from "../../sim/agent.ts";
import { createAuthority } from "../../sim/certificates.ts";
import { startController, type ControllerOptions, type Lab } from "../../sim/controller/controller.ts";

async function setUp(t: TestContext, options: ControllerOptions = {}): Promise<Lab> {
  const lab = await startController(options);
  t.after(() => lab.close());
  lab.addExporter({ name: "board" });
  return lab;
}

function configOf(lab: Lab, more: Record<string, unknown> = {}): ExporterConfig {
  const { config, problems } = checkExporterConfig(lab.exporterConfig("board", {}, more), {});
  assert.ok(config, JSON.stringify(problems));
  return config;
}

async function look(lab: Lab, more: Record<string, unknown> = {}, { limitMs = 5_000, now = new Date() } = {}) {
  const findings = await checkController({ config: configOf(lab, more) }, { env: {}, limitMs, now });
  assert.doesNotMatch(JSON.stringify(findings), new RegExp(lab.exporterToken("board")), "a token is a secret");
  return findings.map(({ level, text }) => `${level}: ${text}`);
}

test("a controller that lets the exporter in is told so, and nothing is registered", async (t) => {
  const lab = await setUp(t);
  const [certificate, answer, ...others] = await look(lab);
  assert.match(certificate ?? "", /^ok: board: controller 127\.0\.0\.1:\d+: its certificate is good until 20\d\d-/);
  assert.match(answer ?? "", /^ok: board: controller .*: answers, and knows the exporter's token$/);
  assert.deepEqual(others, []);
  assert.deepEqual(
    lab.records.calls.map(({ rpc }) => rpc),
    ["GetServiceEndpoints"],
  );
});

test("a controller that is too old to be asked without effects is told to answer", async (t) => {
  const lab = await setUp(t, { release: "0.7" });
  assert.match((await look(lab)).at(-1) ?? "", /^ok: .*answers; it is too old to say/);
});

test("a token that is not known, has ended, or ends soon", async (t) => {
  const lab = await setUp(t);
  const year = 366 * 24 * 3600_000;
  const late = await look(lab, {}, { now: new Date(Date.now() + year) });
  assert.ok(late.some((text) => text.startsWith("problem: board: its token was good until ")));
  const soon = await look(lab, {}, { now: new Date(Date.now() + year - 3 * 24 * 3600_000) });
  assert.ok(soon.some((text) => text.startsWith("warning: board: its token is good until ")));
  lab.refuseTokens("board");
  assert.match(
    (await look(lab)).at(-1) ?? "",
    /^problem: .*does not let the exporter in: failed to authenticate token$/,
  );
});

test("a certificate that has expired, is for another name, or of nobody who is trusted", async (t) => {
  const lab = await setUp(t);
  const authority = await createAuthority(scratch(t));
  const tls = { ca: Buffer.from(authority.certificate).toString("base64") };
  lab.controller.useCertificate(await authority.serverCertificate(undefined, 0));
  // It ends in the second in which it was made.
  await new Promise((done) => setTimeout(done, 1_100));
  assert.match(
    (await look(lab, { tls })).join(),
    /^problem: .*: its certificate was good until \d{4}-\d\d-\d\d \d\d:\d\d$/,
  );
  lab.controller.useCertificate(await authority.serverCertificate(["lab.example", "10.0.0.1"]));
  const wrongName = (await look(lab, { tls })).join();
  assert.match(wrongName, /^problem: .*: its certificate is for lab\.example, 10\.0\.0\.1, not for 127\.0\.0\.1$/);
  const grpcOptions = { "grpc.ssl_target_name_override": "lab.example" };
  assert.match((await look(lab, { tls, grpcOptions })).join(), /^ok: .*,ok: .*answers/);
  assert.match((await look(lab)).join(), /^problem: .*not signed by anybody who is trusted/);
  assert.match((await look(lab, { tls: { insecure: true } })).join(), /^warning: .*not looked at.*,ok: .*answers/);
});

test("a server that has certificates for several names is told which one is wanted", async (t) => {
  const authority = await createAuthority(scratch(t));
  const { certificate: cert, key } = await authority.serverCertificate();
  const asked: string[] = [];
  const choose = (name: string, done: (error: Error | null) => void) => {
    asked.push(name);
    done(null);
  };
  const server = createTlsServer({ cert, key, SNICallback: choose }).listen(0, "127.0.0.1");
  await once(server, "listening");
  t.after(() => server.close());
  const { port } = server.address() as { port: number };
  for (const host of ["localhost", "127.0.0.1"]) {
    const peer = await lookAtPeer(
      { endpoint: { kind: "tcp", host, port }, channel: { ca: authority.certificate } },
      5_000,
    );
    assert.equal(peer.refused, undefined);
  }
  assert.deepEqual(asked, ["localhost"], "an address is no name");
});

test("a certificate that ends soon is worth a word", async (t) => {
  const lab = await setUp(t);
  const authority = await createAuthority(scratch(t));
  const tls = { ca: Buffer.from(authority.certificate).toString("base64") };
  lab.controller.useCertificate(await authority.serverCertificate(undefined, 3));
  assert.match((await look(lab, { tls })).join(), /^warning: .*good until .* only,ok: /);
});

test("nobody there, a name that nobody has, somebody who does not speak TLS, or who says nothing", async (t) => {
  const lab = await setUp(t);
  const refused = await look(lab, { endpoint: `127.0.0.1:${await freePort()}` });
  assert.match(refused.join(), /^problem: .*: \[Errno 111\] Connection refused$/);
  const nowhere = await look(lab, { endpoint: "no-such-host.invalid:443" });
  assert.match(nowhere.join(), /^problem: .*: the name no-such-host\.invalid (cannot be|is not) resolved/);
  const listen = async (say: string | undefined) => {
    const server = createServer((socket) => {
      socket.on("error", () => {});
      if (say !== undefined) socket.end(say);
      t.after(() => socket.destroy());
    }).listen(0, "127.0.0.1");
    await once(server, "listening");
    t.after(() => server.close());
    return { endpoint: `127.0.0.1:${(server.address() as { port: number }).port}` };
  };
  assert.match((await look(lab, await listen("SSH-2.0-x\r\n"))).join(), /^problem: .*does not speak TLS$/);
  const silent = await look(lab, await listen(undefined), { limitMs: 200 });
  assert.match(silent.join(), /^problem: .*nothing answers within 0\.2 s$/);
});

test("a controller that is unwell is a problem in its own words, one that hangs is not waited for", async (t) => {
  const lab = await setUp(t);
  lab.faults.answer("GetServiceEndpoints", status.UNAVAILABLE, "the database is away", { times: 1 });
  assert.match((await look(lab)).at(-1) ?? "", /^problem: .*the database is away$/);
  lab.faults.swallow("GetServiceEndpoints");
  const started = performance.now();
  assert.match((await look(lab, {}, { limitMs: 300 })).at(-1) ?? "", /^problem: .*has not answered within 0\.3 s$/);
  assert.ok(performance.now() - started < 5_000);
});

test("a configuration that no controller can be reached with says what it lacks; one without any is fine", async (t) => {
  const lab = await setUp(t);
  assert.match((await look(lab, { token: null })).join(), /^problem: board: endpoint or token not set/);
  assert.match((await look(lab, { endpoint: null, token: null })).join(), /^ok: board: has no controller/);
  const odd = await look(lab, { grpcOptions: { "grpc.enable_retries": 1 } });
  assert.match(odd.join(), /^warning: board: grpcOptions\.grpc\.enable_retries: is not known/);
});
