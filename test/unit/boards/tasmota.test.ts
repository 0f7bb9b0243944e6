import assert from "node:assert/strict";
import { createServer, type Socket } from "node:net";
import { once } from "node:events";
import { test, type TestContext } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { connectAsync } from "mqtt";
import { createExporter } from "../../../agent/session/exporter.ts";
import { power } from "../../../boards/power/interface.ts";
import tasmota from "../../../boards/tasmota/driver.ts";
import * as mqtt from "../../../boards/tasmota/protocol.ts";
import { plugName, readingOf, siblingTopic, stateOf } from "../../../boards/tasmota/topics.ts";
import { noMosquitto, startMosquitto } from "../../sim/mosquitto.ts";
import { startTasmota } from "../../sim/tasmota.ts";

type Given = Record<string, unknown>;

const entry = (config: Given) => ({ type: "jumpstarter_driver_tasmota.driver.TasmotaPower", config });

async function open(t: TestContext, configs: Record<string, Given>) {
  const entries = Object.entries(configs).map(([name, config]) => [name, entry(config)]);
  const exporter = await createExporter({ name: "test", export: Object.fromEntries(entries) as Record<string, never> });
  t.after(() => exporter.close());
  const log: string[] = [];
  exporter.logs.subscribe((record) => log.push(record.message));
  const plug = (name = "plug", signal?: AbortSignal) =>
    exporter.calls(name, power, signal === undefined ? {} : { signal });
  return { exporter, plug, log };
}

async function all<T>(items: AsyncIterable<T>): Promise<T[]> {
  const found: T[] = [];
  for await (const item of items) found.push(item);
  return found;
}

test("topics of one plug", () => {
  assert.equal(siblingTopic("cmnd/x/POWER", "tele", "LWT"), "tele/x/LWT");
  assert.equal(siblingTopic("home/x/cmnd/POWER1", "stat", "STATUS8"), "home/x/stat/STATUS8");
  assert.equal(siblingTopic("plugs/x/set", "tele", "LWT"), undefined);
  assert.equal(siblingTopic("mycmnd/x/POWER", "tele", "LWT"), undefined);
  assert.equal(plugName("cmnd/tasmota_6990F2/POWER"), "tasmota_6990F2");
  assert.equal(plugName("home/x/cmnd/POWER1"), "home/x");
  assert.equal(plugName("POWER"), "POWER");
});

test("a state is a word, or that of the relay in JSON", () => {
  assert.equal(stateOf("ON", "POWER"), true);
  assert.equal(stateOf("off", "POWER"), false);
  assert.equal(stateOf('{"POWER":"ON"}', "POWER"), true);
  assert.equal(stateOf('{"POWER":"OFF"}', "POWER1"), false);
  assert.equal(stateOf('{"POWER1":"OFF","POWER2":"ON"}', "power2"), true);
  assert.equal(stateOf('{"POWER1":"ON"}', "POWER2"), undefined);
  for (const payload of ["", "TOGGLE", "{", "null", "[]", '{"POWER":1}', '"ON"', '{"Status":{"Power":1}}']) {
    assert.equal(stateOf(payload, "POWER"), undefined, payload);
  }
});

test("a reading has both numbers, wherever the report has them", () => {
  assert.deepEqual(readingOf('{"StatusSNS":{"ENERGY":{"Voltage":230,"Current":0.5}}}'), { voltage: 230, current: 0.5 });
  assert.deepEqual(readingOf('{"ENERGY":{"Voltage":[231,229],"Current":["0.1",2]}}'), { voltage: 231, current: 0.1 });
  for (const payload of ['{"ENERGY":{"Voltage":230}}', '{"ENERGY":null}', '{"StatusSNS":3}', "7", "x"]) {
    assert.equal(readingOf(payload), undefined, payload);
  }
});

test("packets come whole however they are cut, and what is too long or endless is refused", () => {
  const stream = [
    [0x20, 2, 0, 5],
    [0x40, 2, 1, 2],
    [0x90, 4, 0, 1, 0, 0x80],
    [0xd0, 0],
    [0x31, 4, 0, 1, 0x74, 0x78],
  ];
  const bytes = Uint8Array.from(stream.flat());
  const expected = [
    { kind: "connack", code: 5 },
    { kind: "puback", id: 258 },
    { kind: "suback", id: 1, codes: [0, 128] },
    { kind: "pingresp" },
    { kind: "publish", topic: "t", payload: "x", retained: true },
  ];
  assert.deepEqual(new mqtt.Packets().push(bytes), expected);
  const slow = new mqtt.Packets();
  assert.deepEqual(
    [...bytes].flatMap((byte) => slow.push(Uint8Array.of(byte))),
    expected,
  );
  for (const bad of [
    [0x30, 0xff, 0xff, 0xff, 0x7f],
    [0x30, 0x80, 0x80, 0x80, 0x80],
    [0x30, 2, 9, 9],
    [0x20, 1, 0],
  ]) {
    assert.throws(() => new mqtt.Packets().push(Uint8Array.from(bad)), mqtt.MqttError);
  }
  assert.equal(mqtt.publish(1, "t", "x".repeat(200))[1], (205 & 0x7f) | 0x80);
});

test("configurations that cannot work are refused", async () => {
  const common = { host: "broker", cmnd_topic: "cmnd/x/POWER", stat_topic: "stat/x/POWER" };
  const refused = async (config: Given, message: RegExp) =>
    assert.rejects(createExporter({ name: "test", export: { plug: entry({ ...common, ...config }) } }), message);
  await refused({ cmnd_topic: undefined }, /cmnd_topic/);
  await refused({ stat_topic: "stat/+/POWER" }, /topic without wildcards/);
  await refused({ transport: "udp" }, /transport/);
  await refused({ timeout: 0 }, /more than 0/);
  await refused({ meter: true, cmnd_topic: "x/set" }, /meter: needs a cmnd_topic with cmnd/);
});

test("with Mosquitto", { skip: noMosquitto }, async (t) => {
  const broker = await startMosquitto(t);
  const device = await startTasmota(t, broker);
  const { username, password } = broker;
  const base = { host: "localhost", port: broker.port, tls: false, username, password, timeout: 5, ...device.config };

  await t.test("on and off over every transport", async (t) => {
    const { ca } = broker;
    const { plug, log } = await open(t, {
      tcp: base,
      named: { ...base, client_id: "exporter-1" },
      tls: { ...base, tls: true, ca, port: broker.tlsPort },
      websockets: { ...base, transport: "websockets", port: broker.websocketsPort },
      wss: { ...base, transport: "websockets", tls: true, ca, port: broker.websocketsTlsPort },
      unix: { ...base, transport: "unix", host: broker.socketPath, tls: true },
    });
    for (const name of ["tcp", "named", "tls", "websockets", "wss", "unix"]) {
      device.commands.length = 0;
      await plug(name).on();
      assert.equal(device.on, true, name);
      await plug(name).off();
      assert.deepEqual(device.commands, ["POWER ON", "POWER OFF"], name);
    }
    assert.ok(log.every((line) => !line.includes(password)));
  });

  await t.test("opening changes nothing; both ends of a lease switch off", async (t) => {
    const { exporter } = await open(t, { plug: base });
    device.on = true;
    device.commands.length = 0;
    await exporter.tree.reset();
    assert.deepEqual(device.commands, ["POWER OFF"]);
    device.on = true;
    await exporter.tree.release();
    assert.deepEqual(device.commands, ["POWER OFF", "POWER OFF"]);
    assert.equal(device.on, false);
  });

  await t.test("what the broker has kept is not the answer, nor is what was said before", async (t) => {
    const { plug } = await open(t, { plug: { ...base, timeout: 0.4 } });
    device.on = true;
    await device.tell();
    device.mood = "mute";
    device.commands.length = 0;
    await assert.rejects(plug().on(), {
      code: "E_TIMEOUT",
      message:
        "Tasmota plug tasmota_6990F2 did not say ON at stat/tasmota_6990F2/POWER; its last word was ON within 0.4 s",
    });
    assert.deepEqual(device.commands, ["POWER ON"]);
    // A late answer is an answer.
    const late = plug().off();
    setTimeout(() => {
      device.on = false;
      void device.tell();
    }, 200);
    await late;
    device.mood = "stuck";
    await assert.rejects(plug().on(), { code: "E_TIMEOUT", message: /its last word was OFF/ });
    device.mood = "well";
    await plug().on();
  });

  await t.test("an answer in JSON", async (t) => {
    const { plug } = await open(t, { plug: { ...base, stat_topic: "stat/tasmota_6990F2/RESULT" } });
    await plug().on();
    await plug().off();
    assert.equal(device.on, false);
  });

  await t.test("a meter tells voltage and current", async (t) => {
    const { plug } = await open(t, {
      plug: { ...base, meter: true },
      none: base,
      slow: { ...base, meter: true, timeout: 0.2 },
    });
    assert.deepEqual(await all(plug().read()), [{ voltage: 231, current: 0 }]);
    await assert.rejects(all(plug("none").read()), { code: "E_UNSUPPORTED" });
    device.mood = "mute";
    await assert.rejects(all(plug("slow").read()), { code: "E_TIMEOUT", message: /did not tell voltage and current/ });
    device.mood = "well";
  });

  await t.test("a plug that is away is named at once, before and during a call", async (t) => {
    const { exporter, plug, log } = await open(t, { plug: { ...base, timeout: 60 } });
    device.mood = "mute";
    const interrupted = assert.rejects(plug().on(), { code: "E_DEVICE_OFFLINE" });
    while (device.commands.at(-1) !== "POWER ON") await sleep(5);
    await device.unplug();
    await interrupted;
    device.mood = "well";
    device.commands.length = 0;
    const message = `Tasmota plug tasmota_6990F2 is offline, says the MQTT broker at localhost:${broker.port}`;
    await assert.rejects(plug().on(), { code: "E_DEVICE_OFFLINE", message });
    const [finding] = (await tasmota.inspect?.(tasmota.config.parse(base))) ?? [];
    assert.equal(finding?.ok, false);
    await exporter.tree.release(); // is told in the log, and does not hold up the lease's end
    assert.ok(
      log.some((line) => line.includes(message)),
      log.join("\n"),
    );
    await device.plug();
    assert.deepEqual(device.commands, [], "it was not commanded while it was away");
    await plug().on();
    const found = await tasmota.inspect?.(tasmota.config.parse(base));
    const text = `MQTT broker at localhost:${broker.port}: Tasmota plug tasmota_6990F2 is online`;
    assert.deepEqual(found, [{ ok: true, text }]);
  });

  await t.test("a broker that starts again", async (t) => {
    const { plug } = await open(t, { plug: base });
    await plug().off();
    // While a call waits: it is made again.
    device.mood = "mute";
    device.commands.length = 0;
    const refused = assert.rejects(plug().on(), { code: "E_CONNECTION", message: /^MQTT broker at localhost:\d+: / });
    while (device.commands.length === 0) await sleep(5);
    await broker.stop("SIGKILL");
    await refused;
    await assert.rejects(plug().on(), { code: "E_CONNECTION", message: /Connection refused|ECONNREFUSED/i });
    device.mood = "well";
    const back = device.plug();
    await broker.start();
    await back;
    await plug().on();
    assert.equal(device.on, true);
  });

  await t.test("a broker that does not let us in, or not listen, or speaks no TLS", async (t) => {
    const { plug, log } = await open(t, {
      stranger: { ...base, password: "guessed" },
      nobody: { ...base, username: undefined, password: undefined },
      deaf: { ...base, stat_topic: "secret/x/POWER" },
      plain: { ...base, tls: true },
      untrusted: { ...base, tls: true, port: broker.tlsPort },
      other: { ...base, tls: true, port: broker.tlsPort, host: "127.0.0.2", ca: broker.ca, timeout: 1 },
      noFile: { ...base, tls: true, port: broker.tlsPort, ca: "/no/such/ca.pem" },
    });
    const failed = (name: string, code: string, message: RegExp) => assert.rejects(plug(name).on(), { code, message });
    await failed("stranger", "E_CONNECTION", /refuses us: (not authorized|wrong user name or password)$/);
    await failed("nobody", "E_CONNECTION", /refuses us: not authorized$/);
    await failed("plain", "E_CONNECTION", /^MQTT broker at localhost:\d+: /);
    await failed("untrusted", "E_CONNECTION", /certificate/);
    await failed("other", "E_CONNECTION", /./);
    await failed("noFile", "E_CONNECTION", /No such file/i);
    assert.ok(!log.join().includes("guessed"));
    // This broker says yes and then nothing: it can only be seen by the silence.
    const { plug: quick } = await open(t, { deaf: { ...base, stat_topic: "secret/x/POWER", timeout: 0.3 } });
    await assert.rejects(quick("deaf").on(), { code: /E_TIMEOUT|E_FAILED/ });
  });

  await t.test("no state of somebody else's, and no wildcard of another client, is taken", async (t) => {
    const { plug } = await open(t, { plug: { ...base, timeout: 0.3 } });
    const stranger = await connectAsync({ host: "127.0.0.1", port: broker.port, protocol: "mqtt", username, password });
    t.after(() => stranger.endAsync());
    device.mood = "mute";
    const call = assert.rejects(plug().on(), { code: "E_TIMEOUT" });
    for (const topic of ["stat/other/POWER", "cmnd/tasmota_6990F2/OTHER", "tele/other/LWT"]) {
      await stranger.publishAsync(topic, topic.endsWith("LWT") ? "Offline" : "ON");
    }
    await call;
    device.mood = "well";
  });
});

/** A broker that takes connections and then does as `talk` says. */
async function falseBroker(
  t: TestContext,
  talk: (socket: Socket) => void,
): Promise<{ port: number; sockets: Set<Socket> }> {
  const sockets = new Set<Socket>();
  const server = createServer((socket) => {
    sockets.add(socket);
    socket
      .resume()
      .on("error", () => {})
      .on("close", () => sockets.delete(socket));
    talk(socket);
  }).listen(0, "127.0.0.1");
  await once(server, "listening");
  t.after(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
  return { port: (server.address() as { port: number }).port, sockets };
}

test("brokers that are silent, hang up or talk garbage, and callers who give up, leave nothing behind", async (t) => {
  const config = {
    host: "127.0.0.1",
    tls: false,
    timeout: 0.3,
    cmnd_topic: "cmnd/x/POWER",
    stat_topic: "stat/x/POWER",
  };
  const silent = await falseBroker(t, () => {});
  const rude = await falseBroker(t, (socket) => void socket.end());
  const babbling = await falseBroker(t, (socket) => void socket.write("HTTP/1.1 400 Bad Request\r\n\r\n"));
  const endless = await falseBroker(t, (socket) => void socket.write(Buffer.from([0x30, 0xff, 0xff, 0xff, 0xff])));
  const { plug } = await open(t, {
    silent: { ...config, port: silent.port },
    silentTls: { ...config, port: silent.port, tls: true },
    silentWebsocket: { ...config, port: silent.port, transport: "websockets" },
    patient: { ...config, port: silent.port, timeout: 60 },
    rude: { ...config, port: rude.port },
    babbling: { ...config, port: babbling.port },
    endless: { ...config, port: endless.port },
    nowhere: { ...config, host: "no-such-host.invalid" },
  });
  for (const name of ["silent", "silentTls", "silentWebsocket"]) {
    const message = `MQTT broker at 127.0.0.1:${silent.port} did not answer within 0.3 s`;
    await assert.rejects(plug(name).on(), { code: "E_TIMEOUT", message }, name);
  }
  await assert.rejects(plug("rude").on(), { code: "E_CONNECTION", message: /has cut the connection/ });
  await assert.rejects(plug("babbling").on(), { code: "E_CONNECTION" });
  await assert.rejects(plug("endless").on(), { code: "E_CONNECTION", message: /a length without end|a packet of/ });
  await assert.rejects(plug("nowhere").on(), { code: "E_CONNECTION", message: /ENOTFOUND|EAI_AGAIN|no-such-host/ });
  const given = new AbortController();
  const cancelled = plug("patient", given.signal).on();
  setTimeout(() => given.abort(new Error("enough")), 50);
  await assert.rejects(cancelled, /enough/);
  while (silent.sockets.size > 0) await sleep(10);
});

test("a message counts only if it is news, of this plug's state, after the command; and then the connection ends", async (t) => {
  const say = (first: number, topic: string, payload: string) => {
    const body = [topic.length >> 8, topic.length & 0xff, ...Buffer.from(topic + payload)];
    return Buffer.from([first, body.length, ...body]);
  };
  const [news, kept] = [0x30, 0x31];
  let last: Buffer[] = [];
  const { port, sockets } = await falseBroker(t, (socket) => {
    socket.on("data", (bytes: Buffer) => {
      // All that it is told is shorter than 128 bytes.
      for (let at = 0; at < bytes.length; at += 2 + (bytes[at + 1] ?? 0)) {
        const kind = (bytes[at] ?? 0) >> 4;
        if (kind === 1) socket.write(Buffer.from([0x20, 2, 0, 0]));
        if (kind === 8) {
          socket.write(Buffer.from([0x90, 4, bytes[at + 2] ?? 0, bytes[at + 3] ?? 0, 0, 0]));
          socket.write(say(news, "stat/x/POWER", "ON"));
        }
        if (kind === 12) socket.write(Buffer.from([0xd0, 0]));
        if (kind === 3) {
          const id = at + 4 + (bytes[at + 3] ?? 0);
          socket.write(Buffer.from([0x40, 2, bytes[id] ?? 0, bytes[id + 1] ?? 0]));
          for (const message of last) socket.write(message);
        }
      }
    });
  });
  const config = { host: "127.0.0.1", port, tls: false, cmnd_topic: "cmnd/x/POWER", stat_topic: "stat/x/POWER" };
  const { plug } = await open(t, { plug: config, quick: { ...config, timeout: 0.3 } });
  last = [
    say(kept, "stat/x/POWER", "ON"),
    say(news, "stat/y/POWER", "ON"),
    say(news, "tele/x/LWT", "ON"),
    say(news, "stat/x/POWER", "Offline"),
  ];
  await assert.rejects(plug("quick").on(), { code: "E_TIMEOUT", message: /did not say ON/ });
  last.push(say(news, "stat/x/POWER", "ON"));
  await plug().on();
  while (sockets.size > 0) await sleep(5);
});
