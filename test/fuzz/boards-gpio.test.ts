// What the kernel and chips hand over is decoded whatever it is: all of it, within bounds, without an exception.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { decodeChipInfo, decodeEvents, decodeLineInfo, layout } from "../../agent/sys/gpio.ts";
import { lineOfPin } from "../../boards/gpio/pins.ts";
import { decodeReading, models } from "../../boards/i2c/protocol.ts";
import { smbusWays } from "../../boards/i2c/smbus.ts";

const numRuns = 10_000;
const register = fc.integer({ min: 0, max: 0xffff });

function structure(bytes: number) {
  return fc.uint8Array({ minLength: bytes, maxLength: bytes }).map((array) => Buffer.from(array));
}

test("lines of any bytes", () => {
  fc.assert(
    fc.property(structure(layout.lineInfo.bytes), (bytes) => {
      const line = decodeLineInfo(bytes);
      assert.ok(line.name.length <= 32 && line.consumer.length <= 32);
      assert.ok(!line.name.includes("\0") && !line.consumer.includes("\0"));
      assert.equal(line.used, (bytes.readUInt32LE(layout.lineInfo.flags) & 1) === 1);
    }),
    { numRuns },
  );
});

test("chips of any bytes", () => {
  fc.assert(
    fc.property(structure(layout.chipInfo.bytes), (bytes) => {
      const { name, label } = decodeChipInfo(bytes);
      assert.ok(!name.includes("\0") && !label.includes("\0"));
    }),
    { numRuns },
  );
});

test("events of any length", () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 4 * layout.event.bytes }), (bytes) => {
      const events = decodeEvents(Buffer.from(bytes));
      assert.equal(events.length, Math.floor(bytes.length / layout.event.bytes));
      for (const { timestampNs, lineSequence } of events) assert.ok(timestampNs >= 0n && lineSequence >= 0);
    }),
    { numRuns },
  );
});

test("registers of any value: within what the data sheets allow, and finite", () => {
  const chip = fc.record({ config: register, shunt: register, bus: register });
  fc.assert(
    fc.property(
      fc.constantFrom(...models),
      chip,
      fc.double({ min: 1e-4, max: 10, noNaN: true }),
      (model, values, shuntOhms) => {
        const { voltageV, currentA } = decodeReading(model, values, shuntOhms);
        assert.ok(voltageV >= 0 && voltageV <= 40.96, `${voltageV}`);
        const most = model === "ina260" ? 40.96 : (model === "ina226" ? 0.08192 : 0.32768) / shuntOhms;
        assert.ok(Math.abs(currentA) <= most * (1 + 1e-9), `${currentA}`);
        if (currentA !== 0) assert.equal(currentA < 0, values.shunt >= 0x8000);
      },
    ),
    { numRuns },
  );
});

test("messages of any shape: what SMBus sends are the same bytes", () => {
  const message = fc.oneof(
    fc.uint8Array({ maxLength: 40 }).map((write) => ({ write })),
    fc.integer({ min: 1, max: 40 }).map((read) => ({ read })),
  );
  fc.assert(
    fc.property(fc.array(message, { maxLength: 3 }), (messages) => {
      for (const { call } of smbusWays(messages)) {
        assert.ok(call.data.length <= 32);
        const [first] = messages;
        if (call.read || first === undefined || !("write" in first) || first.write.length === 0) continue;
        assert.deepEqual([call.command, ...call.data], [...first.write]);
      }
    }),
    { numRuns },
  );
});

test("pins of any name are a line of the chip or none", () => {
  fc.assert(
    fc.property(
      fc.oneof(
        fc.string(),
        fc.tuple(fc.constantFrom("GPIO", "BOARD", "J8:", "WPI", "BCM"), fc.nat()).map((two) => two.join("")),
      ),
      (pin) => {
        const line = lineOfPin(pin);
        assert.ok(line === undefined || (Number.isInteger(line) && line >= 0 && line <= 999));
      },
    ),
    { numRuns },
  );
});
