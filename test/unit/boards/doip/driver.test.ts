import assert from "node:assert/strict";
import { test, type TestContext } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { createExporter } from "../../../../agent/session/exporter.ts";
import { doip } from "../../../../boards/doip/interface.ts";
import { ecuAddress, startDoipEntity, testerAddress } from "../../../sim/doip-entity.ts";

async function startPair(t: TestContext, config: Record<string, unknown> = {}) {
  const entity = await startDoipEntity(t);
  const own = { ecu_ip: entity.host, tcp_port: entity.port, ecu_logical_address: ecuAddress, ...config };
  const ecu = { type: "jumpstarter_driver_doip.driver.DoIP", config: own };
  const exporter = await createExporter({ name: "test", export: { ecu } });
  t.after(() => exporter.close());
  const messages: string[] = [];
  exporter.logs.subscribe(({ message }) => messages.push(message));
  return { entity, exporter, client: exporter.calls("ecu", doip), log: messages };
}

const until = async (condition: () => boolean) => {
  while (!condition()) await sleep(5);
};

test("the agent starts without an ECU, and asks it only when it is called", async (t) => {
  const { entity, client } = await startPair(t);
  assert.equal(entity.accepted, 0);
  assert.deepEqual(await client.entity_status(), {
    node_type: 0,
    max_open_sockets: 16,
    currently_open_sockets: 1,
    max_data_size: 4095,
  });
  assert.equal(entity.accepted, 0, "datagrams need no connection");
  assert.deepEqual(await client.alive_check(), { source_address: testerAddress });
  assert.deepEqual(await client.diagnostic_power_mode(), { diagnostic_power_mode: 1 });
  assert.equal(entity.accepted, 1);
  assert.deepEqual(entity.heard, [0x4001, 0x0005, 0x0007, 0x4003]);
});

test("a vehicle is identified, also by its VIN and its EID", async (t) => {
  const { client } = await startPair(t);
  const vehicle = {
    vin: "WVWZZZ1JZXW000001",
    logical_address: ecuAddress,
    eid: "aabbccddeeff",
    gid: "010203040506",
    further_action: 0,
    sync_status: 0x10,
  };
  assert.deepEqual(await client.request_vehicle_identification(), vehicle);
  assert.deepEqual(await client.request_vehicle_identification("WVWZZZ1JZXW000001", null), vehicle);
  assert.deepEqual(await client.request_vehicle_identification(null, "AABBCCDDEEFF"), vehicle);
  await assert.rejects(client.request_vehicle_identification("short"), { code: "E_INVALID" });
  await assert.rejects(client.request_vehicle_identification(null, "aabb"), { code: "E_INVALID" });
});

test("diagnostic messages go and come, in pieces of one byte, too", async (t) => {
  const { entity, client } = await startPair(t);
  entity.crumbles = true;
  await client.send_diagnostic({ data: "22F190" });
  const { data } = await client.receive_diagnostic();
  assert.equal(data, `62f190${Buffer.from("WVWZZZ1JZXW000001").toString("hex")}`);
});

test("a download in blocks passes through", async (t) => {
  const { entity, client } = await startPair(t);
  entity.ecu.session = 2;
  const exchange = async (request: string) => {
    await client.send_diagnostic({ data: request });
    return (await client.receive_diagnostic(1)).data;
  };
  assert.equal(await exchange("3400440000100000000200"), "74200402");
  assert.equal(await exchange(`3601${"ab".repeat(4000)}`), "7601");
  assert.equal(await exchange(`3605${"ab".repeat(10)}`), "7f3673");
  assert.equal(await exchange("37"), "77");
});

test("alive checks are answered while nobody calls", async (t) => {
  const { entity, client } = await startPair(t);
  await client.routing_activation();
  entity.send(0x0007, new Uint8Array());
  await until(() => entity.alive.length > 0);
  assert.deepEqual(entity.alive, [testerAddress]);
});

test("a routing activation that is refused is data when it is asked for, and an error when it is needed", async (t) => {
  const { entity, client } = await startPair(t);
  const answer = { client_logical_address: testerAddress, logical_address: ecuAddress, vm_specific: null };
  assert.deepEqual(await client.routing_activation(0), { ...answer, response_code: 0x10 });
  assert.deepEqual(await client.routing_activation(0xe5), { ...answer, response_code: 0x06 });
  await client.close_connection();
  entity.activation = 0x00;
  const text = /refuses routing activation: the source address is unknown \(response code 0x00\)/;
  await assert.rejects(client.reconnect(0), { code: "E_CONNECTION", message: text });
  await until(() => entity.connections.size === 0);
  entity.activation = 0x10;
  await client.reconnect(0);
});

test("activation_type null connects without activation", async (t) => {
  const { entity, client } = await startPair(t, { activation_type: null });
  await client.alive_check();
  assert.deepEqual(entity.heard, [0x0007]);
});

test("NACKs tell what is wrong", async (t) => {
  const { entity, client } = await startPair(t);
  entity.nack = 0x03;
  await assert.rejects(client.send_diagnostic({ data: "3e00" }), {
    code: "E_IO",
    message: "the ECU does not take the diagnostic message: unknown target address (NACK code 0x03)",
  });
  entity.nack = undefined;
  await client.send_diagnostic({ data: "3e00" });
  assert.deepEqual(await client.receive_diagnostic(1), { data: "7e00" });
  // A header that is refused ends what waits.
  entity.acknowledges = false;
  const sent = client.send_diagnostic({ data: "3e00" });
  await until(() => entity.heard.filter((type) => type === 0x8001).length === 3);
  entity.send(0x0000, Uint8Array.of(2));
  await assert.rejects(sent, { code: "E_IO", message: /message too large \(NACK code 0x02\)/ });
});

test("hexadecimal digits are checked", async (t) => {
  const { client } = await startPair(t);
  for (const data of ["abc", "zz", "0x12"]) {
    await assert.rejects(client.send_diagnostic({ data }), {
      code: "E_INVALID",
      message: /must be hexadecimal digits/,
    });
  }
});

test("an ECU that is off is UNAVAILABLE, and works once it is on", async (t) => {
  const { entity, exporter } = await startPair(t);
  const off = await createExporter({
    name: "off",
    export: {
      ecu: {
        type: "jumpstarter_driver_doip.driver.DoIP",
        config: { ecu_ip: entity.host, tcp_port: 1, ecu_logical_address: 1 },
      },
    },
  });
  t.after(() => off.close());
  await assert.rejects(off.calls("ecu", doip).alive_check(), { code: "E_CONNECTION", message: /cannot be reached/ });
  assert.ok(exporter);
});

test("an ECU that says nothing times out within 2 s", async (t) => {
  const { entity, client } = await startPair(t);
  entity.hearsDatagrams = false;
  entity.acknowledges = false;
  entity.ecu.troubles.push("silence");
  const began = performance.now();
  await client.routing_activation();
  await Promise.all([
    assert.rejects(client.entity_status(), { code: "E_TIMEOUT", message: /entity status/ }),
    assert.rejects(client.send_diagnostic({ data: "3e00" }), { code: "E_TIMEOUT", message: /acknowledgement/ }),
    assert.rejects(client.receive_diagnostic(0.05), { code: "E_TIMEOUT", message: "no diagnostic message within 0.05 s" }),
  ]); // prettier-ignore
  assert.ok(performance.now() - began < 3_000);
  assert.equal(entity.heard.filter((type) => type === 0x4001).length, 3, "a datagram may get lost");
  entity.acknowledges = true;
  await client.send_diagnostic({ data: "3e00" });
});

test("a datagram of nonsense is an error, one of another type is none", async (t) => {
  const { entity, client } = await startPair(t);
  entity.datagramPrelude = Buffer.from("garbage that is no DoIP");
  await assert.rejects(client.entity_status(), { code: "E_FAILED", message: "the peer does not speak DoIP" });
  entity.datagramPrelude = Buffer.from("02fd400400000001 01".replaceAll(" ", ""), "hex");
  assert.equal((await client.entity_status()).max_open_sockets, 16);
  entity.datagramPrelude = Buffer.from("02fd40020000000100", "hex");
  await assert.rejects(client.entity_status(), { code: "E_FAILED", message: /entity status of 1 bytes/ });
});

for (const [what, bytes] of [
  ["what is no DoIP", "474554202f20485454502f312e310d0a"],
  ["a message without end", "02fd8001ffffffff"],
] as const) {
  test(`${what} ends the connection, with its reason`, async (t) => {
    const { entity, client } = await startPair(t);
    await client.routing_activation();
    const waiting = client.receive_diagnostic(10);
    await sleep(20);
    entity.sendRaw(Buffer.from(bytes, "hex"));
    await assert.rejects(waiting, { code: "E_CONNECTION", message: /does not speak DoIP|4294967295 bytes/ });
    await until(() => entity.connections.size === 0);
    await assert.rejects(client.alive_check(), { code: "E_CONNECTION" });
    await client.reconnect(0);
    assert.deepEqual(await client.alive_check(), { source_address: testerAddress });
  });
}

test("a connection that the ECU closes stays closed until reconnect, unless it is told otherwise", async (t) => {
  const [fixed, renewed] = [await startPair(t), await startPair(t, { auto_reconnect_tcp: true })];
  for (const { entity, client } of [fixed, renewed]) {
    await client.alive_check();
    entity.hangUp();
    await until(() => entity.connections.size === 0);
    await sleep(10);
  }
  await assert.rejects(fixed.client.alive_check(), { code: "E_CONNECTION", message: /closed|lost/ });
  await fixed.client.reconnect(0);
  await fixed.client.alive_check();
  await renewed.client.alive_check();
  assert.equal(renewed.entity.accepted, 2);
  // The end of a lease closes it, and the next one begins anew.
  await fixed.client.close_connection();
  await assert.rejects(fixed.client.alive_check(), { code: "E_CONNECTION", message: /reconnect first/ });
  await fixed.exporter.tree.release();
  await fixed.client.alive_check();
  await fixed.exporter.tree.release();
  await until(() => fixed.entity.connections.size === 0);
});

test("a call that was cancelled leaves the connection usable, and its acknowledgement is nobody else's", async (t) => {
  const { entity, exporter, client } = await startPair(t);
  await client.routing_activation();
  entity.acknowledges = false;
  entity.ecu.troubles.push("silence");
  const cancelled = new AbortController();
  const sent = exporter.calls("ecu", doip, { signal: cancelled.signal }).send_diagnostic({ data: "3e00" });
  const outcome = assert.rejects(sent, /enough/);
  await until(() => entity.heard.at(-1) === 0x8001);
  cancelled.abort(new Error("enough"));
  await outcome;
  // It comes now, and is not taken for that of the next one.
  entity.send(0x8002, Buffer.from("00e00e0000", "hex"));
  entity.nack = 0x06;
  await assert.rejects(client.send_diagnostic({ data: "3e00" }), { code: "E_IO", message: /target unreachable/ });
});

test("messages of others and short ones are ignored, and too many are thrown away", async (t) => {
  const { entity, client, log } = await startPair(t);
  await client.routing_activation();
  entity.send(0x8001, Buffer.from("00e10e007e00", "hex"));
  entity.send(0x8001, Buffer.from("00e00e017e00", "hex"));
  entity.send(0x8001, Buffer.from("00e0", "hex"));
  for (let count = 0; count < 1100; count += 1) entity.send(0x8001, Buffer.from("00e00e007e01", "hex"));
  await until(() => log.some((line) => line.includes("thrown away")));
  assert.deepEqual(await client.receive_diagnostic(1), { data: "7e01" });
});

test("what is no address is refused when the configuration is read", async () => {
  for (const config of [
    { ecu_ip: "gateway", ecu_logical_address: 1 },
    { ecu_ip: "192.0.2.1", ecu_logical_address: 0x10000 },
    { ecu_ip: "192.0.2.1" },
    { ecu_ip: "192.0.2.1", ecu_logical_address: 1, ecu_port: 1 },
  ]) {
    const ecu = { type: "jumpstarter_driver_doip.driver.DoIP", config };
    await assert.rejects(createExporter({ name: "test", export: { ecu } }), { code: "E_CONFIG" });
  }
});
