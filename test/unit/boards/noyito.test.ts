import assert from "node:assert/strict";
import { rmSync, symlinkSync } from "node:fs";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import type { Entry } from "../../../agent/driver/entry.ts";
import { createExporter } from "../../../agent/session/exporter.ts";
import { noyitoRelay } from "../../../boards/noyito/interface.ts";
import { hidStatusQuery, readStatus, relayCommand, summary } from "../../../boards/noyito/protocol.ts";
import { scratch } from "../../sim/agent.ts";
import { simulateNoyito } from "../../sim/noyito.ts";
import { noPtys, plugCable } from "../../sim/pty.ts";
import { eventually } from "../../sim/rig.ts";

const entry = (name: string, config: Record<string, unknown>) => ({
  type: `jumpstarter_driver_noyito_relay.driver.${name}`,
  config,
});
const hex = (bytes: Uint8Array) => Buffer.from(bytes).toString("hex");

async function drivers(t: TestContext, entries: Record<string, Entry>) {
  const exporter = await createExporter({ name: "test", export: entries });
  t.after(() => exporter.close());
  return Object.assign(exporter, { relay: (name: string) => exporter.calls(name, noyitoRelay) });
}

test("the bytes of the Python driver", () => {
  assert.deepEqual(
    [relayCommand(1, true), relayCommand(1, false), relayCommand(2, true), relayCommand(8, true), hidStatusQuery].map(
      hex,
    ),
    ["a00101a2", "a00100a1", "a00201a3", "a00801a9", "a00f02b1"],
  );
  const two = new Map([
    [1, "on"],
    [2, "off"],
  ]);
  assert.deepEqual(readStatus("CH1:ON \r\nCH2:OFF \r\n"), two);
  assert.deepEqual(readStatus("CH1:ON \r\n\0\0\0CH2:OFF", true), two);
  assert.deepEqual(readStatus("CH1:ON \r\nCH2:O"), new Map([[1, "on"]]));
  assert.equal(summary(["on", "on"]), "on");
  assert.equal(summary(["on", "off"]), "partial");
});

test("configurations that cannot work are refused in the words of the Python driver", async () => {
  const refused = (name: string, config: Record<string, unknown>, message: RegExp) =>
    assert.rejects(createExporter({ name: "test", export: { relay: entry(name, config) } }), message);
  await refused("NoyitoPowerSerial", { port: "/dev/null", channel: 3 }, /channel must be 1 or 2, got 3/);
  await refused("NoyitoPowerHID", { num_channels: 6 }, /num_channels must be 4 or 8, got 6/);
  await refused("NoyitoPowerHID", { num_channels: 4, channel: 5 }, /channel must be 1\.\.4, got 5/);
});

test("a HID board that is missing is offline, with both of its ids named", async (t) => {
  const exporter = await drivers(t, { relay: entry("NoyitoPowerHID", { path: "9-9" }) });
  await assert.rejects(exporter.relay("relay").on(), {
    code: "E_DEVICE_OFFLINE",
    message: /^failed to find NOYITO relay device at 9-9 \(checked 140b:07d7, 5131:2007\)/,
  });
});

test("channels of a serial board", { skip: noPtys }, async (t) => {
  const cable = await plugCable(t);
  const board = simulateNoyito(cable.board);
  const exporter = await drivers(t, {
    one: entry("NoyitoPowerSerial", { port: cable.path }),
    two: entry("NoyitoPowerSerial", { port: cable.path, channel: "2", verify: true }),
    both: entry("NoyitoPowerSerial", { port: cable.path, all_channels: true, channel: 7 }),
  });
  const [one, two, both] = [exporter.relay("one"), exporter.relay("two"), exporter.relay("both")];

  assert.equal(await both.status(), "off");
  await two.on();
  await eventually("the second relay is on", () => board.relays.join() === "false,true");
  assert.deepEqual(board.commands.splice(0), ["ff", "a00201a3", "ff"]);
  const began = performance.now();
  assert.deepEqual(await Promise.all([one.status(), two.status(), both.status()]), ["off", "on", "partial"]);
  assert.ok(performance.now() - began < 1_500, "nobody waited for a timeout");
  board.commands.splice(0);
  await both.on();
  await eventually("both were switched", () => board.commands.length === 2);
  assert.deepEqual(board.commands, ["a00101a2", "a00201a3"]);
  await assert.rejects(
    async () => {
      for await (const _ of one.read());
    },
    { code: "E_UNSUPPORTED" },
  );

  board.answer = () => "what?\r\n";
  await assert.rejects(one.status(), { code: "E_INVALID", message: /^Unexpected status response: "what/ });
  board.answer = () => "CH1:OFF \r\n";
  await assert.rejects(two.status(), { code: "E_INVALID", message: /^Channel CH2 not found in status response: / });
  await assert.rejects(two.on(), /Channel CH2 not found/, "verified");
  assert.equal(await one.status(), "off", "a board with one channel");
  board.answer = () => "CH1:OFF \r\nCH2:OFF \r\n";
  await assert.rejects(two.on(), { code: "E_FAILED", message: "relay channel 2 stays off" });
});

test("a serial board that is unplugged is offline, and back by itself", { skip: noPtys }, async (t) => {
  const cable = await plugCable(t);
  simulateNoyito(cable.board);
  const port = join(scratch(t), "relay");
  const exporter = await drivers(t, { relay: entry("NoyitoPowerSerial", { port }) });
  const reason = () => exporter.tree.drivers.map(({ offlineReason }) => offlineReason).join("");
  assert.match(reason(), new RegExp(`^NOYITO relay at ${port} is not usable: .*No such file`, "i"));
  symlinkSync(cable.path, port);
  await eventually("it is there", () => reason() === "");
  assert.equal(await exporter.relay("relay").status(), "off");
  rmSync(port);
  await assert.rejects(async () => exporter.relay("relay").status(), { code: "E_DEVICE_OFFLINE" });
  await eventually("it is offline, as a call has found out", () => reason() !== "");
});
