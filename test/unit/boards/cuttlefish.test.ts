import assert from "node:assert/strict";
import { test, type TestContext } from "node:test";
import fc from "fast-check";
import { connect } from "../../../agent/client/connect.ts";
import { complaintOf, cvdPath, operationOf } from "../../../boards/cuttlefish/protocol.ts";
import { Orchestrator } from "../../../boards/cuttlefish/transport.ts";
import { cuttlefish, cuttlefishPower, cuttlefishStorage } from "../../../boards/cuttlefish/interface.ts";
import { startAdbDevice } from "../../sim/adb-device.ts";
import { adbHome, missingAdb } from "../../sim/adb.ts";
import { freePort } from "../../sim/agent.ts";
import { startOrchestrator } from "../../sim/cuttlefish.ts";
import { startExporter } from "../../sim/exporter.ts";
import { eventually } from "../../sim/rig.ts";

const skip = missingAdb();
adbHome();

async function phone(t: TestContext, config: Record<string, unknown> = {}) {
  const double = await startOrchestrator(t);
  const { socketPath } = await startExporter(t, {
    phone: {
      type: "jumpstarter_driver_cuttlefish.driver.Cuttlefish",
      config: { host: "127.0.0.1", port: double.port, adb_server_port: await freePort(), ...config },
    },
  });
  const client = await connect({ host: socketPath });
  t.after(() => client.close());
  const node = (path: string) => {
    const found = client.root.find(path);
    if (found === undefined) throw new Error(`no ${path}`);
    return found;
  };
  return {
    double,
    node,
    root: node("phone").as(cuttlefish),
    power: node("phone.power").as(cuttlefishPower),
    storage: node("phone.storage").as(cuttlefishStorage),
  };
}

test("a device is made, shown, switched, reset and deleted", async (t) => {
  const { double, root, power, storage, node } = await phone(t, { env_config: { common: { host_package: "x" } } });
  const of = (text: string) => JSON.parse(text) as unknown;
  await power.on();
  assert.deepEqual([...double.devices], [["cvd/1", "Running"]]);
  assert.deepEqual(of(await root.get_cvd()), { name: "cvd/1", status: "Running" });
  assert.deepEqual(of(await root.list_cvds()), { cvds: [{ name: "cvd/1", status: "Running" }] });
  await power.off();
  assert.deepEqual([...double.devices], [["cvd/1", "Stopped"]]);
  await power.on();
  for (const action of ["start", "restart", "powerwash", "powerbtn", "stop"] as const) {
    assert.deepEqual(of(await root[`${action}_cvd`]()), { name: "cvd/1", done: `:${action}` });
  }
  await power.off(true);
  assert.deepEqual([...double.devices], []);
  await root.create_cvd('{"name":"cvd/1"}');
  assert.deepEqual(of(await root.delete_cvd()), {});
  assert.deepEqual(of(await root.reset_host()), {});
  assert.deepEqual(of(await root.list_operations()), { operations: [] });
  assert.equal(await root.status(), "OK");
  assert.deepEqual(
    [await root.get_host(), await root.get_adb_port(), await root.get_webrtc_url()],
    ["127.0.0.1", 6520, `http://127.0.0.1:${double.port}`],
  );
  assert.deepEqual(double.requests.slice(0, 6), [
    "GET /cvds/cvd/1",
    'POST /cvds {"env_config":{"common":{"host_package":"x"}}}',
    "POST /operations/op-1/:wait",
    "GET /cvds/cvd/1",
    "GET /cvds",
    "POST /cvds/cvd/1/:stop",
  ]);
  await assert.rejects(async () => {
    for await (const _ of power.read()) assert.fail();
  }, /no meter/);
  const handle = { kind: "presigned_request", url: "http://x/", method: "GET" } as const;
  await assert.rejects(storage.flash(handle), { code: "E_UNSUPPORTED" });
  assert.equal(node("phone.power").clientClass, "jumpstarter_driver_cuttlefish.client.CvdPowerClient");
});

test("what the orchestrator complains of is told, and a device that is not there is not made by itself", async (t) => {
  const { double, root, power } = await phone(t);
  await assert.rejects(power.on(), { code: "E_FAILED", message: /HTTP 404: Not found: \/cvds\/cvd\/1/ });
  double.troubles.push([500, '{"error":"cvd failed","details":"no KVM"}'], [502, "<html>bad"]);
  const message = "GET /cvds failed with HTTP 500: cvd failed: no KVM";
  await assert.rejects(root.list_cvds(), { code: "E_FAILED", message });
  await assert.rejects(root.list_cvds(), { code: "E_FAILED", message: /HTTP 502: <html>bad/ });
  await assert.rejects(root.create_cvd("{"), { code: "E_INVALID" });
  double.devices.set("cvd/1", "Stopped");
  // An operation that fails says so when it is waited for.
  double.troubles.push([200, '{"name":"op","done":false}'], [500, '{"error":"died"}']);
  await assert.rejects(root.start_cvd(), { message: "POST /operations/op/:wait failed with HTTP 500: died" });
});

test("an operation is waited for, however often the orchestrator hangs up, and no longer than allowed", async (t) => {
  const double = await startOrchestrator(t);
  const orchestrator = new Orchestrator(`http://127.0.0.1:${double.port}`, 5);
  t.after(() => orchestrator.close());
  const { signal } = new AbortController();
  const started = [200, '{"name":"op","done":false}'] as const;
  double.troubles.push(started, [503, ""], [504, ""], [200, '{"fine":1}']);
  assert.deepEqual(await orchestrator.perform("POST", "/reset", signal, 1_000), { fine: 1 });
  double.troubles.push(started, ...Array.from({ length: 100 }, () => [503, ""] as const));
  await assert.rejects(orchestrator.perform("POST", "/reset", signal, 50), {
    code: "E_TIMEOUT",
    message: "POST /reset is not done after 0.05s",
  });
});

test("a call that is cancelled ends at once; a host that is not there is told", async (t) => {
  const { double, node } = await phone(t);
  double.troubles.push("hang");
  const cancel = new AbortController();
  const call = node("phone").as(cuttlefish, { signal: cancel.signal }).list_cvds();
  await eventually("it is asked", () => double.requests.length > 0);
  cancel.abort();
  await assert.rejects(call);
  const away = new Orchestrator(`http://127.0.0.1:${await freePort()}`);
  t.after(() => away.close());
  await assert.rejects(away.ask("GET", "/cvds", new AbortController().signal), {
    code: "E_CONNECTION",
    message: /cannot be reached: ECONNREFUSED/,
  });
});

test("booted is what Android says of itself", { skip }, async (t) => {
  // The port follows from the number of the device.
  const instance = 700;
  const { root } = await phone(t, { instance_num: instance, boot_timeout: 20 });
  await assert.rejects(root.wait_boot(0.01), {
    code: "E_TIMEOUT",
    message: /has not booted after 0\.01s: adb connect/,
  });
  const device = await startAdbDevice(t, { port: 6519 + instance });
  const waiting = root.wait_boot();
  await eventually("it is asked", () => device.commands.length > 0);
  device.answers.set("getprop sys.boot_completed", "1\n");
  const { booted } = JSON.parse(await waiting) as { booted: boolean };
  assert.equal(booted, true);
  assert.ok(device.commands.length > 1);
});

test("paths, operations and complaints", () => {
  assert.equal(cvdPath("a b", "../1"), "/cvds/a%20b/..%2F1");
  assert.equal(operationOf({ name: "op", done: false }), "op");
  for (const result of [
    { name: "op", done: true },
    { name: "cvd/1", status: "x" },
    [],
    null,
    "text",
    { done: false },
  ]) {
    assert.equal(operationOf(result), undefined);
  }
  assert.equal(complaintOf(""), "no reason given");
  assert.equal(complaintOf('{"error":1}'), '{"error":1}');
  fc.assert(fc.property(fc.string(), (body) => complaintOf(body).length > 0));
  fc.assert(fc.property(fc.json(), (body) => complaintOf(body).length > 0 && (operationOf(JSON.parse(body)), true)));
});
