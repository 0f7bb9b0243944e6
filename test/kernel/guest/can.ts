// CAN interfaces of the kernel: vcan, and two cards on one bus with controllers of their own (SJA1000).
import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { before, test, type TestContext } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { connect } from "../../../agent/client/connect.ts";
import { loadCanLinks } from "../../../agent/sys/rtnetlink.ts";
import { shippedDrivers } from "../../../agent/driver/catalog.ts";
import { can, type CanMessage } from "../../../boards/can/interface.ts";
import { startExporter } from "../../sim/exporter.ts";
import { python } from "./lib/exporter.ts";
import { exec, modprobe, waitFor } from "./lib/system.ts";

const type = "jumpstarter_driver_can.driver.Can";
/** So that a test that hangs says so by its own name. */
const limit = { timeout: 45_000 };

before(async () => {
  for (const name of ["vcan", "can_raw"]) await modprobe(name);
  await exec("ip", "link", "add", "dev", "vcan0", "type", "vcan");
  await exec("ip", "link", "set", "vcan0", "mtu", "72", "up");
});

function message(id: number, text: string, more: Partial<CanMessage> = {}): CanMessage {
  return {
    timestamp: 0,
    arbitration_id: id,
    is_extended_id: false,
    is_remote_frame: false,
    is_error_frame: false,
    channel: null,
    dlc: null,
    data: Buffer.from(text).toString("base64"),
    is_fd: false,
    is_rx: false,
    bitrate_switch: false,
    error_state_indicator: false,
    ...more,
  };
}

const hexOf = (received: CanMessage | null) => Buffer.from(received?.data ?? "", "base64").toString("hex");

/** An exporter with a driver for each configuration, and typed clients of them. */
async function startDrivers(t: TestContext, ...configs: Record<string, unknown>[]) {
  const entries = configs.map((config, index) => [
    `can${index}`,
    { type, config: { interface: "socketcan", ...config } },
  ]);
  const started = await startExporter(t, Object.fromEntries(entries) as never);
  const client = await connect({ host: started.socketPath });
  t.after(() => client.close());
  const buses = configs.map((_, index) => {
    const node = client.find(`can${index}`);
    assert.ok(node);
    return node.as(can);
  });
  return { ...started, buses: buses as [(typeof buses)[0], (typeof buses)[0]] };
}

test("what the driver sends, candump sees: classic, extended, remote, FD with BRS", limit, async (t) => {
  const { buses } = await startDrivers(t, { channel: "vcan0" });
  const candump = spawn("candump", ["-L", "-n", "5", "-T", "20000", "vcan0"], { stdio: ["ignore", "pipe", "inherit"] });
  t.after(() => candump.kill());
  const closed = once(candump, "close");
  let printed = "";
  candump.stdout.on("data", (chunk: Buffer) => (printed += chunk.toString()));
  // Beside the driver.
  const listening = async () => (await exec("cat", "/proc/net/can/rcvlist_all")).match(/vcan0 .* raw$/gm)?.length === 2;
  await waitFor("candump listens", listening);
  await buses[0].send_frames([
    message(0x123, "\u007f"),
    message(0x1f334455, "", { is_extended_id: true }),
    message(0x7ff, "", { is_remote_frame: true, dlc: 4 }),
    message(0x321, "0123456789", { is_fd: true, bitrate_switch: true }),
    message(0x322, "01", { is_fd: true }),
  ]);
  await closed;
  const lines = printed.trim().split("\n");
  assert.deepEqual(
    lines.map((line) =>
      line
        .split(" ")
        .slice(1)
        .join(" ")
        .replace(/ [TR]$/, ""),
    ),
    [
      "vcan0 123#7F",
      "vcan0 1F334455#",
      "vcan0 7FF#R4",
      // FD frames have 12 bytes, not 10; the flags with FDF, as newer kernels have it.
      lines[3]?.includes("##5") === true
        ? "vcan0 321##5303132333435363738390000"
        : "vcan0 321##1303132333435363738390000",
      lines[4]?.includes("##4") === true ? "vcan0 322##43031" : "vcan0 322##03031",
    ],
  );
});

test("what cansend sends, the driver receives, with the kernel's time stamps; error frames, too", limit, async (t) => {
  const { buses, exporter } = await startDrivers(t, { channel: "vcan0" });
  const said: string[] = [];
  exporter.logs.subscribe(({ message: text }) => said.push(text));
  const before = Date.now() / 1000;
  for (const frame of ["123#DEADBEEF", "1F334455#11", "321##1AABB", "7FF#R4", "20000040#0000000000000000"]) {
    await exec("cansend", "vcan0", frame);
  }
  const received: (CanMessage | null)[] = [];
  for (let count = 0; count < 5; count += 1) received.push((await buses[0]._recv_internal(10))[0]);
  assert.deepEqual(
    received.map((one) => [
      one?.arbitration_id,
      one?.is_extended_id,
      one?.is_fd,
      one?.bitrate_switch,
      one?.dlc,
      hexOf(one),
    ]),
    [
      [0x123, false, false, false, 4, "deadbeef"],
      [0x1f334455, true, false, false, 1, "11"],
      [0x321, false, true, true, 2, "aabb"],
      [0x7ff, false, false, false, 4, ""],
      [0x40, false, false, false, 8, "0000000000000000"],
    ],
  );
  assert.ok(received[3]?.is_remote_frame === true && received[4]?.is_error_frame === true);
  const stamps = received.map((one) => one?.timestamp ?? 0);
  assert.ok(
    stamps.every((stamp, index) => stamp >= (stamps[index - 1] ?? before - 0.01) && stamp <= Date.now() / 1000),
  );
  assert.ok(said.includes("vcan0: bus-off"), said.join("\n"));
  // It was only said so: the interface is not.
  await buses[0].send(message(1, "x"));
  assert.equal(await buses[0].channel_info(), "socketcan channel 'vcan0'");
  assert.equal(await buses[0].protocol(), 2);
  assert.equal(await buses[0].state(), 1);
  for (const refused of [buses[0].state(2), buses[0].flush_tx_buffer()]) {
    await assert.rejects(refused, { code: "E_UNSUPPORTED" });
  }
});

test("the kernel filters, and what waits already is filtered with it", limit, async (t) => {
  const { buses } = await startDrivers(t, { channel: "vcan0" }, { channel: "vcan0" });
  const ids = async () => {
    const found: number[] = [];
    for (;;) {
      const [one, filtered] = await buses[1]._recv_internal(0.1);
      assert.equal(filtered, true);
      if (one === null) return found;
      found.push(one.arbitration_id);
    }
  };
  const all = [message(1, ""), message(2, ""), message(3, "", { is_extended_id: true }), message(5, "")];
  await buses[0].send_frames(all);
  await waitFor("they have come", async () => (await buses[1].status()).queued_frames === 4);
  await buses[1]._apply_filters([{ can_id: 1, can_mask: 1, extended: false }]);
  await buses[0].send_frames(all);
  assert.deepEqual(await ids(), [1, 5, 1, 5]);
  assert.match(await exec("cat", "/proc/net/can/rcvlist_fil"), /vcan0 +001 +80000001/);
  await buses[1]._apply_filters(null);
  await buses[0].send_frames(all);
  assert.deepEqual(await ids(), [1, 2, 3, 5]);
});

test("a flood that nobody could fetch in time: each frame has come or is counted as lost", limit, async (t) => {
  const { buses } = await startDrivers(t, { channel: "vcan0" });
  const count = 20_000;
  // This process stands still meanwhile, so the kernel's buffer must overflow.
  execFileSync("cangen", ["vcan0", "-g", "0", "-n", String(count), "-I", "123", "-L", "8"]);
  // The kernel tells what it lost with the next frame.
  await exec("cansend", "vcan0", "7FF#");
  for (;;) {
    const { queued_frames, lost_frames } = await buses[0].status();
    const received = queued_frames + lost_frames;
    if (received === count + 1) {
      assert.ok(lost_frames > 0 && queued_frames > 0, `${lost_frames} lost`);
      return;
    }
    assert.ok(received < count + 1);
    await sleep(100);
  }
});

test("an interface that goes down or away takes its driver offline by name; it is back by itself", limit, async (t) => {
  await exec("ip", "link", "add", "dev", "vcan9", "type", "vcan");
  const { buses, exporter } = await startDrivers(t, { channel: "vcan9" });
  const offline = () => exporter.tree.drivers.find(({ planned }) => planned.name === "can0")?.offlineReason;
  assert.equal(offline(), "CAN interface vcan9 is down");
  await exec("ip", "link", "set", "vcan9", "up");
  await waitFor("up", async () => offline() === undefined);
  await buses[0].send(message(1, "x"));

  const waiting = assert.rejects(buses[0]._recv_internal(null), {
    message: "CAN interface vcan9 is down",
  });
  await buses[0].state();
  await exec("ip", "link", "set", "vcan9", "down");
  await waiting;
  await assert.rejects(buses[0].send(message(1, "x")), {
    message: "CAN interface vcan9 is down",
  });
  await exec("ip", "link", "set", "vcan9", "up");
  await waitFor("up again", async () =>
    buses[0].send(message(1, "x")).then(
      () => true,
      () => false,
    ),
  );

  // It goes down before it goes away.
  const gone = assert.rejects(buses[0]._recv_internal(null), { message: /^CAN interface vcan9 (is down|has gone)$/ });
  await buses[0].state();
  await exec("ip", "link", "delete", "vcan9");
  await gone;
  await waitFor("missing", async () => /^no CAN interface vcan9; there is .*vcan0/.test(offline() ?? ""));
  await exec("ip", "link", "add", "dev", "vcan9", "type", "vcan");
  await exec("ip", "link", "set", "vcan9", "up");
  await waitFor("back", async () => offline() === undefined);
  await buses[0].send(message(1, "x"));
  await exec("ip", "link", "delete", "vcan9");
});

test("two controllers: bit rate and state by netlink, set up once, frames from one to the other", limit, async (t) => {
  await modprobe("kvaser_pci");
  await waitFor("two cards", async () => (await exec("ip", "-br", "link")).match(/^can[01] /gm)?.length === 2);
  const wrong = await startDrivers(t, { channel: "can0" });
  await assert.rejects(wrong.buses[0].state(), { message: "CAN interface can0 is down" });
  await wrong.exporter.close();

  const config = { bitrate: 500_000, restart_ms: 100 };
  const { buses, exporter } = await startDrivers(t, { channel: "can0", ...config }, { channel: "can1", ...config });
  assert.match(
    await exec("ip", "-details", "link", "show", "can0"),
    /state ERROR-ACTIVE .*restart-ms 100.*bitrate 500000/s,
  );
  const { bitrate, state, send_errors, bus_offs } = await buses[0].status();
  assert.deepEqual({ bitrate, state, bus_offs }, { bitrate: 500_000, state: "error-active", bus_offs: 0 });
  assert.ok(send_errors === null || send_errors === 0);
  assert.equal(await buses[0].protocol(), 1);
  await buses[0].send(message(0x55, "hello"));
  const [received] = await buses[1]._recv_internal(10);
  assert.deepEqual([received?.arbitration_id, hexOf(received), received?.is_rx], [0x55, "68656c6c6f", true]);
  await assert.rejects(buses[0].send(message(1, "x", { is_fd: true })), {
    code: "E_INVALID",
    message: /classic CAN frames only/,
  });
  await assert.rejects(buses[0].restart(), { code: "E_FAILED", message: "CAN interface can0 is not bus-off" });

  // More than the interface's queue (10 frames) and the controller hold: who sends waits for room.
  const count = 200;
  await buses[0].send_frames(
    Array.from({ length: count }, (_, index) => message(index, "12345678")),
    10,
  );
  for (let index = 0; index < count; index += 1) {
    assert.equal((await buses[1]._recv_internal(10))[0]?.arbitration_id, index);
  }

  // A driver whose settings hold already leaves the link alone.
  const index = (await loadCanLinks()).list().find(({ name }) => name === "can0")?.index;
  await exporter.tree.release();
  await exporter.tree.reset();
  assert.equal((await loadCanLinks()).list().find(({ name }) => name === "can0")?.index, index);
  await exec("ip", "link", "set", "can0", "down");
  await waitFor("set up again", async () =>
    buses[0].status().then(
      (status) => status.state === "error-active",
      () => false,
    ),
  );

  const driver = await shippedDrivers.load(type);
  const [finding] = (await driver?.inspect?.({ interface: "socketcan", channel: "can0" })) ?? [];
  assert.deepEqual(finding, {
    ok: true,
    text: "CAN interface can0 up, ERROR-ACTIVE, 500 kbit/s, restarts 100 ms after bus-off",
  });
  const suggested = (await driver?.suggest?.()) ?? [];
  assert.deepEqual(suggested.map(({ name }) => name).sort(), ["can0", "can1", "vcan0"]);
});

test(
  "a bit rate that the controller cannot have, and one for what has no controller, are refused with a reason",
  limit,
  async (t) => {
    await assert.rejects(startDrivers(t, { channel: "vcan0", bitrate: 500_000 }), {
      message: "can0: CAN interface vcan0 (vcan) has no bit rate to set",
    });
    await assert.rejects(startDrivers(t, { channel: "can1", bitrate: 7_999_999 }), {
      message: /CAN interface can1 cannot be set up so/,
    });
    assert.match(await exec("ip", "-br", "link", "show", "can1"), /can1 +UP/, "as it was");
  },
);

test("the Python client on vcan", { timeout: 120_000 }, async (t) => {
  const config = { interface: "socketcan", channel: "vcan0" };
  const { socketPath } = await startExporter(t, { socketcan_1: { type, config }, socketcan_2: { type, config } });
  assert.match(await python(socketPath, "test/conformance/drive_can.py", ["socketcan"]), /passed socketcan/);
});
