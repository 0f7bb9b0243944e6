import assert from "node:assert/strict";
import { createSocket } from "node:dgram";
import { once } from "node:events";
import { test, type TestContext } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { createExporter } from "../../../../agent/session/exporter.ts";
import { someIp } from "../../../../net/someip/interface.ts";
import {
  eventgroupId,
  instanceId,
  majorVersion,
  serviceId,
  someIpHeader,
  startSomeIpService,
} from "../../../sim/someip-service.ts";

async function freeUdpPort(host: string): Promise<number> {
  const socket = createSocket("udp4").bind(0, host);
  await once(socket, "listening");
  const { port } = socket.address();
  socket.close();
  return port;
}

async function startPair(t: TestContext, config: Record<string, unknown> = {}, isStatic = false) {
  const service = await startSomeIpService(t);
  const host = `127.${service.host.split(".").slice(1, 3).join(".")}.254`;
  const port = await freeUdpPort(host);
  const exporter = await createExporter({
    name: "test",
    export: {
      node: {
        type: "jumpstarter_driver_someip.driver.SomeIp",
        config: {
          host,
          port,
          multicast_group: service.group,
          multicast_port: service.groupPort,
          ...(isStatic ? { remote_host: service.host, remote_port: service.port } : {}),
          ...config,
        },
      },
    },
  });
  t.after(() => exporter.close());
  return { service, exporter, client: exporter.calls("node", someIp), host, port };
}

const until = async (condition: () => boolean) => {
  while (!condition()) await sleep(5);
};
const response = {
  service_id: serviceId,
  client_id: 1,
  protocol_version: 1,
  message_type: 0x80,
  return_code: 0,
};

test("a service is found, called, and its errors are data", async (t) => {
  const { service, client } = await startPair(t);
  const found = { service_id: serviceId, instance_id: instanceId, major_version: majorVersion, minor_version: 7 };
  assert.deepEqual(await client.find_service(serviceId, 0xffff, 2), [found]);
  assert.deepEqual([...new Set(service.heard)], ["find 1234.ffff"]);
  assert.deepEqual(await client.rpc_call(serviceId, 1, { data: "CAFE00" }), {
    ...response,
    method_id: 1,
    session_id: 1,
    interface_version: majorVersion,
    payload: "cafe00",
  });
  // service, method, length 11, client 1, session 1, protocol 1, interface 2, request, no error, payload
  assert.equal(service.requests[0], "12340001" + "0000000b" + "00010001" + "01020000" + "cafe00");
  const failed = await client.rpc_call(serviceId, 2, { data: "" });
  assert.deepEqual([failed.message_type, failed.return_code, failed.session_id], [0x81, 5, 2]);
  const late = await client.rpc_call(serviceId, 4, { data: "01" });
  assert.equal(late.payload, "01", "neither an older answer nor that of another client");
  assert.deepEqual(await client.find_service(serviceId, 2, 0.1), []);
  assert.deepEqual(await client.find_service(0x4321, 0xffff, 0.05), []);
});

test("a call without a service, or without an answer, ends in time", async (t) => {
  const { service, client } = await startPair(t);
  service.isHidden = true;
  await assert.rejects(client.rpc_call(serviceId, 1, { data: "" }, 0.15), {
    code: "E_TIMEOUT",
    message: "service 0x1234 is not offered",
  });
  assert.ok(service.heard.length >= 2, "it was asked for again");
  service.isHidden = false;
  service.offer();
  await assert.rejects(client.rpc_call(serviceId, 3, { data: "" }, 0.1), {
    code: "E_TIMEOUT",
    message: "no response from service 0x1234, method 0x0003 within 0.1 s",
  });
  assert.equal((await client.rpc_call(serviceId, 1, { data: "aa" }, 2)).payload, "aa");
  service.offer(0);
  service.isHidden = true;
  await sleep(20);
  await assert.rejects(client.rpc_call(serviceId, 1, { data: "" }, 0.05), { message: /is not offered/ });
});

test("events of a subscription come until it ends", async (t) => {
  const { service, client, host, port } = await startPair(t);
  await client.find_service(serviceId);
  await client.subscribe_eventgroup(eventgroupId);
  const at = `${host}:${port}/17`;
  assert.equal(service.heard.at(-1), `subscribe 1234.0001 0010 ttl 10 at ${at}`);
  service.notify(0x8001, "0102");
  assert.deepEqual(await client.receive_event(2), { service_id: serviceId, event_id: 0x8001, payload: "0102" });
  // A new offer is answered by a new subscription, at once.
  const began = performance.now();
  service.offer();
  await until(() => service.heard.filter((entry) => entry.startsWith("subscribe")).length >= 2);
  assert.ok(performance.now() - began < 2_000);
  await assert.rejects(client.subscribe_eventgroup(0x99), {
    code: "E_FAILED",
    message: /refuses .* eventgroup 0x0099/,
  });
  await client.unsubscribe_eventgroup(eventgroupId);
  await until(() => service.heard.at(-1) === `subscribe 1234.0001 0010 ttl 0 at ${at}`);
  service.notify(0x8001, "03");
  await assert.rejects(client.receive_event(0.05), { code: "E_TIMEOUT", message: "No event received within 0.05s" });
});

test("without a service that was found, a subscription means all that are offered", async (t) => {
  const { service, client } = await startPair(t);
  await client.subscribe_eventgroup(eventgroupId);
  assert.equal(service.heard[0], "find ffff.ffff");
  service.ignoresSubscriptions = true;
  const began = performance.now();
  await assert.rejects(client.subscribe_eventgroup(0x11), { code: "E_TIMEOUT", message: /does not answer/ });
  assert.ok(performance.now() - began < 3_000);
});

test("a static peer needs no service discovery, and raw messages go both ways", async (t) => {
  const { service, client } = await startPair(t, {}, true);
  service.isHidden = true;
  await client.send_message(serviceId, 1, { data: "0a" });
  const echo = { ...response, client_id: 0, session_id: 0, method_id: 1, interface_version: 1, payload: "0a" };
  assert.deepEqual(await client.receive_message(2), echo);
  assert.equal((await client.rpc_call(serviceId, 1, { data: "0b" })).payload, "0b");
  service.sendRaw(someIpHeader(0x77, 0x8005, Buffer.from("hi"), 0x02));
  assert.deepEqual(await client.receive_event(2), { service_id: 0x77, event_id: 0x8005, payload: "6869" });
  await assert.rejects(client.receive_message(0), { code: "E_TIMEOUT", message: "No message received within 0.0s" });
  assert.deepEqual(service.heard, []);
});

test("TCP: calls and events share a connection, in pieces of one byte, and it is made anew when it was lost", async (t) => {
  const { service, client } = await startPair(t, { transport_mode: "tcp" });
  service.crumbles = true;
  await client.find_service(serviceId);
  assert.equal((await client.rpc_call(serviceId, 1, { data: "ab".repeat(300) })).payload, "ab".repeat(300));
  await client.subscribe_eventgroup(eventgroupId);
  assert.match(service.heard.at(-1) ?? "", /\/6$/);
  service.notify(0x8001, "07");
  assert.equal((await client.receive_event(2)).payload, "07");
  assert.equal(service.connections.size, 1);
  service.crumbles = false;
  service.hangUp();
  await until(() => service.connections.size === 0);
  await sleep(10);
  assert.equal((await client.rpc_call(serviceId, 1, { data: "01" })).payload, "01");
  for (const socket of service.connections) socket.write(Buffer.from("this is no SOME/IP at all"));
  await until(() => service.connections.size === 0);
});

test("a TCP peer that is off is UNAVAILABLE", async (t) => {
  const { client } = await startPair(t, { transport_mode: "TCP", remote_host: "127.0.0.1", remote_port: 1 });
  await assert.rejects(client.rpc_call(1, 1, { data: "" }), { code: "E_CONNECTION", message: /cannot be reached/ });
});

test("nonsense on the network is ignored", async (t) => {
  const { service, client } = await startPair(t);
  await client.find_service(serviceId);
  await client.rpc_call(serviceId, 1, { data: "" });
  const header = someIpHeader(0xffff, 0x8100, Buffer.from("c0000000ffffffff00000000", "hex"), 2);
  const cut = someIpHeader(0xffff, 0x8100, Buffer.from("c000", "hex"), 2);
  for (const bytes of [Buffer.from("zz"), Buffer.alloc(400, 0xff), Buffer.alloc(16), header, cut]) {
    service.sendRaw(bytes);
    service.sendDiscoveryRaw(bytes);
  }
  // Two messages in one datagram, and the beginning of a third.
  const event = someIpHeader(serviceId, 0x8002, Buffer.from("a"), 0x02);
  service.sendRaw(Buffer.concat([event, event, event.subarray(0, 10)]));
  assert.equal((await client.receive_event(2)).payload, "61");
  assert.equal((await client.receive_event(2)).payload, "61");
  await assert.rejects(client.receive_event(0.05), { code: "E_TIMEOUT" });
});

test("what waits for a client that is closed ends, and the end of a lease takes subscriptions back", async (t) => {
  const { service, client, exporter } = await startPair(t);
  await client.start();
  const waiting = client.receive_event(60);
  await sleep(10);
  await client.close_connection();
  await assert.rejects(waiting, { code: "E_CONNECTION", message: /was closed/ });
  await assert.rejects(client.find_service(1), { code: "E_CONNECTION", message: /reconnect first/ });
  await client.reconnect();
  await client.find_service(serviceId);
  await client.subscribe_eventgroup(eventgroupId);
  await exporter.tree.release();
  await until(() => (service.heard.at(-1) ?? "").includes("ttl 0"));
  await client.find_service(serviceId);
});

test("a cancelled call leaves the client usable", async (t) => {
  const { service, client, exporter } = await startPair(t);
  await client.find_service(serviceId);
  const cancelled = new AbortController();
  const call = exporter.calls("node", someIp, { signal: cancelled.signal }).rpc_call(serviceId, 3, { data: "" }, 60);
  const outcome = assert.rejects(call, /enough/);
  await until(() => service.requests.length === 1);
  cancelled.abort(new Error("enough"));
  await outcome;
  assert.equal((await client.rpc_call(serviceId, 1, { data: "01" })).payload, "01");
});

test("an answer from elsewhere is none", async (t) => {
  const { service, client, host, port } = await startPair(t, {}, true);
  const call = client.rpc_call(serviceId, 3, { data: "" }, 0.4);
  const outcome = assert.rejects(call, { code: "E_TIMEOUT" });
  await until(() => service.requests.length === 1);
  const stranger = createSocket("udp4").bind(0, service.host);
  t.after(() => stranger.close());
  await once(stranger, "listening");
  stranger.send(someIpHeader(serviceId, 3, Buffer.from("forged"), 0x80), port, host);
  await outcome;
});

test("an address that this host does not have is told at the first call", async (t) => {
  const { client } = await startPair(t, { host: "192.0.2.1" });
  await assert.rejects(client.start(), { code: "E_IO", message: /cannot listen at 192\.0\.2\.1/ });
});

test("configurations that cannot be are refused", async () => {
  for (const [config, text] of [
    [{ host: "127.0.0.1", transport_mode: "SCTP" }, "Invalid transport_mode: 'SCTP'. Must be 'TCP' or 'UDP'."],
    [{ host: "127.0.0.1", remote_port: 1 }, "remote_port requires remote_host to be set"],
    [{ host: "0.0.0.0" }, "one address of this host"],
    [{ host: "127.0.0.1", multicast_group: "10.0.0.1" }, "multicast address"],
    [{}, "host"],
  ] as const) {
    const node = { type: "jumpstarter_driver_someip.driver.SomeIp", config };
    await assert.rejects(createExporter({ name: "test", export: { node } }), (error: Error) =>
      error.message.includes(text),
    );
  }
});
