// ISO-TP over vcan: our state machine, the kernel's, and the programs of can-utils, each against the others.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { before, test, type TestContext } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { connect } from "../../../agent/client/connect.ts";
import { LogBus } from "../../../agent/driver/log.ts";
import type { CanFrame } from "../../../boards/can/bus.ts";
import { openBus } from "../../../boards/can/open.ts";
import { isoTp } from "../../../boards/isotp/interface.ts";
import { uds } from "../../../boards/uds/interface.ts";
import { startExporter } from "../../sim/exporter.ts";
import { clientEnv, clientProgram, missingClient, run } from "../../sim/python-client.ts";
import { ecuIds } from "../../sim/uds-on-can.ts";
import { UdsServer } from "../../sim/uds-server.ts";
import { exec, modprobe } from "./lib/system.ts";

const interfaces = ["iso0", "iso1"];
/** The guest is slow, but what hangs shall say so. */
const limit = { timeout: 120_000 };

before(async () => {
  for (const name of ["vcan", "can_raw"]) await modprobe(name);
  // Its limit is read-only, and another file may have loaded it.
  await exec("modprobe", "-r", "can_isotp");
  await modprobe("can_isotp", "max_pdu_size=1100000");
  for (const name of interfaces) {
    await exec("ip", "link", "add", "dev", name, "type", "vcan");
    await exec("ip", "link", "set", name, "mtu", "72", "up");
  }
});

interface End {
  readonly kernel?: boolean;
  readonly channel?: string;
  readonly address: Record<string, unknown>;
  readonly params?: Record<string, unknown>;
}

/** Drivers in one exporter, and typed clients of them. */
async function openEnds(t: TestContext, ...ends: End[]) {
  const entries = ends.map(({ kernel = false, channel = "iso0", address, params = {} }, index) => [
    `end${index}`,
    {
      type: `jumpstarter_driver_can.driver.${kernel ? "IsoTpSocket" : "IsoTpPython"}`,
      config: { channel, address, params, ...(kernel ? {} : { interface: "socketcan" }) },
    },
  ]);
  const { socketPath } = await startExporter(t, Object.fromEntries(entries) as never);
  const client = await connect({ host: socketPath });
  t.after(() => client.close());
  const clients = [];
  for (const index of ends.keys()) {
    const end = client.find(`end${index}`)?.as(isoTp);
    assert.ok(end);
    clients.push(end);
  }
  return clients as [(typeof clients)[0], (typeof clients)[0], ...typeof clients];
}

async function startEnds(t: TestContext, ...ends: End[]) {
  const clients = await openEnds(t, ...ends);
  for (const client of clients) await client.start();
  return clients;
}

type Client = Awaited<ReturnType<typeof openEnds>>[0];

const send = (client: Client, message: Buffer, seconds?: number) =>
  client.send({ data: message.toString("base64") }, undefined, seconds);

async function receive(client: Client, seconds: number): Promise<string | undefined> {
  const { data } = await client.recv(true, seconds);
  return data === null ? undefined : Buffer.from(data, "base64").toString("hex");
}

async function exchange(from: Client, to: Client, length: number): Promise<void> {
  const message = randomBytes(length);
  await send(from, message);
  assert.ok((await receive(to, 30)) === message.toString("hex"), `${length} bytes`);
}

const borders = [1, 6, 7, 8, 13, 14, 62, 63, 4094, 4095];

test("isotprecv receives what we send, isotpsend sends what we receive: 1 to 4095 bytes", limit, async (t) => {
  const [end] = await startEnds(t, { address: { txid: 0x7e0, rxid: 0x7e8 }, params: { blocking_send: true } });
  const isotprecv = spawn("stdbuf", ["-oL", "isotprecv", "-l", "-s", "7E8", "-d", "7E0", "-b", "5", "iso0"], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  t.after(() => isotprecv.kill());
  let printed = "";
  isotprecv.stdout.on("data", (chunk: Buffer) => (printed += chunk.toString()));
  // It has no word for: I listen.
  for (let tries = 0; ; tries += 1) {
    if (await end.send({ data: randomBytes(8).toString("base64") }).then(() => true, () => false)) break; // prettier-ignore
    assert.ok(tries < 20);
  }
  const lines = () => printed.trimEnd().split("\n");
  while (!printed.endsWith("\n")) await once(isotprecv.stdout, "data");
  const sent: string[] = [];
  for (const length of borders) {
    const message = randomBytes(length);
    sent.push(message.toString("hex"));
    await send(end, message);
    while (lines().length < sent.length + 1 || !printed.endsWith("\n")) await once(isotprecv.stdout, "data");
  }
  const received = lines().map((line) => line.replaceAll(" ", "").toLowerCase());
  assert.deepEqual(received.slice(1), sent);
  isotprecv.kill();
  await once(isotprecv, "close");

  for (const length of [7, 8, 4095]) {
    const message = randomBytes(length);
    const isotpsend = spawn("isotpsend", ["-s", "7E8", "-d", "7E0", "iso0"], { stdio: ["pipe", "inherit", "inherit"] });
    isotpsend.stdin.end(message.toString("hex").replaceAll(/../g, "$& "));
    assert.equal(await receive(end, 30), message.toString("hex"), `${length} bytes`);
    if (isotpsend.exitCode === null) await once(isotpsend, "close");
  }
});

const modes: [name: string, ours: Record<string, unknown>, theirs: Record<string, unknown>][] = [
  ["Normal_11bits", { txid: 0x7e0, rxid: 0x7e8 }, { txid: 0x7e8, rxid: 0x7e0 }],
  ["Normal_29bits", { txid: 0x18daf1, rxid: 0x18daf2 }, { txid: 0x18daf2, rxid: 0x18daf1 }],
  ["NormalFixed_29bits", { target_address: 0x33, source_address: 0xf1 }, { target_address: 0xf1, source_address: 0x33 }],
  ["Extended_11bits", { txid: 0x600, rxid: 0x6f1, target_address: 0x12, source_address: 0xf1 }, { txid: 0x6f1, rxid: 0x600, target_address: 0xf1, source_address: 0x12 }],
  ["Extended_29bits", { txid: 0x60000, rxid: 0x6f100, target_address: 0x12, source_address: 0xf1 }, { txid: 0x6f100, rxid: 0x60000, target_address: 0xf1, source_address: 0x12 }],
  ["Mixed_11bits", { txid: 0x701, rxid: 0x702, address_extension: 0x99 }, { txid: 0x702, rxid: 0x701, address_extension: 0x99 }],
  ["Mixed_29bits", { target_address: 0x33, source_address: 0xf1, address_extension: 0x99 }, { target_address: 0xf1, source_address: 0x33, address_extension: 0x99 }],
]; // prettier-ignore

const kinds: [params: Record<string, unknown>, lengths: number[]][] = [
  [{}, [1, 5, 6, 7, 8, 100]],
  [{ can_fd: true, tx_data_length: 64, bitrate_switch: true }, [1, 7, 8, 60, 61, 62, 63, 300]],
  [{ can_fd: true, tx_data_length: 16, tx_padding: 0x55 }, [1, 13, 14, 15, 100]],
];

for (const [mode, ours, theirs] of modes) {
  test(`${mode}: we and the kernel, both ways, classic and FD`, limit, async (t) => {
    const ends = kinds.flatMap(([more]): End[] => {
      const params = { ...more, blocking_send: true, max_frame_size: 5000 };
      return [
        { address: { ...ours, addressing_mode: mode }, params: { ...params, blocksize: 4 } },
        { kernel: true, address: { ...theirs, addressing_mode: mode }, params: { ...params, blocksize: 7 } },
      ];
    });
    const clients = await openEnds(t, ...ends);
    for (const [index, [, lengths]] of kinds.entries()) {
      const [we, kernel] = clients.slice(index * 2) as [Client, Client];
      await we.start();
      await kernel.start();
      const all = mode === "Normal_11bits" && index === 0 ? [...borders, 4096, 5000] : lengths;
      for (const length of all) {
        await exchange(we, kernel, length);
        await exchange(kernel, we, length);
      }
      await we.stop();
      await kernel.stop();
    }
  });
}

test("1 MiB with the escape sequence, to the kernel and from it", limit, async (t) => {
  const params = { blocking_send: true, max_frame_size: 1 << 20, can_fd: true, tx_data_length: 64 };
  const [we, kernel] = await startEnds(
    t,
    { address: { txid: 1, rxid: 2 }, params: { ...params, blocksize: 64 } },
    { kernel: true, address: { txid: 2, rxid: 1 }, params: { ...params, blocksize: 0 } },
  );
  await exchange(we, kernel, 1 << 20);
  await exchange(kernel, we, 1 << 20);
  await assert.rejects(send(kernel, Buffer.alloc(1_200_000)), /Invalid argument|too long/i);
});

/** Carries frames from one interface to the other, as `rule` says: how late in ms, or not at all. */
async function relay(t: TestContext, rule: (frame: CanFrame) => number | undefined): Promise<void> {
  const context = { log: new LogBus().logger({ source: "driver", logger: "test" }), sharedOnHost: assert.fail };
  const buses = await Promise.all(
    interfaces.map((channel) => openBus({ interface: "socketcan", channel }, context as never)),
  );
  t.after(() => {
    for (const bus of buses) bus.close();
  });
  for (const [index, bus] of buses.entries()) {
    bus.listen((frame) => {
      const lateMs = rule(frame);
      if (lateMs === undefined) return;
      const copy = { ...frame, data: Uint8Array.from(frame.data) };
      const pass = () => void buses[1 - index]?.send(copy).catch(() => {});
      if (lateMs === 0) pass();
      else setTimeout(pass, lateMs);
    });
  }
}

const kindOf = (frame: CanFrame) => ["single", "first", "consecutive", "flow"][(frame.data[0] ?? 0) >> 4];

for (const [who, kernelSends] of [["we send to the kernel", false], ["the kernel sends to us", true]] as const) {
  test(`${who}: lost and late frames are noticed, and the next message arrives`, limit, async (t) => {
    let disturb: { kind: string; number: number; lateMs: number | undefined } | undefined;
    let seen = 0;
    await relay(t, (frame) => {
      if (disturb === undefined || disturb.kind !== kindOf(frame)) return 0;
      seen += 1;
      return seen === disturb.number ? disturb.lateMs : 0;
    });
    const params = { blocking_send: true, blocksize: 4, rx_flowcontrol_timeout: 400, rx_consecutive_frame_timeout: 400 };
    const [sender, receiver] = await startEnds(
      t,
      { kernel: kernelSends, channel: "iso0", address: { txid: 1, rxid: 2 }, params },
      { kernel: !kernelSends, channel: "iso1", address: { txid: 2, rxid: 1 }, params },
    );
    const noFlow = /no flow control within/;
    const cases: [kind: string, number: number, lateMs: number | undefined, failure: RegExp | undefined][] = [
      ["flow", 1, undefined, noFlow],
      ["flow", 2, undefined, noFlow],
      ["flow", 1, 1_300, noFlow],
      ["first", 1, undefined, noFlow],
      // The last block has no answer: its sender cannot know.
      ["consecutive", 9, undefined, undefined],
      ["consecutive", 2, undefined, noFlow],
      ["consecutive", 3, 1_300, noFlow],
    ];
    for (const [kind, number, lateMs, failure] of cases) {
      seen = 0;
      disturb = { kind, number, lateMs };
      const what = `${kind} ${number} ${lateMs === undefined ? "lost" : "late"}`;
      const sending = send(sender, randomBytes(6 + 7 * 10));
      if (failure === undefined) await sending;
      else await assert.rejects(sending, failure, what);
      // What was late comes, and the receiver gives up.
      await sleep(lateMs === undefined ? 0 : 1_000);
      disturb = undefined;
      await exchange(sender, receiver, 76);
      assert.equal(await receive(receiver, 0), undefined, what);
    }
  });
} // prettier-ignore

test("a message that nobody answers keeps nobody waiting", limit, async (t) => {
  const [kernel] = await startEnds(t, { kernel: true, address: { txid: 5, rxid: 6 }, params: { blocking_send: true } });
  await assert.rejects(send(kernel, Buffer.alloc(100), 0.1), /Failed to send IsoTP frame in time/);
  await assert.rejects(send(kernel, Buffer.alloc(100)), /no flow control within 1000 ms/);
  let leastMs = Infinity;
  // The kernel itself lets a close wait for a second, each time; a busy machine delays some of them.
  for (let tries = 0; leastMs >= 500 && tries < 5; tries += 1) {
    const lost = send(kernel, Buffer.alloc(100)).catch((error: unknown) => String(error));
    const received = receive(kernel, 10).catch((error: unknown) => String(error));
    await sleep(50);
    leastMs = Math.min(leastMs, await longestTurnMs(() => kernel.stop()));
    assert.match(`${await lost} ${await received}`, /the socket was stopped.*the socket was stopped/);
    await kernel.start();
  }
  await kernel.stop();
  assert.ok(leastMs < 500, `${leastMs} ms`);
});

/** How long the event loop did not turn while something was done. */
async function longestTurnMs(work: () => Promise<unknown>): Promise<number> {
  let [mostMs, lastMs] = [0, performance.now()];
  const clock = setInterval(() => {
    const now = performance.now();
    mostMs = Math.max(mostMs, now - lastMs);
    lastMs = now;
  }, 10);
  try {
    await work();
    await sleep(20);
  } finally {
    clearInterval(clock);
  }
  return mostMs;
}

const version = "0.9.0";

test("the Python client drives the kernel's ISO-TP", { skip: missingClient(version), timeout: 90_000 }, async (t) => {
  const entry = (txid: number, rxid: number) => ({
    type: "jumpstarter_driver_can.driver.IsoTpSocket",
    config: { channel: "iso0", address: { txid, rxid }, params: { max_frame_size: 2048, can_fd: true } },
  });
  const { socketPath } = await startExporter(t, { a: entry(2, 1), b: entry(1, 2) });
  const { code, stdout, stderr } = await run(
    clientProgram(version, "python"),
    ["test/conformance/drive_isotp.py", "kernel"],
    { env: clientEnv(socketPath) },
  );
  assert.equal(code, 0, `${stdout}\n${stderr}`);
});

test("UDS with an ECU behind the kernel's ISO-TP, in messages of one frame and of hundreds", limit, async (t) => {
  const { socketPath } = await startExporter(t, {
    uds: { type: "jumpstarter_driver_uds_can.driver.UdsCan", config: { channel: "iso0", ...ecuIds } },
    ecu: {
      type: "jumpstarter_driver_can.driver.IsoTpSocket",
      config: { channel: "iso0", address: { txid: ecuIds.rxid, rxid: ecuIds.txid } },
    },
  });
  const client = await connect({ host: socketPath });
  t.after(() => client.close());
  const [tester, kernel] = [client.find("uds")?.as(uds), client.find("ecu")?.as(isoTp)];
  assert.ok(tester && kernel);
  const ecu = new UdsServer();
  await kernel.start();
  let isOver = false;
  const served = (async () => {
    while (!isOver) {
      const { data } = await kernel.recv(true, 0.1);
      for (const { message } of data === null ? [] : ecu.respond(Buffer.from(data, "base64"))) {
        await send(kernel, Buffer.from(message));
      }
    }
  })();
  await tester.tester_present();
  assert.equal((await tester.change_session("extended")).data, "0303e801f4");
  const value = randomBytes(4000).toString("hex");
  assert.equal((await tester.write_data_by_identifier(0x0100, value)).success, true);
  assert.deepEqual(await tester.read_data_by_identifier([0x0100]), [{ did: 0x0100, value }]);
  isOver = true;
  await served;
});
