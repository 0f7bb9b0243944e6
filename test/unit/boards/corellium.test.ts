// Against a double of Corellium's cloud; with TLS and the Python client in test/conformance/cameras.test.ts.
import assert from "node:assert/strict";
import { once } from "node:events";
import type { ServerResponse } from "node:http";
import { test, type TestContext } from "node:test";
import { createExporter } from "../../../agent/session/exporter.ts";
import { corelliumConsole } from "../../../boards/corellium/interface.ts";
import { apiBase, paths } from "../../../boards/corellium/protocol.ts";
import { virtualPower } from "../../../boards/power/interface.ts";
import { startCorellium } from "../../sim/corellium.ts";

const usual = { project_id: "Default Project", device_name: "board-1", device_flavor: "rd1ae" };

/** Sets variables for one test; undefined: it is not there. */
function setEnvironment(t: TestContext, variables: Record<string, string | undefined>): void {
  const former = Object.fromEntries(Object.keys(variables).map((name) => [name, process.env[name]]));
  const set = (values: Record<string, string | undefined>) => {
    for (const [name, value] of Object.entries(values)) {
      if (value === undefined) delete process.env[name];
      else process.env[name] = value;
    }
  };
  set(variables);
  t.after(() => set(former));
}

async function exporterOf(t: TestContext, config: Record<string, unknown> = {}) {
  const entry = { type: "jumpstarter_driver_corellium.driver.Corellium", config: { ...usual, ...config } };
  const exporter = await createExporter({ name: "test", export: { device: entry } });
  t.after(() => exporter.close());
  const log: string[] = [];
  exporter.logs.subscribe(({ message }) => log.push(message));
  const options = (signal?: AbortSignal) => (signal === undefined ? {} : { signal });
  const power = (signal?: AbortSignal) => exporter.calls("device.power", virtualPower, options(signal));
  const serial = () => exporter.calls("device.serial", corelliumConsole);
  return { exporter, power, serial, log };
}

async function device(t: TestContext, config: Record<string, unknown> = {}, token?: string) {
  const cloud = await startCorellium(t);
  setEnvironment(t, {
    CORELLIUM_API_HOST: ` ${cloud.host} `,
    CORELLIUM_API_TOKEN: token ?? cloud.token,
    CORELLIUM_API_RETRIES: "6",
    CORELLIUM_API_INTERVAL: "0.01",
  });
  return { cloud, ...(await exporterOf(t, config)) };
}

test("a device is made, switched off and on, and destroyed; each time until it is so", async (t) => {
  const { cloud, power } = await device(t);
  assert.deepEqual(cloud.requests, [], "opening asks for nothing");
  await power().on();
  const [made] = [...cloud.instances.values()];
  assert.equal(made?.state, "on");
  assert.deepEqual(made.made, {
    ...{ name: "board-1", project: "p1", flavor: "flavor-1" },
    ...{ os: "1.1.1", osbuild: "Critical Application Monitor (Baremetal)" },
  });
  await power().off();
  assert.equal(made.state, "off");
  await power().on();
  assert.equal(made.state, "on");
  await power().off(true);
  assert.equal(cloud.instances.size, 0);
  const written = cloud.requests.filter((request: string) => !request.startsWith("GET"));
  assert.deepEqual(written.slice(1), [
    'PUT v1/instances/i1/state {"state":"off"}',
    'PUT v1/instances/i1/state {"state":"on"}',
    'PUT v1/instances/i1/state {"state":"off"}',
    "DELETE v1/instances/i1",
  ]);
  assert.equal(cloud.requests.filter((request) => request === "GET v1/projects").length, 1, "it is remembered");
  await assert.rejects(
    async () => {
      for await (const _ of power().read());
    },
    { code: "E_UNSUPPORTED" },
  );
});

test("what there is not is INVALID_ARGUMENT, in the words that clients know", async (t) => {
  const project = await device(t, { project_id: "nowhere" });
  const noProject = { code: "E_INVALID", message: "Unable to fetch project: nowhere" };
  await assert.rejects(project.power().on(), noProject);
  await assert.rejects(project.power().off(), noProject);
  await assert.rejects(project.serial().connect(), noProject);
  const model = await device(t, { device_flavor: "toaster" });
  await assert.rejects(model.power().on(), {
    code: "E_INVALID",
    message: "Unable to find a device for this model: toaster",
  });
  const { cloud, power, serial } = await device(t, { console_name: "Other" });
  await assert.rejects(power().off(), { code: "E_INVALID", message: "Instance does not exist" });
  const missing = { code: "E_INVALID", message: "Instance does not exist or is powered off" };
  await assert.rejects(serial().address(), missing);
  await power().on();
  await assert.rejects(serial().address(), { code: "E_INVALID", message: 'Console ID not found for "Other"' });
  cloud.slowness = 100;
  await assert.rejects(power().off(true), {
    code: "E_INVALID",
    message: "Instance took too long to be reach the desired state: i1 is on, not off",
  });
  assert.ok(!cloud.requests.some((request) => request.startsWith("DELETE")), "what is not off is not destroyed");
});

test("the console: bytes both ways, and its address for clients that connect themselves", async (t) => {
  const { cloud, power, serial, log } = await device(t);
  await power().on();
  const address = await serial().address();
  assert.match(address, new RegExp(`^ws://127.0.0.1:\\d+/console/${cloud.secret}$`));
  const stream = await serial().connect();
  const heard: Buffer[] = [];
  stream.on("data", (chunk: Buffer) => heard.push(chunk));
  stream.write(Buffer.from([0x00, 0xff, 0x0d]));
  while (Buffer.concat(heard).length < 10) await once(stream, "data");
  assert.deepEqual(Buffer.concat(heard), Buffer.concat([Buffer.from("login: "), Buffer.from([0x00, 0xff, 0x0d])]));
  for (const socket of cloud.sockets) socket.close(1001);
  await once(stream, "end");

  cloud.troubles.set("GET v1/instances/i1/console", (response) =>
    response.end(JSON.stringify({ url: `${cloud.host.replace("http", "ws")}/console/expired-${cloud.secret}` })),
  );
  await assert.rejects(serial().connect(), (error: Error & { code: string }) => {
    assert.equal(error.code, "E_CONNECTION");
    assert.match(error.message, /^console Primary Compute Non-Secure of board-1: .*403/);
    return true;
  });
  cloud.troubles.set("GET v1/instances/i1/console", (response) =>
    response.end(JSON.stringify({ url: `file:///etc/${cloud.secret}` })),
  );
  await assert.rejects(serial().address(), {
    code: "E_FAILED",
    message: /v1\/instances\/i1\/console with something unknown/,
  });
  assert.doesNotMatch(log.join(), new RegExp(`${cloud.secret}|${cloud.token}`));
  const silent = await exporterOf(t, { enable_address: false });
  await assert.rejects(silent.serial().address(), { code: "E_INVALID", message: /enable_address mode is not true/ });
});

test("refusals are told in Corellium's words, without the token", async (t) => {
  const { cloud, power } = await device(t);
  const json = (status: number, content: unknown) => (response: ServerResponse) =>
    response.writeHead(status).end(JSON.stringify(content));
  const fails = async (words: string, trouble: (response: ServerResponse) => void, code: string, message: RegExp) => {
    cloud.troubles.set(words, trouble);
    await assert.rejects(power().on(), (error: Error & { code: string }) => {
      assert.equal(error.code, code, error.message);
      assert.match(error.message, message);
      assert.ok(!error.message.includes(cloud.token));
      return true;
    });
    cloud.troubles.clear();
  };
  await fails(
    "GET v1/projects",
    json(403, { error: `token ${cloud.token} is invalid` }),
    "E_FAILED",
    /^token \[REDACTED\] is invalid$/,
  );
  await fails("GET v1/models", json(400, "?"), "E_FAILED", /answered 400 to GET v1\/models$/);
  await fails("GET v1/instances", json(500, { error: "out of order" }), "E_FAILED", /^out of order$/);
  await fails("GET v1/instances", (response) => response.end("<html>"), "E_FAILED", /answered 200 .*, not in JSON$/);
  await fails(
    "GET v1/instances",
    json(200, [{ name: cloud.token }]),
    "E_FAILED",
    /answers v1\/instances with something unknown$/,
  );
  await fails("POST v1/instances", json(402, { error: "no more devices" }), "E_FAILED", /^no more devices$/);
  await fails("GET", (response) => void response.socket?.destroy(), "E_CONNECTION", /cannot be reached/);
  await power().on();
  await fails("PUT v1/instances/i1/state", json(404, { error: "gone" }), "E_FAILED", /^gone$/);
  cloud.troubles.set("DELETE", json(403, { error: "not yours" }));
  await assert.rejects(power().off(true), { code: "E_FAILED", message: "not yours" });
  cloud.stop();
  await assert.rejects(power().on(), { code: "E_CONNECTION", message: /cannot be reached: ECONNREFUSED/ });
});

test("a wrong token", async (t) => {
  const { power, log } = await device(t, {}, "wr0ng-token");
  await assert.rejects(power().on(), { code: "E_FAILED", message: "Invalid or missing authorization token" });
  assert.ok(!log.join().includes("wr0ng"));
});

test("a call that is given up ends at once, while it asks and while it waits; the next one has its turn", async (t) => {
  const { cloud, power } = await device(t);
  const giveUp = async (ready: () => boolean, message: RegExp) => {
    const cancel = new AbortController();
    const call = power(cancel.signal).on();
    while (!ready()) await new Promise((resolve) => setTimeout(resolve, 2));
    cancel.abort(new Error("enough"));
    await assert.rejects(call, message);
  };
  cloud.troubles.set("GET v1/models", () => {});
  await giveUp(() => cloud.requests.includes("GET v1/models"), /^Error: enough$/);
  cloud.troubles.clear();
  cloud.slowness = 2;
  process.env["CORELLIUM_API_INTERVAL"] = "3600";
  const looks = () => cloud.requests.filter((request) => request === "GET v1/instances").length;
  // It waits, or the second answer is still on its way.
  await giveUp(() => looks() === 2, /^(AbortError|Error: enough)/);
  process.env["CORELLIUM_API_INTERVAL"] = "0.01";
  await Promise.all([power().on(), power().off()]);
  assert.deepEqual(
    [...cloud.instances.values()].map(({ state }) => state),
    ["off"],
  );
});

test("the environment says where and who; without it the device alone is offline", async (t) => {
  const offline = async (variables: Record<string, string | undefined>, message: string) => {
    setEnvironment(t, { CORELLIUM_API_HOST: "cloud", CORELLIUM_API_TOKEN: "x", ...variables });
    const { power, serial } = await exporterOf(t);
    await assert.rejects(power().on(), { code: "E_DEVICE_OFFLINE", message });
    await assert.rejects(serial().address(), { code: "E_DEVICE_OFFLINE", message });
  };
  await offline({ CORELLIUM_API_HOST: undefined }, 'Missing "CORELLIUM_API_HOST" environment variable');
  await offline({ CORELLIUM_API_TOKEN: undefined }, 'Missing "CORELLIUM_API_TOKEN" environment variable');
  await offline({ CORELLIUM_API_HOST: " " }, '"CORELLIUM_API_HOST" environment variable is empty');
  await offline({ CORELLIUM_API_TOKEN: "" }, '"CORELLIUM_API_TOKEN" environment variable is empty');
  const { power } = await device(t);
  for (const [name, value] of [
    ["CORELLIUM_API_RETRIES", "many"],
    ["CORELLIUM_API_INTERVAL", "-1"],
  ] as const) {
    setEnvironment(t, { [name]: value });
    await assert.rejects(power().on(), { code: "E_INVALID", message: new RegExp(`^${name}: `) });
    setEnvironment(t, { [name]: undefined });
  }
  await assert.rejects(
    createExporter({ name: "test", export: { device: { type: "jumpstarter_driver_corellium.driver.Corellium" } } }),
    /project_id/,
  );
});

test("hosts and paths", () => {
  assert.equal(apiBase("app.example.com")?.href, "https://app.example.com/api/");
  assert.equal(apiBase("https://app.example.com:8443")?.href, "https://app.example.com:8443/api/");
  assert.equal(apiBase("http://localhost:8000")?.href, "http://localhost:8000/api/");
  for (const host of ["http://app.example.com", "app/example", "a b", "ftp://localhost", "user@host", "host?x"]) {
    assert.equal(apiBase(host), undefined, host);
  }
  assert.equal(paths.console("i/1", "port-a-port-b"), "v1/instances/i%2F1/console?type=a-b");
  assert.equal(paths.state("i 1"), "v1/instances/i%201/state");
});
