// GPIO lines of the kernel's simulator, through a session of the agent.
import assert from "node:assert/strict";
import { readdirSync, renameSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { test, type TestContext } from "node:test";
import { connect } from "../../../agent/client/connect.ts";
import type { Entry } from "../../../agent/driver/entry.ts";
import type { AgentError } from "../../../agent/driver/errors.ts";
import type { Interface } from "../../../agent/driver/interface.ts";
import { openChip } from "../../../agent/sys/gpio.ts";
import { inspectLine, powerSwitch } from "../../../boards/gpio/driver.ts";
import { digitalInput, digitalOutput, gpioPower } from "../../../boards/gpio/interface.ts";
import { startExporter } from "../../sim/exporter.ts";
import { clientEnv, clientProgram, missingClient, run } from "../../sim/python-client.ts";
import { eventually } from "../../sim/rig.ts";
import { mcp2221 } from "../../sim/usbip/mcp2221.ts";
import { plugUsb } from "../../sim/usbip/plug.ts";
import { plugGpio } from "./lib/gpio-sim.ts";
import { modprobe } from "./lib/system.ts";

const types = "jumpstarter_driver_gpiod.driver.";
const output = (config: Record<string, unknown>) => ({ type: `${types}DigitalOutput`, config });
const input = (config: Record<string, unknown>) => ({ type: `${types}DigitalInput`, config });
const power = (config: Record<string, unknown>) => ({ type: `${types}PowerSwitch`, config });

let chips = 0;
async function chip(t: TestContext, names: Record<number, string> = {}, hogs: Record<number, string> = {}) {
  const label = `lab-${(chips += 1)}`;
  const sim = await plugGpio(`test${chips}`, { label, lines: 8, names, hogs });
  let plugged = true;
  const unplug = () => {
    if (plugged) sim.unplug();
    plugged = false;
  };
  t.after(unplug);
  return { ...sim, label, unplug };
}

async function start(t: TestContext, drivers: Record<string, Entry>) {
  const { exporter, socketPath } = await startExporter(t, drivers);
  const client = await connect({ host: socketPath });
  t.after(() => client.close());
  const as = <I extends Interface>(name: string, wanted: I, signal?: AbortSignal) => {
    const node = client.find(name);
    assert.ok(node);
    return node.as(wanted, signal === undefined ? {} : { signal });
  };
  const offline = (name: string) => exporter.tree.drivers.find(({ planned }) => planned.path === name)?.offlineReason;
  return { exporter, socketPath, as, offline };
}

/** As a client sees it: of a device that is offline it learns that it is unavailable. */
const fails = (code: AgentError["code"], message: RegExp) => (error: unknown) => {
  assert.equal((error as AgentError).code, code, String(error));
  assert.match((error as AgentError).message, message);
  return true;
};

test("an output is left alone until a lease begins, and is then what it is told", async (t) => {
  const sim = await chip(t, { 3: "RELAY" });
  // Somebody has left it high.
  const left = await openChip(`/dev/${sim.name}`);
  const line = await left.request(
    3,
    { direction: "output", activeLow: false, bias: "as_is", drive: "push_pull", active: true },
    "before",
  );
  await line.close();
  await left.close();
  const { exporter, as } = await start(t, {
    relay: output({ device: sim.label, line: 3 }),
    low: output({ device: `/dev/${sim.name}`, line: 4, active_low: true, initial_value: "on" }),
    kept: power({ device: sim.name, line: 5, keep: true, initial_value: "active" }),
  });
  const relay = as("relay", digitalOutput);
  const before = sim.level(3);
  assert.equal(await relay.read_pin(), before, "as it was");
  const said: string[] = [];
  exporter.logs.subscribe(({ message }) => message.startsWith("line") && said.push(message));
  await relay.on();
  assert.equal(sim.level(3), 1);
  assert.deepEqual(said, ["line 3 (RELAY) on() -> pin reads: active"]);
  assert.equal(await relay.read_pin(), 1);
  await exporter.tree.reset();
  assert.equal(sim.level(3), 0, "a lease begins with the initial value");
  assert.equal(sim.level(4), 0, "active is low here");
  assert.equal(await as("low", digitalOutput).read_pin(), 1);
  assert.equal(sim.level(5), 0, "keep");
  await relay.off();
  assert.equal(sim.level(3), 0);
  const kept = as("kept", gpioPower);
  await kept.on();
  await exporter.tree.reset();
  await exporter.tree.release();
  assert.equal(sim.level(5), 1, "keep, through leases");
  await assert.rejects(
    async () => {
      for await (const _ of kept.read());
    },
    fails("E_UNSUPPORTED", /no meter/),
  );
});

test("an agent that is started again does not switch a board's power", async (t) => {
  const sim = await chip(t);
  const entry = { power: power({ device: sim.label, line: 1 }) };
  const first = await startExporter(t, entry);
  await first.exporter.calls("power", gpioPower).on();
  await first.exporter.close();
  const levels = new Set([sim.level(1)]);
  const second = await startExporter(t, entry);
  levels.add(sim.level(1));
  await second.exporter.calls("power", gpioPower).read_pin();
  levels.add(sim.level(1));
  assert.equal(levels.size, 1, "whatever the chip does with a line that is let go, we do nothing");
});

test("waits see levels and edges that come after the call, and end in time or when they are cancelled", async (t) => {
  const sim = await chip(t, { 2: "BUTTON" });
  const { as } = await start(t, { button: input({ line: "BUTTON" }) });
  const button = as("button", digitalInput);
  assert.equal(await button.read_pin(), 0);
  await button.wait_for_inactive();
  await assert.rejects(button.wait_for_active(0.05), fails("E_TIMEOUT", /^Timed out waiting for line 2 edge event$/));
  // An edge before the call does not count.
  sim.pull(2, "up");
  sim.pull(2, "down");
  await assert.rejects(button.wait_for_edge("rising", 0.05), fails("E_TIMEOUT", /line 2/));
  const waiting = Promise.all([button.wait_for_active(), button.wait_for_edge("rising", 30)]);
  await sleep(100);
  sim.pull(2, "up");
  await waiting;
  assert.equal(await button.read_pin(), 1);
  await button.wait_for_active(null);
  const falling = button.wait_for_edge("falling", 0);
  await sleep(100);
  sim.pull(2, "down");
  await falling;
  await assert.rejects(
    button.wait_for_edge("both" as "rising"),
    fails("E_INVALID", /Invalid edge type: both, must be one of: rising, falling/),
  );
  const giveUp = new AbortController();
  const cancelled = as("button", digitalInput, giveUp.signal).wait_for_active();
  await sleep(50);
  giveUp.abort();
  await assert.rejects(cancelled);
});

test("edges have the kernel's times, and none is lost between two", async (t) => {
  const sim = await chip(t);
  const { as } = await start(t, { line: input({ device: sim.label, line: 6, active_low: true }) });
  const begun = process.hrtime.bigint();
  const seen: { level: number; edge: string | null; timestamp_ns: number; missed: number; time_s: number }[] = [];
  for await (const item of as("line", digitalInput).watch()) {
    seen.push(item);
    if (seen.length === 1) {
      for (let count = 0; count < 10; count += 1) {
        sim.pull(6, "up");
        sim.pull(6, "down");
      }
    }
    if (seen.length === 21) break;
  }
  assert.equal(seen[0]?.edge, null);
  assert.equal(seen[0]?.level, 1, "low is active");
  assert.deepEqual(
    seen.slice(1).map(({ edge, level }) => `${edge} ${level}`),
    Array.from({ length: 20 }, (_, index) => (index % 2 === 0 ? "falling 0" : "rising 1")),
  );
  const times = seen.map(({ timestamp_ns }) => timestamp_ns);
  assert.deepEqual(
    times,
    [...times].sort((a, b) => a - b),
  );
  assert.ok((times[0] ?? 0) >= Number(begun) && (times[20] ?? 0) <= Number(process.hrtime.bigint()));
  assert.ok(Math.abs((seen[20]?.time_s ?? 0) - Date.now() / 1_000) < 10);
  assert.ok(seen.every(({ missed }) => missed === 0));
});

test("bias pulls, debounce swallows, and open drain lets go", async (t) => {
  const sim = await chip(t);
  const { as } = await start(t, {
    pulled: input({ device: sim.label, line: 0, bias: "pull_up" }),
    slow: input({ device: sim.label, line: 1, debounce_ms: 200 }),
    drain: output({ device: sim.label, line: 2, drive: "open_drain", bias: "pull_up" }),
  });
  assert.equal(sim.pulled(0), "pull-up");
  assert.equal(await as("pulled", digitalInput).read_pin(), 1);
  const slow = as("slow", digitalInput);
  const edge = slow.wait_for_edge("rising", 0.5);
  await sleep(50);
  sim.pull(1, "up");
  await sleep(5);
  sim.pull(1, "down");
  await assert.rejects(edge, fails("E_TIMEOUT", /line 1/));
  const chipFile = await openChip(`/dev/${sim.name}`);
  t.after(() => chipFile.close());
  assert.equal((await chipFile.lineInfo(1)).debounceUs, 200_000);
  await as("drain", digitalOutput).on();
  const info = await chipFile.lineInfo(2);
  assert.deepEqual(
    [info.drive, info.bias, info.direction, info.consumer],
    ["open_drain", "pull_up", "output", "jumpstarter-gpiod"],
  );
});

test("a line that somebody has is told with its name, and comes when it is free", async (t) => {
  const sim = await chip(t, { 0: "LED" }, { 0: "hogger" });
  const holder = await openChip(`/dev/${sim.name}`);
  t.after(() => holder.close());
  const held = await holder.request(1, { direction: "as_is", activeLow: false }, "somebody else");
  const { as, offline } = await start(t, {
    hogged: output({ device: sim.label, line: "LED" }),
    held: input({ device: sim.label, line: 1 }),
    free: input({ device: sim.label, line: 2 }),
    beyond: input({ device: sim.label, line: 8 }),
    nameless: input({ device: sim.label, line: "NO_SUCH" }),
    chipless: input({ device: "no-such-label", line: 0 }),
  });
  assert.match(offline("hogged") ?? "", /^line 0 \(LED\) of gpiochip\d+ \[lab-\d+\] is in use by 'hogger'$/);
  assert.match(offline("held") ?? "", /^line 1 of .* is in use by 'somebody else'$/);
  assert.match(offline("beyond") ?? "", /has the lines 0 to 7, and no line 8$/);
  assert.match(offline("nameless") ?? "", /^no line is called 'NO_SUCH' on gpiochip/);
  assert.match(offline("chipless") ?? "", /^there is no GPIO chip labelled 'no-such-label'; there is .*lab-/);
  assert.equal(await as("free", digitalInput).read_pin(), 0);
  await assert.rejects(as("held", digitalInput).read_pin(), fails("E_CONNECTION", /in use by 'somebody else'/));
  await held.close();
  await eventually("it is free", () => offline("held") === undefined);
});

test("a name that two chips have is refused, with both", async (t) => {
  const [first, second] = [await chip(t, { 0: "TWICE" }), await chip(t, { 5: "TWICE", 6: "MAIN_POWER" })];
  const { offline } = await start(t, {
    line: input({ line: "TWICE" }),
    one: input({ line: "TWICE", device: second.label }),
  });
  assert.match(offline("line") ?? "", /^2 lines are called 'TWICE': line 0 .* and line 5 .*; say which/);
  assert.equal(offline("one"), undefined);
  const [finding] = await inspectLine({ line: 5, device: second.label });
  assert.match(finding?.text ?? "", /^line 5 \(TWICE\) of .*, input, used by 'jumpstarter-gpiod'$/);
  const suggestions = (await powerSwitch.suggest?.()) ?? [];
  assert.deepEqual(
    suggestions.map(({ name, entry }) => [name, entry]),
    [["main-power", { type: `${types}PowerSwitch`, config: { device: second.label, line: 6 } }]],
  );
  assert.notEqual(first.name, second.name);
});

test("a chip that is unplugged takes its drivers offline, ends what waits, and comes back", async (t) => {
  const sim = await chip(t);
  const { as, offline } = await start(t, {
    out: output({ device: sim.label, line: 0 }),
    in: input({ device: sim.label, line: 1 }),
  });
  await as("out", digitalOutput).on();
  const waiting = as("in", digitalInput).wait_for_active();
  waiting.catch(() => {});
  await sleep(100);
  sim.unplug();
  await assert.rejects(waiting, fails("E_CONNECTION", /^line 1 of gpiochip\d+ \[lab-\d+\] has gone with its chip$/));
  await eventually("both are offline", () => offline("out") !== undefined && offline("in") !== undefined);
  await assert.rejects(as("out", digitalOutput).on(), fails("E_CONNECTION", /lab-\d+/));
  const again = await plugGpio("again", { label: sim.label, lines: 8 });
  t.after(() => again.unplug());
  const began = performance.now();
  await eventually("both are back", () => offline("out") === undefined && offline("in") === undefined);
  console.log(`back after ${Math.round(performance.now() - began)} ms`);
  await as("out", digitalOutput).on();
  assert.equal(again.level(0), 1);
});

test("without character devices, lines are driven and watched through sysfs", async (t) => {
  const sim = await chip(t);
  const nodes = readdirSync("/dev").filter((name) => name.startsWith("gpiochip"));
  for (const name of nodes) renameSync(`/dev/${name}`, `/dev/hidden-${name}`);
  t.after(() => {
    for (const name of nodes) renameSync(`/dev/hidden-${name}`, `/dev/${name}`);
  });
  const { exporter, as, offline } = await start(t, {
    out: output({ device: sim.label, line: 0, active_low: true, initial_value: "active" }),
    in: input({ device: sim.name, line: 1 }),
    biased: input({ device: sim.label, line: 2, bias: "pull_up" }),
    named: input({ line: "SOMETHING" }),
  });
  assert.match(offline("biased") ?? "", /^bias and debounce_ms need the GPIO character device/);
  assert.match(offline("named") ?? "", /^there is no GPIO chip$/);
  assert.deepEqual([offline("out"), offline("in")], [undefined, undefined]);
  const [out, watched] = [as("out", digitalOutput), as("in", digitalInput)];
  await exporter.tree.reset();
  assert.equal(sim.level(0), 0);
  assert.equal(await out.read_pin(), 1);
  await out.off();
  assert.equal(sim.level(0), 1);
  await out.on();
  assert.equal(sim.level(0), 0);
  const waiting = watched.wait_for_active(30);
  await sleep(100);
  sim.pull(1, "up");
  await waiting;
  assert.equal(await watched.read_pin(), 1);
  await exporter.close();
  assert.deepEqual(
    readdirSync("/sys/class/gpio").filter((name) => /^gpio\d+$/.test(name)),
    [],
    "nothing stays exported",
  );
});

test("pins of the older package: found at the header, left alone, and as silent as their clients expect", async (t) => {
  const first = await chip(t);
  const header = await plugGpio("header", { label: "pinctrl-bcm2711", lines: 28 });
  t.after(() => header.unplug());
  const pins = "jumpstarter_driver_raspberrypi.driver.";
  const { exporter, as } = await start(t, {
    led: { type: `${pins}DigitalOutput`, config: { pin: "BOARD11" } },
    drain: { type: `${pins}PowerSwitch`, config: { pin: 4, open_drain: true, initial_value: "on" } },
    button: { type: `${pins}DigitalInput`, config: { pin: "J8:3", old_client: true } },
    elsewhere: { type: `${pins}DigitalInput`, config: { pin: 3, device: first.label } },
  });
  header.pull(17, "up");
  // An open drain lets go of the line when it is active.
  header.pull(4, "up");
  const led = as("led", digitalOutput);
  await exporter.tree.reset();
  assert.equal(await led.read_pin(), 1, "still an input");
  await led.off();
  assert.equal(header.level(17), 0);
  assert.equal(await as("drain", gpioPower).read_pin(), 1);
  assert.equal(await as("button", digitalInput).wait_for_active(0.05), null);
  await assert.rejects(as("elsewhere", digitalInput).wait_for_active(0.05), fails("E_TIMEOUT", /line 3 edge event/));
});

test("a chip without interrupts, on USB, is watched by looking", async (t) => {
  await modprobe("usbhid");
  await modprobe("hid-mcp2221");
  const adapter = mcp2221();
  await plugUsb(t, adapter);
  const { as, offline } = await start(t, {
    out: output({ device: "mcp2221_gpio", line: 0 }),
    in: input({ device: "mcp2221_gpio", line: 1 }),
  });
  await eventually("its chip is there", () => offline("out") === undefined && offline("in") === undefined);
  await as("out", digitalOutput).on();
  assert.equal(adapter.driven[0], 1);
  const waiting = as("in", digitalInput).wait_for_edge("rising", 30);
  await sleep(200);
  adapter.levels[1] = 1;
  await waiting;
  assert.equal(await as("in", digitalInput).read_pin(), 1);
});

test("the Python client drives lines", { skip: missingClient("0.9.0") }, async (t) => {
  let pushing: NodeJS.Timeout | undefined;
  // Before the chip goes, whose lines are pushed.
  t.after(() => clearInterval(pushing));
  const sim = await chip(t, { 0: "RELAY" });
  const { exporter, socketPath } = await start(t, {
    out: output({ device: sim.label, line: 0 }),
    in: input({ device: sim.label, line: 1 }),
    power: power({ device: sim.label, line: 2 }),
    pin: { type: "jumpstarter_driver_raspberrypi.driver.DigitalOutput", config: { pin: "GPIO3", device: sim.label } },
  });
  // The power switch of this board is also a button, which is pushed again and again once the power is off.
  exporter.logs.subscribe(({ message }) => {
    if (message.startsWith("line 2 on()")) setTimeout(() => sim.pull(1, "up"), 300);
    if (!message.startsWith("line 2 off()")) return;
    let high = true;
    pushing = setInterval(() => {
      high = !high;
      sim.pull(1, high ? "up" : "down");
    }, 100);
  });
  const { code, stdout, stderr } = await run(clientProgram("0.9.0", "python"), ["test/conformance/drive_gpio.py"], {
    env: clientEnv(socketPath),
  });
  assert.equal(code, 0, `${stdout}\n${stderr}`);
  assert.match(stdout, /passed gpio/);
  assert.deepEqual([sim.level(0), sim.level(2), sim.level(3)], [1, 0, 1]);
});
