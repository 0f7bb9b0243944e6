import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { createExporter } from "../../../agent/session/exporter.ts";
import { authorization, parseChallenge } from "../../../boards/http-power/digest.ts";
import * as protocol from "../../../boards/http-power/protocol.ts";
import { power } from "../../../boards/power/interface.ts";
import { freePort, scratch } from "../../sim/agent.ts";
import { createAuthority } from "../../sim/certificates.ts";
import { rawHttp, response, type RawRequest } from "../../sim/raw-http.ts";

type Given = Record<string, unknown>;

const entry = (config: Given) => ({ type: "jumpstarter_driver_http_power.driver.HttpPower", config });

async function open(t: TestContext, configs: Record<string, Given>) {
  const entries = Object.entries(configs).map(([name, config]) => [name, entry(config)]);
  const exporter = await createExporter({ name: "test", export: Object.fromEntries(entries) as Record<string, never> });
  t.after(() => exporter.close());
  const log: string[] = [];
  exporter.logs.subscribe((record) => log.push(record.message));
  const device = (name = "device", signal?: AbortSignal) =>
    exporter.calls(name, power, signal === undefined ? {} : { signal });
  return { exporter, device, log };
}

async function all<T>(items: AsyncIterable<T>): Promise<T[]> {
  const found: T[] = [];
  for await (const item of items) found.push(item);
  return found;
}

/** On, off and read at this port. */
const endpoints = (port: number, read: Given = {}) => ({
  power_on: { url: `http://127.0.0.1:${port}/on`, method: "post", data: '{"on":true}' },
  power_off: { url: `http://127.0.0.1:${port}/off?slow=%20a'`, data: "ignored for GET" },
  power_read: { url: `http://127.0.0.1:${port}/read`, ...read },
});

test("the bytes of a request: any answer type, no content type, one connection", async (t) => {
  const answer = JSON.stringify({ voltage: "230.5", sensors: [{ amps: 0.25 }] });
  const { port, requests } = await rawHttp(t, () => response("200 OK", answer));
  const { device } = await open(t, { device: endpoints(port, { current_path: "sensors.0.amps" }) });
  await device().on();
  await device().off();
  assert.deepEqual(await all(device().read()), [{ voltage: 230.5, current: 0.25 }]);
  assert.deepEqual(
    requests.map(({ line, body }) => [line, body]),
    [
      ["POST /on", '{"on":true}'],
      ["GET /off?slow=%20a%27", ""],
      ["GET /read", ""],
    ],
  );
  const [post, get] = requests as [RawRequest, RawRequest];
  const common = { accept: "*/*", "user-agent": "jumpstarter-agent", connection: "close", host: `127.0.0.1:${port}` };
  assert.deepEqual(Object.fromEntries([...post.headers].sort()), sorted({ ...common, "content-length": "11" }));
  assert.deepEqual(Object.fromEntries([...get.headers].sort()), sorted(common));
});

const sorted = (of: Record<string, string>) => Object.fromEntries(Object.entries(of).sort());

test("user and password of the configuration, of the URL, a bearer's token, and own headers", async (t) => {
  const { port, requests } = await rawHttp(t, () => response("200 OK"));
  const at = (url: string, more: Given = {}) => ({ power_on: { url, ...more }, power_off: { url } });
  const plain = `http://127.0.0.1:${port}/`;
  const { device, log } = await open(t, {
    basic: { ...at(plain), auth: { basic: { user: "admin", password: "pässword" } } },
    empty: { ...at(plain), auth: { basic: {} } },
    url: at(`http://u%40x:p%3Aw@127.0.0.1:${port}/`),
    bearer: { ...at(plain), auth: { bearer: { token: "t0ken" } } },
    headers: { ...at(plain, { headers: { "Content-Type": "application/json" } }), headers: { "X-Api-Key": 7 } },
  });
  const sent = async (name: string, header: string) => {
    await device(name).on();
    return requests.at(-1)?.headers.get(header);
  };
  const basic = (text: string) => `Basic ${Buffer.from(text).toString("base64")}`;
  assert.equal(await sent("basic", "authorization"), basic("admin:pässword"));
  assert.equal(await sent("empty", "authorization"), basic(":"));
  assert.equal(await sent("url", "authorization"), basic("u@x:p:w"));
  assert.equal(await sent("bearer", "authorization"), "Bearer t0ken");
  assert.equal(await sent("headers", "x-api-key"), "7");
  assert.equal(requests.at(-1)?.headers.get("content-type"), "application/json");
  assert.ok(requests.every(({ line }) => line === "GET /"));
  assert.ok(!/pässword|p%3Aw|p:w|t0ken/.test(log.join()));
});

test("a Digest challenge is answered; a wrong password is not tried twice", async (t) => {
  const md5 = (text: string) => createHash("md5").update(text).digest("hex");
  const sha = (text: string) => createHash("sha256").update(text).digest("hex");
  const challenge = 'Digest qop="auth", realm="shelly", nonce="60dc2c69", algorithm=SHA-256';
  const old = 'Digest realm="old", nonce="n"';
  const { port, requests } = await rawHttp(t, ({ line, headers }) => {
    const given = /^Digest (.*)$/.exec(headers.get("authorization") ?? "")?.[1];
    const isOld = line.includes("/old");
    if (given === undefined) return response("401 Unauthorized", "", { "WWW-Authenticate": isOld ? old : challenge });
    const field = (name: string) => new RegExp(`\\b${name}="?([^",]*)`).exec(given)?.[1];
    const target = line.replace(" ", ":");
    const expected = isOld
      ? md5(`${md5("admin:old:pass")}:n:${md5(target)}`)
      : sha(`${sha("admin:shelly:pass")}:60dc2c69:00000001:${field("cnonce")}:auth:${sha(target)}`);
    return field("response") === expected
      ? response("200 OK", "{}")
      : response("401 Unauthorized", "", { "WWW-Authenticate": challenge });
  });
  const digest = (password: string) => ({ auth: { digest: { user: "admin", password } } });
  const oldPath = { power_on: { url: `http://127.0.0.1:${port}/old?x=1`, method: "PUT", data: "1" } };
  const { device } = await open(t, {
    device: { ...endpoints(port), ...digest("pass") },
    old: { ...endpoints(port), ...oldPath, ...digest("pass") },
    wrong: { ...endpoints(port), ...digest("guessed") },
  });
  await device().on();
  assert.deepEqual(
    requests.map(({ line, body }) => `${line} ${body}`),
    ['POST /on {"on":true}', 'POST /on {"on":true}'],
  );
  await device("old").on();
  requests.length = 0;
  const message = `401 Client Error: Unauthorized for url: http://127.0.0.1:${port}/on`;
  await assert.rejects(device("wrong").on(), { code: "E_IO", message });
  assert.equal(requests.length, 2);
});

test("Digest as in RFC 7616, section 3.9.1", () => {
  const header = (algorithm: string) =>
    `Digest realm="http-auth@example.org", qop="auth, auth-int", algorithm=${algorithm}, ` +
    `nonce="7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v", opaque="FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS"`;
  const asked = {
    ...{ method: "GET", uri: "/dir/index.html", user: "Mufasa", password: "Circle of Life" },
    cnonce: "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ",
  };
  const answer = (headers: string[]) => {
    const challenge = parseChallenge(headers);
    assert.ok(challenge !== undefined);
    return authorization(challenge, asked);
  };
  const [md5, sha] = [
    /response="8ca523f5e9506fed4657c9700eebdbec"/,
    /response="753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"/,
  ];
  assert.match(answer([header("MD5")]), md5);
  assert.match(answer([header("MD5"), header("SHA-256")]), sha);
  assert.match(answer([`Basic realm="x", ${header("SHA-256")}`]), sha);
  const hash = (...parts: string[]) => createHash("md5").update(parts.join(":")).digest("hex");
  const session = hash(hash("Mufasa", "r", "Circle of Life"), "n", asked.cnonce);
  const expected = hash(session, "n", "00000001", asked.cnonce, "auth", hash("GET", asked.uri));
  assert.match(
    answer(['Digest realm="r", nonce=n, qop=auth, algorithm=MD5-sess']),
    new RegExp(`response="${expected}"`),
  );
  for (const no of [
    "",
    "Basic realm=x",
    "Digest realm=x",
    "Digest nonce=n, realm=r, algorithm=MD4",
    'Digest nonce=n, realm=r, qop="auth-int"',
  ]) {
    assert.equal(parseChallenge([no]), undefined, no);
  }
});

test("redirects are followed as requests does it, and secrets stay where they belong", async (t) => {
  const other = await rawHttp(t, () => response("200 OK"));
  const { port, requests } = await rawHttp(t, ({ line }) => {
    const [, status, method] = /\/(\d+)\/(\w+)/.exec(line) ?? [];
    if (line.endsWith("/away")) return response("302 Found", "", { Location: `http://127.0.0.1:${other.port}/there` });
    if (line.endsWith("/round")) return response("302 Found", "", { Location: "round" });
    if (line.endsWith("/file")) return response("302 Found", "", { Location: "file:///etc/passwd" });
    return status === undefined
      ? response("200 OK")
      : response(`${status} Moved`, "x".repeat(1000), { Location: `/done-${method}` });
  });
  const at = (path: string, method = "POST") => {
    const power_on = { url: `http://127.0.0.1:${port}${path}`, method, data: "body" };
    return { power_on, power_off: power_on, auth: { basic: { user: "u", password: "p" } }, headers: { "X-Key": "k" } };
  };
  const cases = [
    ...[301, 302, 303].map((status) => [status, "POST", "GET", ""] as const),
    ...[307, 308].map((status) => [status, "POST", "POST", "body"] as const),
    [301, "PUT", "PUT", ""] as const,
    [302, "PUT", "GET", ""] as const,
  ];
  const names = cases.map(([status, method]) => [`r${status}${method}`, at(`/${status}/${method}`, method)]);
  const { device } = await open(t, {
    ...(Object.fromEntries(names) as Record<string, Given>),
    away: at("/away"),
    round: at("/round"),
    file: at("/file"),
  });
  for (const [status, method, then, body] of cases) {
    await device(`r${status}${method}`).on();
    const last = requests.at(-1);
    assert.deepEqual([last?.line, last?.body], [`${then} /done-${method}`, body], `${status} ${method}`);
    assert.ok(last?.headers.has("authorization") && last.headers.has("x-key"));
  }
  await device("away").on();
  assert.deepEqual(
    other.requests.map(({ line }) => line),
    ["GET /there"],
  );
  assert.ok(!other.requests[0]?.headers.has("authorization") && !other.requests[0]?.headers.has("x-key"));
  await assert.rejects(device("round").on(), { code: "E_IO", message: "Exceeded 30 redirects." });
  await assert.rejects(device("file").on(), { code: "E_IO", message: /\/file leads to something that is not HTTP$/ });
});

test("failures have the status, and neither password nor query in their text", async (t) => {
  const { port, sockets } = await rawHttp(t, ({ line }, socket) => {
    if (line.endsWith("/silent")) return undefined;
    if (line.endsWith("/reset")) return void socket.resetAndDestroy();
    if (line.endsWith("/half")) return void socket.write("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{");
    if (line.endsWith("/cut")) return "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{";
    if (line.endsWith("/garbage")) return "\0\0 what?\r\n\r\n";
    if (line.endsWith("/endless")) return response("200 OK", "x".repeat(1024 * 1024 + 1));
    return response("503 Service Unavailable", "secret page");
  });
  const at = (path: string, more: Given = {}) => {
    const url = `http://user:hunter2@127.0.0.1:${port}${path}`;
    return { power_on: { url }, power_off: { url }, timeout: 0.3, ...more };
  };
  const closed = await freePort();
  const closedUrl = `http://user:hunter2@127.0.0.1:${closed}/on?token=hunter2`;
  const { device, log } = await open(t, {
    status: at("/on?token=hunter2"),
    ...Object.fromEntries(
      ["silent", "half", "reset", "cut", "garbage", "endless"].map((name) => [name, at(`/${name}`)]),
    ),
    closed: { power_on: { url: closedUrl }, power_off: { url: closedUrl } },
    nowhere: { ...at("/"), power_on: { url: "http://no-such-host.invalid/" } },
    patient: at("/silent", { timeout: 60 }),
  });
  const base = `http://127.0.0.1:${port}`;
  const failed = async (name: string, code: string, message: string | RegExp) => {
    const error = await device(name)
      .on()
      .then(
        () => undefined,
        (thrown: unknown) => thrown,
      );
    assert.ok(error instanceof Error && !error.message.includes("hunter2"), name);
    await assert.rejects(Promise.reject(error), { code, message }, name);
  };
  await failed("status", "E_IO", `503 Server Error: Service Unavailable for url: ${base}/on?…`);
  await failed("silent", "E_TIMEOUT", `${base}/silent did not answer within 0.3 s`);
  await failed("half", "E_TIMEOUT", `${base}/half did not answer within 0.3 s`);
  await failed("reset", "E_IO", /^http:\/\/127\.0\.0\.1:\d+\/reset cannot be reached: /);
  await failed("cut", "E_IO", /cannot be reached: /);
  await failed("garbage", "E_IO", /cannot be reached: /);
  await failed("endless", "E_LIMIT", /more than 1 MiB/);
  await failed("closed", "E_IO", `http://127.0.0.1:${closed}/on?… cannot be reached: [Errno 111] Connection refused`);
  await failed("nowhere", "E_IO", /^http:\/\/no-such-host\.invalid\/ cannot be reached: /);
  const given = new AbortController();
  const cancelled = device("patient", given.signal).on();
  setTimeout(() => given.abort(new Error("enough")), 50);
  await assert.rejects(cancelled, /enough/);
  while (sockets.size > 0) await new Promise((resolve) => setTimeout(resolve, 5));
  assert.ok(!log.join().includes("hunter2"));
});

test("readings, and the texts for those that are none", async (t) => {
  let answer = "";
  const { port } = await rawHttp(t, () => response("200 OK", answer));
  const paths = { voltage_path: "StatusSNS.ENERGY.Voltage", current_path: "list.1" };
  const { device } = await open(t, {
    byName: endpoints(port),
    byPath: endpoints(port, paths),
    none: { ...endpoints(port), power_read: null },
  });
  const read = (name: string, text: string) => {
    answer = text;
    return all(device(name).read());
  };
  const refused = (name: string, text: string, message: RegExp) =>
    assert.rejects(read(name, text), { code: "E_INVALID", message });
  assert.deepEqual(await read("byName", '{"voltage":5}'), [{ voltage: 5, current: 0 }]);
  assert.deepEqual(await read("byName", "[]"), [{ voltage: 0, current: 0 }]);
  const whole = '{"StatusSNS":{"ENERGY":{"Voltage":230}},"list":[1,"0.5"]}';
  assert.deepEqual(await read("byPath", whole), [{ voltage: 230, current: 0.5 }]);
  await refused("none", "", /^power_read endpoint is not configured$/);
  await refused("byName", "<html>", /^read endpoint did not return JSON: SyntaxError$/);
  await refused("byName", "", /^read endpoint did not return JSON: it is empty$/);
  await refused(
    "byPath",
    '{"list":[1,2]}',
    /^configured path 'StatusSNS\.ENERGY\.Voltage' not found in read response$/,
  );
  await refused("byPath", whole.replace("[1,", "["), /^configured path 'list\.1' not found in read response$/);
  await refused("byPath", whole.replace('"0.5"', "null"), /^value at 'list\.1' is not numeric \(got null\)$/);
  await refused("byName", '{"voltage":true}', /^value at 'voltage' is not numeric \(got true\)$/);
  await refused("byName", '{"current":"much"}', /^value at 'current' is not numeric \(got "much"\)$/);
});

test("what is inherited by every object is not found in an answer", () => {
  for (const path of ["constructor", "__proto__", "a.length", "b.toString", "b.length"]) {
    assert.equal(protocol.valueAt({ a: "text", b: [1] }, path), undefined, path);
  }
});

test("a lease's ends leave the device alone, or do what is configured", async (t) => {
  const { port, requests } = await rawHttp(t, () => response("200 OK"));
  const { exporter } = await open(t, { alone: endpoints(port) });
  await exporter.tree.reset();
  await exporter.tree.release();
  assert.equal(requests.length, 0);
  // PyYAML takes `off` for false.
  const { exporter: careful } = await open(t, { off: { ...endpoints(port), default: false } });
  await careful.tree.reset();
  await careful.tree.release();
  assert.deepEqual(
    requests.map(({ line }) => line.slice(0, 8)),
    ["GET /off", "GET /off"],
  );
});

test("a private authority, and none", async (t) => {
  const directory = scratch(t);
  const authority = await createAuthority(directory);
  const { port } = await rawHttp(t, () => response("200 OK"), await authority.serverCertificate());
  const ca = join(directory, "authority.pem");
  writeFileSync(ca, authority.certificate);
  const url = `https://127.0.0.1:${port}/`;
  const config = { power_on: { url }, power_off: { url } };
  const { device } = await open(t, {
    trusted: { ...config, ca },
    untrusted: config,
    missing: { ...config, ca: "/no/ca" },
  });
  await device("trusted").on();
  await assert.rejects(device("untrusted").on(), { code: "E_IO", message: /certificate/ });
  await assert.rejects(device("missing").on(), { code: "E_IO", message: /No such file/ });
});

test("a proxy of the environment is used, and left out where it should be", async (t) => {
  const { port, requests } = await rawHttp(t, () => response("200 OK"));
  const proxy = await rawHttp(t, () => response("200 OK"));
  const saved = { ...process.env };
  t.after(() => {
    for (const name of ["http_proxy", "no_proxy"]) {
      if (saved[name] === undefined) delete process.env[name];
      else process.env[name] = saved[name];
    }
  });
  process.env["http_proxy"] = `http://127.0.0.1:${proxy.port}`;
  const { device } = await open(t, { device: endpoints(port) });
  await device().on();
  assert.deepEqual(
    proxy.requests.map(({ line, body }) => [line, body]),
    [[`POST http://127.0.0.1:${port}/on`, '{"on":true}']],
  );
  process.env["no_proxy"] = "127.0.0.1";
  await device().on();
  assert.equal(requests.length, 1);
});

test("configurations that cannot work are refused", async () => {
  const good = { url: "http://x/" };
  const refused = async (config: Given, message: RegExp) =>
    assert.rejects(createExporter({ name: "test", export: { device: entry(config) } }), message);
  await refused({ power_on: good }, /power_off/);
  await refused({ power_on: { url: "x/on" }, power_off: good }, /must be an http:\/\/ or https:\/\/ URL/);
  await refused({ power_on: { ...good, verb: "PUT" }, power_off: good }, /verb/);
  await refused({ power_on: good, power_off: good, auth: { basic: {}, bearer: { token: "x" } } }, /only one of/);
  await refused({ power_on: { ...good, headers: { "X Y": "z" } }, power_off: good }, /headers/);
  await refused({ power_on: { ...good, headers: { X: "a\r\nY: b" } }, power_off: good }, /headers/);
});
