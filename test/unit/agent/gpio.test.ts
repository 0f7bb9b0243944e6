import assert from "node:assert/strict";
import { test } from "node:test";
import { AgentError, DeviceOffline } from "../../../agent/driver/errors.ts";
import {
  decodeChipInfo,
  decodeEvents,
  decodeLineInfo,
  encodeConfig,
  encodeRequest,
  flagBits,
  layout,
  openChip,
  requests,
} from "../../../agent/sys/gpio.ts";
import { cValues, layoutExpressions, noCompiler } from "../../sim/c-values.ts";

test("structures, requests and flags are those of the kernel's header", { skip: noCompiler }, (t) => {
  const structs: [string, Record<string, number>, Record<string, string>][] = [
    ["gpiochip_info", layout.chipInfo, { name: "name", label: "label", lines: "lines" }],
    [
      "gpio_v2_line_info",
      layout.lineInfo,
      {
        name: "name",
        consumer: "consumer",
        offset: "offset",
        attributeCount: "num_attrs",
        flags: "flags",
        attributes: "attrs",
      },
    ],
    ["gpio_v2_line_attribute", layout.attribute, { id: "id", value: "debounce_period_us" }],
    ["gpio_v2_line_config", layout.config, { flags: "flags", attributeCount: "num_attrs", attributes: "attrs" }],
    ["gpio_v2_line_config_attribute", layout.configAttribute, { mask: "mask" }],
    [
      "gpio_v2_line_request",
      layout.request,
      {
        offsets: "offsets",
        consumer: "consumer",
        config: "config",
        lines: "num_lines",
        bufferSize: "event_buffer_size",
        fd: "fd",
      },
    ],
    ["gpio_v2_line_values", layout.values, { bits: "bits", mask: "mask" }],
    [
      "gpio_v2_line_event",
      layout.event,
      { timestamp: "timestamp_ns", id: "id", offset: "offset", sequence: "seqno", lineSequence: "line_seqno" },
    ],
  ];
  const expressions: string[] = [];
  const ours: number[] = [];
  for (const [name, { bytes, ...members }, names] of structs) {
    expressions.push(...layoutExpressions(`struct ${name}`, names));
    ours.push(bytes ?? NaN, ...Object.keys(names).map((member) => members[member] ?? NaN));
  }
  expressions.push(...Object.keys(requests), ...Object.keys(flagBits).map((flag) => `GPIO_V2_LINE_FLAG_${flag}`));
  ours.push(...Object.values(requests), ...Object.values(flagBits).map((bit) => 2 ** bit));
  assert.deepEqual(cValues(t, ["linux/gpio.h"], expressions), ours);
});

test("a line that is taken as it is asks for no direction, bias or value", () => {
  const request = encodeRequest(5, { direction: "as_is", activeLow: true }, "jumpstarter-gpiod");
  assert.equal(request.readUInt32LE(0), 5);
  assert.equal(request.toString("latin1", 256, 274), "jumpstarter-gpiod\0");
  assert.equal(request.readBigUInt64LE(288), 2n, "active low alone");
  assert.equal(request.readUInt32LE(296), 0, "no attributes");
  assert.equal(request.readUInt32LE(560), 1, "one line");
});

test("an output has its value with it, an input its debounce time", () => {
  const output = encodeConfig({
    direction: "output",
    activeLow: false,
    bias: "pull_up",
    drive: "open_drain",
    active: true,
  });
  assert.equal(output.readBigUInt64LE(0), (1n << 3n) | (1n << 6n) | (1n << 8n));
  assert.equal(output.readUInt32LE(8), 1);
  assert.deepEqual([output.readUInt32LE(32), output.readBigUInt64LE(40), output.readBigUInt64LE(48)], [2, 1n, 1n]);
  const input = encodeConfig({
    direction: "input",
    activeLow: true,
    bias: "disabled",
    edges: true,
    debounceUs: 5_000,
  });
  assert.equal(input.readBigUInt64LE(0), (1n << 1n) | (1n << 2n) | (1n << 4n) | (1n << 5n) | (1n << 10n));
  assert.deepEqual([input.readUInt32LE(32), input.readUInt32LE(40), input.readBigUInt64LE(48)], [3, 5_000, 1n]);
});

test("what the kernel tells of chips, lines and events", () => {
  const chip = Buffer.alloc(68);
  chip.write("gpiochip0", 0);
  chip.write("x".repeat(32), 32);
  chip.writeUInt32LE(54, 64);
  assert.deepEqual(decodeChipInfo(chip), { name: "gpiochip0", label: "x".repeat(32), lines: 54 });

  const line = Buffer.alloc(256);
  line.write("POWER", 0);
  line.write("relay", 32);
  line.writeUInt32LE(7, 64);
  line.writeUInt32LE(1, 68);
  line.writeUInt32LE((1 << 0) | (1 << 1) | (1 << 2) | (1 << 9), 72);
  line.writeUInt32LE(3, 80);
  line.writeUInt32LE(2_500, 88);
  assert.deepEqual(decodeLineInfo(line), {
    ...{ offset: 7, name: "POWER", consumer: "relay", used: true, direction: "input", activeLow: true },
    ...{ drive: "push_pull", bias: "pull_down", debounceUs: 2_500 },
  });

  const events = Buffer.alloc(2 * 48 + 47);
  events.writeBigUInt64LE(123n, 0);
  events.writeUInt32LE(1, 8);
  events.writeUInt32LE(7, 12);
  events.writeUInt32LE(9, 20);
  events.writeUInt32LE(2, 48 + 8);
  assert.deepEqual(decodeEvents(events), [
    { rising: true, timestampNs: 123n, offset: 7, lineSequence: 9 },
    { rising: false, timestampNs: 0n, offset: 0, lineSequence: 0 },
  ]);
});

test("a chip that is not there is offline by its path, and other files are no chips", async () => {
  await assert.rejects(
    openChip("/dev/gpiochip250"),
    (error) => error instanceof DeviceOffline && error.message === "there is no GPIO chip /dev/gpiochip250",
  );
  await assert.rejects(
    openChip("/dev/null"),
    (error) => error instanceof AgentError && error.code === "E_UNSUPPORTED" && error.message.includes("/dev/null"),
  );
});
