import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdirSync, writeFileSync } from "node:fs";
import { request, type IncomingMessage } from "node:http";
import { request as requestOverTls, type RequestOptions } from "node:https";
import { connect } from "node:net";
import { join } from "node:path";
import { describe, test, type TestContext } from "node:test";
import { text } from "node:stream/consumers";
import type { TLSSocket } from "node:tls";
import { readOperations } from "../../../agent/cli/operations.ts";
import type { AgentError } from "../../../agent/driver/errors.ts";
import { LogBus } from "../../../agent/driver/log.ts";
import type { ConsoleEntry, ShownConsole } from "../../../agent/driver/shown.ts";
import { isLoopback } from "../../../agent/ops/http/access.ts";
import { searchConsole } from "../../../agent/ops/http/consoles.ts";
import { serveOperations, type Operated } from "../../../agent/ops/http/listener.ts";
import type { ExporterStatus } from "../../../agent/ops/exporter-status.ts";
import { createMetrics } from "../../../agent/ops/metrics/agent-metrics.ts";
import { TlsFiles } from "../../../agent/sys/tls-files.ts";
import { scratch } from "../../sim/agent.ts";
import { createAuthority } from "../../sim/certificates.ts";
import { eventually } from "../../sim/rig.ts";

const token = "0123456789abcdef0123456789abcdef";

function status(exporter: string, more: Partial<ExporterStatus> = {}): ExporterStatus {
  return {
    ...{ exporter, config: "", state: "available", registered: true, online: true, connections: 1 },
    ...{ lease: null, client: null, leaseSince: null, offline: [], drivers: [], transfers: [], flashing: [] },
    ...more,
  };
}

/** A listener with these exporters. */
async function listen(
  t: Pick<TestContext, "after">,
  options: {
    token?: string;
    exporters?: ExporterStatus[];
    console?: ShownConsole;
    audit?: string;
    tls?: TlsFiles;
    headersMs?: number;
  } = {},
) {
  const { exporters = [status("bench")] } = options;
  const operated: Operated = {
    version: "1.2.3",
    exporters: () => exporters,
    console: () => options.console,
    transfers: () => [],
    metrics: createMetrics("1.2.3", () => exporters),
    receipts: undefined,
    audit: options.audit,
  };
  const log = new LogBus().logger({ source: "system", logger: "test" });
  const listener = await serveOperations(operated, {
    ...{ host: "127.0.0.1", port: 0, token: options.token, names: ["rack.lab.example"], log },
    tls: options.tls,
    ...(options.headersMs === undefined ? {} : { headersMs: options.headersMs }),
  });
  t.after(() => listener.close());
  const ask = (path: string, headers: Record<string, string> = {}, method = "GET") =>
    new Promise<{ status: number; headers: NodeJS.Dict<string | string[]>; body: string }>((resolve, reject) => {
      request({ host: "127.0.0.1", port: listener.port, path, method, headers, agent: false }, (response) => {
        void text(response).then((body) => {
          resolve({ status: response.statusCode ?? 0, headers: response.headers, body });
        });
      })
        .once("error", reject)
        .end();
    });
  return { ask, port: listener.port };
}

describe("operations listener", () => {
  test("health is for everybody, all else for who shows the token", async (t) => {
    const { ask } = await listen(t, { token });
    assert.equal((await ask("/healthz")).status, 200);
    assert.deepEqual(JSON.parse((await ask("/readyz")).body), { ready: true });
    for (const path of [
      "/metrics",
      "/status",
      "/events",
      "/console",
      "/console/search",
      "/audit",
      "/receipts/x.json",
    ]) {
      const { status, headers } = await ask(path);
      assert.equal(status, 401, path);
      assert.match(String(headers["www-authenticate"]), /^Bearer /);
    }
    const wrong = [`Bearer ${token}x`, `Bearer ${token.slice(1)}`, "Bearer", `Basic ${token}`, token, "Bearer a b"];
    for (const authorization of wrong)
      assert.equal((await ask("/metrics", { authorization })).status, 401, authorization);
    assert.equal((await ask("/metrics", { authorization: `bearer ${token}` })).status, 200);
    // The page itself says nothing; what it shows comes by other ways.
    assert.equal((await ask("/")).status, 200);
  });

  test("who has shown the token gets a cookie that no script and no other page can use", async (t) => {
    const { ask } = await listen(t, { token });
    assert.equal((await ask("/session")).status, 401);
    const { headers } = await ask("/session", { authorization: `Bearer ${token}` });
    const cookie = String(headers["set-cookie"]);
    assert.match(cookie, /^jumpstarter_operations=[0-9a-f]{64}; Path=\/; Max-Age=43200; HttpOnly; SameSite=Strict$/);
    assert.ok(!cookie.includes(token));
    const value = cookie.split(";", 1)[0] ?? "";
    assert.equal((await ask("/status", { cookie: `other=1; ${value}` })).status, 200);
    for (const wrong of [
      `${value}0`,
      value.slice(0, -1),
      "jumpstarter_operations=",
      `jumpstarter_operations=${token}`,
    ]) {
      assert.equal((await ask("/status", { cookie: wrong })).status, 401, wrong);
    }
    // Another agent with the same token has another key.
    const other = await listen(t, { token });
    assert.equal((await other.ask("/status", { cookie: value })).status, 401);
  });

  test("with a certificate it speaks TLS only, also with a renewed one, and its cookie goes nowhere else", async (t) => {
    const directory = scratch(t);
    const authority = await createAuthority(directory);
    const paths = { cert: join(directory, "server.crt"), key: join(directory, "server.key") };
    const put = async (name: string) => {
      const { certificate, key } = await authority.serverCertificate([name, "127.0.0.1"]);
      writeFileSync(paths.cert, certificate);
      writeFileSync(paths.key, key);
    };
    await put("first");
    const log = new LogBus().logger({ source: "system", logger: "tls" });
    const { port } = await listen(t, { token, tls: new TlsFiles(paths, log, { checkMs: 20 }) });
    const ask = (options: RequestOptions) =>
      new Promise<IncomingMessage>((resolve, reject) => {
        const headers = { authorization: `Bearer ${token}` };
        const all = { host: "127.0.0.1", port, path: "/session", headers, ca: authority.certificate, agent: false };
        requestOverTls({ ...all, ...options }, (response) => resolve(response.resume()))
          .once("error", reject)
          .end();
      });
    const { statusCode, headers } = await ask({});
    assert.equal(statusCode, 200);
    assert.match(String(headers["set-cookie"]), /; HttpOnly; SameSite=Strict; Secure$/);
    assert.equal((await ask({ maxVersion: "TLSv1.2" })).statusCode, 200);
    const old = { minVersion: "TLSv1", maxVersion: "TLSv1.1", ciphers: "DEFAULT@SECLEVEL=0" } as const;
    await assert.rejects(ask(old), /version/);
    const subject = async () => {
      const { socket } = await ask({});
      return (socket as TLSSocket).getPeerCertificate().subject.CN;
    };
    assert.equal(await subject(), "first");
    await put("second");
    await eventually("the renewed one serves", async () => (await subject()) === "second");
    await assert.rejects(ask(old), /version/);
    await assert.rejects(
      new Promise((resolve, reject) => request({ port, path: "/healthz" }, resolve).once("error", reject).end()),
      { code: "ECONNRESET" },
    );
  });

  test("a name that is not ours is not answered: it may be one that was made to lead here", async (t) => {
    const { ask } = await listen(t);
    const ours = ["127.0.0.1:9273", "localhost", "LOCALHOST:1", "[::1]:9273", "10.1.2.3", "rack.lab.example"];
    for (const host of ours) assert.equal((await ask("/status", { host })).status, 200, host);
    const others = [
      "evil.example",
      "localhost.evil.example",
      "127.0.0.1.evil.example",
      "evil.example:9273",
      "a b",
      "[x]",
    ];
    for (const host of others) assert.ok([400, 421].includes((await ask("/status", { host })).status), host);
  });

  test("nothing can be changed", async (t) => {
    const { ask } = await listen(t);
    for (const method of ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"]) {
      const { status, headers } = await ask("/status", {}, method);
      assert.equal(status, 405, method);
      assert.equal(headers.allow, "GET, HEAD");
    }
    const { status, body, headers } = await ask("/metrics", {}, "HEAD");
    assert.deepEqual([status, body], [200, ""]);
    assert.ok(Number(headers["content-length"]) > 1_000);
  });

  test("every answer forbids what no page of ours needs", async (t) => {
    const { ask } = await listen(t, { token });
    for (const path of ["/", "/metrics", "/nothing", "/page/page.js"]) {
      const { headers } = await ask(path);
      assert.match(
        String(headers["content-security-policy"]),
        /^default-src 'none'; script-src 'self'; style-src 'self';/,
      );
      assert.doesNotMatch(String(headers["content-security-policy"]), /unsafe/);
      assert.equal(headers["x-content-type-options"], "nosniff");
      assert.equal(headers["cache-control"], "no-store");
      assert.equal(headers["cross-origin-resource-policy"], "same-origin");
    }
  });

  test("only the page's own files are served", async (t) => {
    const { ask } = await listen(t);
    for (const name of ["../listener.ts", "..%2flistener.ts", "%2e%2e/answer.ts", "constructor", "index.html/", ""]) {
      assert.equal((await ask(`/page/${name}`)).status, 404, name);
    }
    assert.match(String((await ask("/page/style.css")).headers["content-type"]), /^text\/css/);
  });

  test("readiness names who is missing, to those who may know", async (t) => {
    const exporters = [status("one"), status("two", { online: false, registered: false, state: "starting" })];
    const open = await listen(t, { exporters });
    const { status: code, body } = await open.ask("/readyz");
    assert.equal(code, 503);
    assert.deepEqual(JSON.parse(body), {
      ready: false,
      exporters: 2,
      missing: [{ exporter: "two", state: "starting", registered: false }],
    });
    const closed = await listen(t, { exporters, token });
    assert.deepEqual(JSON.parse((await closed.ask("/readyz")).body), { ready: false });
  });

  test("who sends nothing, or a head without end, is cut", async (t) => {
    const { port, ask } = await listen(t, { headersMs: 300 });
    const cut = (bytes: string) =>
      new Promise<number>((resolve) => {
        const beganMs = performance.now();
        const socket = connect(port, "127.0.0.1", () => socket.write(bytes));
        socket.on("error", () => {}).on("close", () => resolve(performance.now() - beganMs));
        socket.resume();
      });
    const times = await Promise.all([cut("GET /status HTTP/1.1\r\nHost: localhost\r\nX-A: "), cut("GET ")]);
    for (const ms of times) assert.ok(ms < 5_000, `${ms} ms`);
    const long = `GET /status HTTP/1.1\r\nHost: localhost\r\nX-A: ${"a".repeat(20_000)}\r\n\r\n`;
    assert.ok((await cut(long)) < 5_000);
    assert.equal((await ask("/healthz")).status, 200);
  });

  test("streams are bounded, and leave when their reader does", async (t) => {
    const { port, ask } = await listen(t);
    const open = Array.from({ length: 24 }, () => {
      const socket = connect(port, "127.0.0.1", () => socket.write("GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n"));
      return new Promise<typeof socket>((resolve) => socket.once("data", () => resolve(socket)));
    });
    const sockets = await Promise.all(open);
    assert.equal((await ask("/events")).status, 503);
    for (const socket of sockets) socket.destroy();
    let told = 0;
    for (let turn = 0; turn < 50 && told !== 200; turn += 1) {
      await new Promise((resolve) => setTimeout(resolve, 50));
      told = (await ask("/events", {}, "HEAD")).status;
    }
    assert.equal(told, 200);
  });

  test("the audit log's end is whole lines, and a log that is not there has none", async (t) => {
    const file = join(scratch(t), "audit.log");
    const { ask } = await listen(t, { audit: file });
    assert.deepEqual([(await ask("/audit")).status, (await ask("/audit")).body], [200, ""]);
    const line = (index: number) => JSON.stringify({ index, text: "x".repeat(1_000) });
    const lines = Array.from({ length: 600 }, (_, index) => line(index));
    writeFileSync(file, `${lines.join("\n")}\n{"half":`);
    const told = (await ask("/audit")).body.split("\n").filter(Boolean);
    assert.ok(told.length > 200 && told.length <= 500, `${told.length} lines`);
    for (const one of told) assert.equal((JSON.parse(one) as { text: string }).text.length, 1_000);
    assert.equal((JSON.parse(told.at(-1) ?? "") as { index: number }).index, 599);
    assert.equal((await (await listen(t)).ask("/audit")).status, 404);
  });

  test("a search finds lines that came in pieces, and no more than a few hundred", async () => {
    const time = "2026-01-01T00:00:00.000Z";
    const entries: ConsoleEntry[] = [
      { seq: 1, time, text: "first Ker" },
      { seq: 2, time, text: "nel panic\nother\n" },
      { seq: 3, time, note: "lease ends" },
      ...Array.from({ length: 1_000 }, (_, index) => ({ seq: 4 + index, time, text: `again panic ${index}\n` })),
    ];
    const console = {
      async *read() {
        yield* entries;
      },
    };
    const { signal } = new AbortController();
    const one = await searchConsole(console, "KERNEL PANIC", signal);
    assert.deepEqual(one, { matches: [{ seq: 2, time, text: "first Kernel panic" }], more: false });
    const { matches, more } = await searchConsole(console, "panic", signal);
    assert.deepEqual([matches.length, more, matches[0]?.text], [200, true, "again panic 999"]);
  });
});

describe("words for the operations listener", () => {
  const read = (given: object, env = {}) => readOperations(given, env);
  const usage = (pattern: RegExp) => (error: AgentError) => error.code === "E_USAGE" && pattern.test(error.message);

  test("an address that others reach needs a token", async (t) => {
    assert.deepEqual(await read({ operations: "9273" }), {
      host: "127.0.0.1",
      port: 9273,
      token: undefined,
      names: [],
      tls: undefined,
    });
    assert.equal((await read({ operations: "[::1]:9273" }))?.host, "::1");
    for (const operations of ["0.0.0.0:9273", "10.0.0.1:9273", ":9273", "[::]:9273", "rack.lab:9273"]) {
      await assert.rejects(read({ operations }), usage(/so a token is needed/), operations);
    }
    const file = join(scratch(t), "token");
    writeFileSync(file, `${token}\nmore\n`, { mode: 0o600 });
    const words = await read({ operations: "0.0.0.0:9273", "operations-token-file": file });
    assert.equal(words?.token, token);
  });

  test("a certificate and its key go together", async (t) => {
    const directory = scratch(t);
    const authority = await createAuthority(directory);
    const paths = [1, 2].map((one) => ({ cert: join(directory, `${one}.crt`), key: join(directory, `${one}.key`) }));
    for (const path of paths) {
      const { certificate, key } = await authority.serverCertificate();
      writeFileSync(path.cert, certificate);
      writeFileSync(path.key, key);
    }
    const [mine, other] = paths;
    assert.ok(mine && other);
    const given = (cert?: string, key?: string) => ({
      ...{ operations: "9273", "operations-cert": cert, "operations-key": key },
    });
    const words = await read(given(mine.cert, mine.key));
    assert.deepEqual(words?.tls, mine);
    await assert.rejects(read(given(mine.cert)), usage(/go together/));
    await assert.rejects(read(given(undefined, mine.key)), usage(/go together/));
    await assert.rejects(read(given(join(directory, "none"), mine.key)), usage(/^--operations-cert: .*No such file/));
    await assert.rejects(read(given(mine.cert, other.key)), { code: "E_CONFIG", message: /does not belong to/ });
    await assert.rejects(read({ "operations-cert": mine.cert }), usage(/mean nothing without --operations/));
  });

  test("a token that is weak, open to others or not there is refused", async (t) => {
    const directory = scratch(t);
    const file = join(directory, "token");
    const given = { operations: "9273", "operations-token-file": file };
    await assert.rejects(read(given), usage(/No such file/));
    writeFileSync(file, "short\n", { mode: 0o600 });
    await assert.rejects(read(given), usage(/shorter than 16/));
    writeFileSync(file, "\n", { mode: 0o600 });
    await assert.rejects(read(given), usage(/not printable/));
    const open = join(directory, "open");
    writeFileSync(open, `${token}\n`, { mode: 0o644 });
    await assert.rejects(read({ ...given, "operations-token-file": open }), usage(/open to other users/));
    await assert.rejects(read({ "operations-token-file": open }), usage(/mean nothing without --operations/));
  });

  test("the unit's credential is taken where there is one", async (t) => {
    const directory = scratch(t);
    const env = { CREDENTIALS_DIRECTORY: directory };
    assert.equal((await read({ operations: "9273" }, env))?.token, undefined);
    writeFileSync(join(directory, "operations-token"), token, { mode: 0o400 });
    assert.equal((await read({ operations: "9273" }, env))?.token, token);
  });

  test("loopback is what only this host reaches", () => {
    for (const host of ["127.0.0.1", "127.1.2.3", "::1", "localhost"]) assert.ok(isLoopback(host), host);
    for (const host of ["0.0.0.0", "::", "10.0.0.1", "localhost.example", ""]) assert.ok(!isLoopback(host), host);
  });
});

test("what is told is what Prometheus reads", { skip: hasPromtool() }, async (t) => {
  const directory = scratch(t);
  mkdirSync(directory, { recursive: true });
  const strange = 'b"o\\a\nrd';
  const metrics = createMetrics("1.2.3", () => [status(strange)]);
  t.after(() => metrics.close());
  const lease = metrics.leases.begin({ exporter: strange, lease: "l", client: "c" });
  lease.call({ caller: "client", driver: "p", type: "t", method: "on", code: undefined, durationMs: 5 });
  lease.end({ outcome: "ok" });
  const input = await metrics.registry.text();
  const { status: code, stdout, stderr } = spawnSync("promtool", ["check", "metrics"], { input, encoding: "utf8" });
  assert.deepEqual([code, stdout, stderr], [0, "", ""]);
  assert.ok(input.includes('exporter="b\\"o\\\\a\\nrd"'));
});

function hasPromtool(): string | false {
  return spawnSync("promtool", ["--version"]).error === undefined
    ? false
    : "promtool is missing: apt-get install prometheus";
}
