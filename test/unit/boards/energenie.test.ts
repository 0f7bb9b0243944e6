import assert from "node:assert/strict";
import { test, type TestContext } from "node:test";
import { createExporter } from "../../../agent/session/exporter.ts";
import { isLoggedIn, loginBody, socketStates, switchBody } from "../../../boards/energenie/protocol.ts";
import energenie from "../../../boards/energenie/driver.ts";
import { power } from "../../../boards/power/interface.ts";
import { startEnergenie, type Energenie } from "../../sim/energenie.ts";

const entry = (config: Record<string, unknown>) => ({
  type: "jumpstarter_driver_energenie.driver.EnerGenie",
  config,
});

async function strip(t: TestContext, configs: Record<string, Record<string, unknown>>, password?: string) {
  const device = await startEnergenie(t, password);
  const entries = Object.entries(configs).map(([name, config]) => [name, entry({ host: device.host, ...config })]);
  const exporter = await createExporter({ name: "test", export: Object.fromEntries(entries) as Record<string, never> });
  t.after(() => exporter.close());
  const log: string[] = [];
  exporter.logs.subscribe((record) => log.push(record.message));
  return { device, exporter, log };
}

/** The whole conversation of one successful switch. */
const conversation = (slot: number, state: number) => [
  "POST /login.html pw=1",
  `POST / cte${slot}=${state}`,
  "GET /energenie.html",
  "GET /login.html",
];

test("a socket is switched, read back, and the strip is free again", async (t) => {
  const { device, exporter } = await strip(t, { outlet: { slot: 3 } });
  const outlet = exporter.calls("outlet", power);
  await outlet.on();
  assert.deepEqual(device.sockets, [false, false, true, false]);
  assert.equal(device.session, undefined);
  await outlet.off();
  assert.deepEqual(device.sockets, [false, false, false, false]);
  assert.deepEqual(device.requests, [...conversation(3, 1), ...conversation(3, 0)]);
  await assert.rejects(async () => {
    for await (const _ of outlet.read());
  }, /no meter/);
});

test("a wrong password is an error although its page has status 200, and it is in no text", async (t) => {
  const { device, exporter, log } = await strip(t, { outlet: { password: "sec+ret" } });
  await assert.rejects(exporter.calls("outlet", power).on(), { code: "E_FAILED", message: /refuses the login/ });
  assert.deepEqual(device.requests, ["POST /login.html pw=sec%2Bret", "GET /login.html"], "not tried again");
  assert.ok(!log.join().includes("sec"), log.join());
});

test("somebody who is logged in from elsewhere is left alone", async (t) => {
  const { device, exporter } = await strip(t, { outlet: {} });
  device.session = "192.0.2.7";
  await assert.rejects(exporter.calls("outlet", power).on(), /somebody is logged in from elsewhere/);
  assert.equal(device.session, "192.0.2.7");
});

for (const [trouble, code] of [
  ["reset", "E_CONNECTION"],
  ["error 500", "E_IO"],
] as const) {
  test(`${trouble}: tried once more, then an error`, async (t) => {
    const { device, exporter } = await strip(t, { outlet: {} });
    const outlet = exporter.calls("outlet", power);
    device.troubles.push(trouble);
    await outlet.on();
    assert.equal(device.sockets[0], true);
    // Each attempt logs out as well.
    device.troubles.push(...Array.from({ length: 4 }, () => trouble));
    await assert.rejects(outlet.off(), { code });
    assert.equal(device.sockets[0], true);
    assert.equal(device.session, undefined);
  });
}

test("a relay that does not move is an error", async (t) => {
  const { device, exporter } = await strip(t, { outlet: { slot: "2" } });
  device.stuck.add(2);
  await assert.rejects(exporter.calls("outlet", power).on(), { code: "E_FAILED", message: /leaves socket 2 off/ });
  assert.equal(device.session, undefined);
});

test("drivers of one strip take turns", async (t) => {
  const { device, exporter } = await strip(t, { a: { slot: 1 }, b: { slot: 2 }, c: { slot: 3 }, d: { slot: 4 } });
  await Promise.all(["a", "b", "c", "d"].map((name) => exporter.calls(name, power).on()));
  assert.deepEqual(device.sockets, [true, true, true, true]);
  assert.equal(device.atOnce, 1);
  assert.deepEqual(
    device.requests,
    [1, 2, 3, 4].flatMap((slot) => conversation(slot, 1)),
  );
});

test("a call that is cancelled ends at once, and logs out", async (t) => {
  const { device, exporter } = await strip(t, { outlet: {} });
  device.troubles.push("silence");
  const cancel = new AbortController();
  const call = exporter.calls("outlet", power, { signal: cancel.signal }).on();
  while (device.requests.length === 0) await new Promise((resolve) => setTimeout(resolve, 5));
  cancel.abort(new Error("enough"));
  await assert.rejects(call, /enough/);
  assert.deepEqual(device.requests, ["POST /login.html pw=1", "GET /login.html"]);
});

test("configurations that cannot work are refused in the words of the Python driver", async () => {
  const refused = async (config: Record<string, unknown>, message: RegExp) =>
    assert.rejects(createExporter({ name: "test", export: { outlet: entry(config) } }), message);
  await refused({}, /Host must be specified/);
  await refused({ host: null }, /Host must be specified/);
  await refused({ host: "strip/path" }, /HOST or HOST:PORT/);
  for (const slot of [0, 5, 1.5]) await refused({ host: "strip", slot }, /Slot must be between 1 and 4/);
});

test("the doctor sees whether it is there, and touches no page", async (t) => {
  const device: Energenie = await startEnergenie(t);
  const look = (host: string) => energenie.inspect?.({ host, password: "1", slot: 1 });
  assert.deepEqual(await look(device.host), [{ ok: true, text: `EnerGenie at ${device.host} takes connections` }]);
  assert.deepEqual(device.requests, []);
  device.stop();
  const [finding] = (await look(device.host)) ?? [];
  assert.equal(finding?.ok, false);
  assert.match(finding.text, /cannot be reached/);
});

test("pages and bodies", () => {
  assert.equal(loginBody("1"), "pw=1");
  assert.equal(switchBody(4, false), "cte4=0");
  assert.equal(isLoggedIn('<a href="login.html">Log Out</a>'), true);
  assert.equal(isLoggedIn('<form action="login.html">'), false);
  assert.deepEqual(socketStates("var sockstates = [1, 0,0,1];"), [true, false, false, true]);
  for (const page of ["", "var sockstates = [1,0,0];", "var sockstates = [1,0,0,2];", "sockstates = [,,,]"]) {
    assert.equal(socketStates(page), undefined, page);
  }
});
