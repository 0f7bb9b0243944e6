// Chips that the kernel's i2c-stub plays, through a session of the agent. What they hold is set and read with i2c-tools.
import assert from "node:assert/strict";
import { readdirSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { before, test, type TestContext } from "node:test";
import { connect } from "../../../agent/client/connect.ts";
import type { Entry } from "../../../agent/driver/entry.ts";
import type { AgentError } from "../../../agent/driver/errors.ts";
import { openI2c } from "../../../agent/sys/i2c.ts";
import driver from "../../../boards/i2c/driver.ts";
import { i2c } from "../../../boards/i2c/interface.ts";
import meter from "../../../boards/i2c/power-meter.ts";
import { findAdapter } from "../../../boards/i2c/transport.ts";
import { power } from "../../../boards/power/interface.ts";
import { startExporter } from "../../sim/exporter.ts";
import { mcp2221, type I2cChip } from "../../sim/usbip/mcp2221.ts";
import { plugUsb } from "../../sim/usbip/plug.ts";
import { exec, modprobe, waitFor } from "./lib/system.ts";

const label = "SMBus stub driver";
let bus = "";

before(async () => {
  // Another file may have loaded it for other addresses.
  await exec("modprobe", "-r", "i2c-stub");
  await modprobe("i2c-stub", "chip_addr=0x40,0x41,0x45,0x50,0x51");
  await modprobe("i2c-dev");
  bus = (await findAdapter(label)).name.slice("i2c-".length);
});

async function start(t: TestContext, drivers: Record<string, Entry>) {
  const { exporter, socketPath } = await startExporter(t, drivers);
  const client = await connect({ host: socketPath });
  t.after(() => client.close());
  const node = (name: string) => {
    const found = client.find(name);
    assert.ok(found);
    return found;
  };
  const offline = (name: string) => exporter.tree.drivers.find(({ planned }) => planned.path === name)?.offlineReason;
  return { exporter, node, offline };
}

/** A register of 16 bits as the chip sends it, high byte first; SMBus takes the low one first. */
async function setRegister(address: number, register: number, value: number): Promise<void> {
  const swapped = ((value & 0xff) << 8) | ((value >> 8) & 0xff);
  await exec("i2cset", "-y", bus, `${address}`, `${register}`, `${swapped}`, "w");
}

const fails = (code: AgentError["code"], message: RegExp) => (error: unknown) => {
  assert.equal((error as AgentError).code, code, String(error));
  assert.match((error as AgentError).message, message);
  return true;
};

test("bytes, words and blocks are those that other programs see", async (t) => {
  const { node } = await start(t, { bus: { type: "jumpstarter_agent.I2c", config: { bus: label } } });
  const calls = node("bus").as(i2c);
  await calls.write(0x50, [0x10, 0xab]);
  assert.equal(await exec("i2cget", "-y", bus, "0x50", "0x10"), "0xab\n");
  await exec("i2cset", "-y", bus, "0x50", "0x20", "0x42");
  assert.deepEqual(await calls.transfer("0x50", [{ write: [0x20] }, { read: 1 }]), [[0x42]]);
  await calls.write(0x50, [0x30, 1, 2, 3, 4, 5]);
  assert.deepEqual(await calls.transfer(0x50, [{ write: [0x30] }, { read: 5 }]), [[1, 2, 3, 4, 5]]);
  assert.equal(await exec("i2cget", "-y", bus, "0x50", "0x34"), "0x05\n");
  await calls.write(0x51, [0x00, 0x12, 0x34]);
  assert.equal(await exec("i2cget", "-y", bus, "0x51", "0x00", "w"), "0x3412\n");
  assert.deepEqual(await calls.transfer(0x51, [{ write: [0x00] }, { read: 2 }]), [[0x12, 0x34]]);
  await calls.write(0x51, [0x34]);
  // The stub reads on after the register that was written last.
  assert.deepEqual((await calls.read(0x51, 1)).length, 1);
  await Promise.all([calls.write(0x50, [1, 0x50]), calls.write(0x51, [1, 0x51]), calls.write(0x40, [1, 0x40, 0])]);
  assert.equal(await exec("i2cget", "-y", bus, "0x50", "1"), "0x50\n");
  assert.equal(await exec("i2cget", "-y", bus, "0x51", "1"), "0x51\n");

  await assert.rejects(calls.read(0x50, 3), fails("E_UNSUPPORTED", /SMBus stub driver.* cannot send these messages/));
  await assert.rejects(
    calls.read(0x22, 1),
    fails("E_IO", /^no chip answers at 0x22 on i2c-\d+ \[SMBus stub driver\]$/),
  );
  await assert.rejects(
    calls.read(0x03, 1),
    fails("E_INVALID", /0x03 is not among those that may be used: 0x08 to 0x77/),
  );
  await assert.rejects(calls.write(0x50, [256]), fails("E_INVALID", /argument 2/));
});

test("only addresses that are listed, and no chip that a driver of the kernel has", async (t) => {
  await exec("sh", "-c", `echo lm75 0x51 > /sys/bus/i2c/devices/i2c-${bus}/new_device`);
  t.after(() => exec("sh", "-c", `echo 0x51 > /sys/bus/i2c/devices/i2c-${bus}/delete_device`));
  await modprobe("lm75");
  const { node } = await start(t, {
    bus: { type: "jumpstarter_agent.I2c", config: { bus: `/dev/i2c-${bus}`, addresses: ["0x51"] } },
  });
  const calls = node("bus").as(i2c);
  await assert.rejects(calls.write(0x50, [0]), fails("E_INVALID", /0x50 is not among those that may be used: 0x51$/));
  await assert.rejects(calls.write(0x51, [0]), fails("E_IO", /0x51 on .* is in use by the kernel's driver lm75$/));
});

test("the kernel takes our messages for plain I2C, which this adapter cannot send", async () => {
  const opened = await openI2c(`/dev/i2c-${bus}`);
  try {
    assert.equal(opened.can("I2C"), false);
    // A structure or pointer that is wrong would be EINVAL or EFAULT.
    await assert.rejects(opened.transfer(0x50, [{ write: Uint8Array.of(1) }, { read: 8_192 }]), { code: "ENOTSUP" });
  } finally {
    await opened.close();
  }
});

test("power meters: volts and amperes from registers, by model, and a switch beside", async (t) => {
  await setRegister(0x40, 0xfe, 0x5449);
  await setRegister(0x40, 0xff, 0x2260);
  await setRegister(0x40, 0x00, 0x4127);
  await setRegister(0x40, 0x01, 4_000); // 10 mV
  await setRegister(0x40, 0x02, 9_600); // 12 V
  await setRegister(0x41, 0x00, 0x399f);
  await setRegister(0x41, 0x01, -1_000 & 0xffff); // -10 mV
  await setRegister(0x41, 0x02, 1_250 << 3); // 5 V
  await setRegister(0x45, 0xfe, 0x5449);
  await setRegister(0x45, 0xff, 0x2270);
  await setRegister(0x45, 0x00, 0x6120); // asleep
  await setRegister(0x45, 0x01, 800); // 1 A
  await setRegister(0x45, 0x02, 2_640); // 3.3 V
  await setRegister(0x45, 0x06, 1 << 3); // conversion ready
  const entry = (config: Record<string, unknown>) => ({
    type: "jumpstarter_agent.PowerMeter",
    config: { bus: Number(bus), interval_s: 0.05, ...config },
  });
  const { exporter, node, offline } = await start(t, {
    "12v": {
      ...entry({ model: "INA226", shunt_ohms: 0.01 }),
      children: { power: { type: "jumpstarter_driver_power.driver.MockPower" } },
    },
    "5v": entry({ model: "ina219", address: "0x41", shunt_ohms: 0.1 }),
    "3v3": entry({ model: "ina260", address: 0x45 }),
    wrong: entry({ model: "ina226", address: 0x45, shunt_ohms: 0.01 }),
    missing: entry({ model: "ina219", address: 0x44, shunt_ohms: 0.1 }),
  });
  const first = async (name: string) => {
    for await (const reading of node(name).as(power).read()) return reading;
    return undefined;
  };
  assert.deepEqual(await first("12v"), { voltage: 12, current: 1 });
  assert.deepEqual(await first("5v"), { voltage: 5, current: -0.1 });
  assert.deepEqual(await first("3v3"), { voltage: 3.3, current: 1 });
  assert.equal(await exec("i2cget", "-y", bus, "0x45", "0", "w"), "0x2761\n", "it measures now");
  assert.match(
    offline("wrong") ?? "",
    /^there is no INA226 at 0x45 on .*, but another chip: manufacturer 0x5449, die 0x2270$/,
  );
  assert.match(offline("missing") ?? "", /^there is no INA219 at 0x44 on .*: no chip answers/);

  const said: string[] = [];
  exporter.logs.subscribe(({ message }) => said.push(message));
  await node("12v").as(power).on();
  assert.ok(said.includes("power on"));
  await assert.rejects(
    node("5v").as(power).off(),
    fails("E_UNSUPPORTED", /switches nothing: it has no child named power/),
  );

  const voltages: number[] = [];
  for await (const { voltage } of node("12v").as(power).read()) {
    voltages.push(voltage);
    if (voltages.length === 1) await setRegister(0x40, 0x02, 8_000);
    if (voltage === 10) break;
  }
  assert.equal(voltages[0], 12);
  await setRegister(0x40, 0x01, 0x7fff);
  await assert.rejects(first("12v"), fails("E_FAILED", /^the current is more than the INA226 can measure: 8\.192 A$/));
});

/** Registers of 16 bits behind a pointer, as in chips of Texas Instruments. */
function registerChip(values: Record<number, number>): I2cChip {
  let pointer = 0;
  return {
    write(bytes) {
      pointer = bytes[0] ?? 0;
      if (bytes.length >= 3) values[pointer] = bytes.readUInt16BE(1);
    },
    read(length) {
      const bytes = Buffer.alloc(Math.max(length, 2));
      bytes.writeUInt16BE(values[pointer] ?? 0);
      return bytes.subarray(0, length);
    },
  };
}

test("plain I2C by an adapter on USB, which comes and goes", async (t) => {
  await modprobe("usbhid");
  await modprobe("hid-mcp2221");
  const adapter = mcp2221();
  const values = { 0x00: 0x4127, 0x01: 8_000, 0x02: 9_584, 0xfe: 0x5449, 0xff: 0x2260 };
  adapter.chips.set(0x44, registerChip(values));
  const plugged = await plugUsb(t, adapter);
  const called = () => readFile("/sys/class/i2c-dev/" + newest() + "/name", "utf8").then((name) => name.trim());
  const newest = () =>
    readdirSync("/sys/class/i2c-dev")
      .sort((a, b) => Number(a.slice(4)) - Number(b.slice(4)))
      .at(-1) ?? "";
  await waitFor("its bus", async () => (await called()).includes("MCP2221"));
  const name = await called();
  const { node, offline } = await start(t, {
    bus: { type: "jumpstarter_agent.I2c", config: { bus: name } },
    meter: {
      type: "jumpstarter_agent.PowerMeter",
      config: { bus: name, model: "ina226", address: 0x44, shunt_ohms: 0.002 },
    },
  });
  const calls = node("bus").as(i2c);
  adapter.transfers.length = 0;
  assert.deepEqual(await calls.transfer(0x44, [{ write: [0xfe] }, { read: 2 }]), [[0x54, 0x49]]);
  assert.deepEqual(adapter.transfers, ["w44 fe", "+r44 2"]);
  await calls.write(0x44, [0x05, 0x12, 0x34]);
  assert.deepEqual(await calls.read(0x44, 2), [0x12, 0x34]);
  await assert.rejects(calls.read(0x45, 1), fails("E_IO", /^no chip answers at 0x45 on i2c-\d+ \[MCP2221/));
  for await (const reading of node("meter").as(power).read()) {
    assert.deepEqual(reading, { voltage: 11.98, current: 10 });
    break;
  }
  await plugged.unplug();
  await waitFor("both are offline", () => offline("bus") !== undefined && offline("meter") !== undefined);
  await assert.rejects(calls.read(0x44, 2), fails("E_CONNECTION", /I2C bus .*MCP2221/));
  await plugged.plug();
  const began = performance.now();
  await waitFor("both are back", () => offline("bus") === undefined && offline("meter") === undefined);
  console.log(`back after ${Math.round(performance.now() - began)} ms`);
  assert.equal((await calls.read(0x44, 2)).length, 2);
});

test("what a configuration means is told without a change", async () => {
  const findings = await driver.inspect?.({ bus: label });
  assert.deepEqual(findings, [
    { ok: true, text: `I2C bus i2c-${bus} [${label}], SMBus only`, nodes: [`/dev/i2c-${bus}`] },
  ]);
  const wrong = await meter.inspect?.({ model: "ina260", bus: label, address: 0x44, interval_s: 1 });
  assert.equal(wrong?.[0]?.ok, true);
  assert.match(wrong?.[1]?.text ?? "", /^there is no INA260 at 0x44/);
  const none = await driver.inspect?.({ bus: "no such bus" });
  assert.match(none?.[0]?.text ?? "", /^there is no I2C bus called 'no such bus'; there is .*SMBus stub driver/);
});
