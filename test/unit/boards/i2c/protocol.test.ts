import assert from "node:assert/strict";
import { test } from "node:test";
import { decodeReading, isModel, isReady } from "../../../../boards/i2c/protocol.ts";
import { smbusWays } from "../../../../boards/i2c/smbus.ts";

test("an INA219 in the example of its data sheet (SBOS448)", () => {
  // 11.98 V at the load, 20 mV at 2 mΩ: 10 A.
  const reading = decodeReading("ina219", { config: 0x019f, shunt: 0x07d0, bus: 0x5d98 }, 0.002);
  assert.deepEqual(reading, { voltageV: 11.98, currentA: 10, saturated: false });
});

test("an INA219 counts downwards, and is at its end where its gain puts it", () => {
  const at = (config: number, shunt: number) => decodeReading("ina219", { config, shunt, bus: 0 }, 0.1);
  // The data sheet: -320 mV is 8300h.
  assert.deepEqual(at(0x399f, 0x8300), { voltageV: 0, currentA: -3.2, saturated: true });
  assert.equal(at(0x399f, 0x8301).saturated, false);
  for (const [gain, fullScale] of [4_000, 8_000, 16_000, 32_000].entries()) {
    assert.equal(at(gain << 11, fullScale).saturated, true);
    assert.equal(at(gain << 11, fullScale - 1).saturated, false);
  }
});

test("an INA226 in the example of its data sheet (SBOS547)", () => {
  // 11.98 V, 20 mV at 2 mΩ: 10 A.
  const reading = decodeReading("ina226", { config: 0x4127, shunt: 0x1f40, bus: 0x2570 }, 0.002);
  assert.deepEqual(reading, { voltageV: 11.98, currentA: 10, saturated: false });
  const negative = decodeReading("ina226", { config: 0x4127, shunt: 0x8300, bus: 0x7fff }, 1);
  // The data sheet: -80 mV is 8300h.
  assert.deepEqual(negative, { voltageV: 40.95875, currentA: -0.08, saturated: false });
  assert.equal(decodeReading("ina226", { config: 0, shunt: 0x8000, bus: 0 }, 1).saturated, true);
});

test("an INA260 counts amperes by itself", () => {
  const reading = decodeReading("ina260", { config: 0x6127, shunt: 0x1f40, bus: 0x2570 }, NaN);
  assert.deepEqual(reading, { voltageV: 11.98, currentA: 10, saturated: false });
  assert.equal(decodeReading("ina260", { config: 0, shunt: 0xffff, bus: 0 }, NaN).currentA, -0.00125);
  assert.equal(decodeReading("ina260", { config: 0, shunt: 0x7fff, bus: 0 }, NaN).saturated, true);
});

test("chips are told by what they say of themselves, revision aside", () => {
  assert.equal(isModel("ina226", 0x5449, 0x2260), true);
  assert.equal(isModel("ina226", 0x5449, 0x2261), true);
  assert.equal(isModel("ina226", 0x5449, 0x2270), false);
  assert.equal(isModel("ina260", 0x5449, 0x2270), true);
  assert.equal(isModel("ina260", 0x4954, 0x7022), false, "bytes the wrong way round");
  assert.equal(isModel("ina219", 0, 0), undefined);
  assert.deepEqual(
    [isReady("ina219", 2), isReady("ina219", 8), isReady("ina226", 8), isReady("ina260", 2)],
    [true, false, true, false],
  );
});

test("messages that SMBus can send, and the others", () => {
  const write = (...bytes: number[]) => ({ write: Uint8Array.from(bytes) });
  const ways = (...messages: Parameters<typeof smbusWays>[0]) =>
    smbusWays(messages).map(({ call: { read, command, size, data }, needs }) => [
      read,
      command,
      size,
      data.length,
      needs,
    ]);
  assert.deepEqual(ways(write()), [[false, 0, "QUICK", 0, "SMBUS_QUICK"]]);
  assert.deepEqual(ways(write(7)), [[false, 7, "BYTE", 0, "SMBUS_WRITE_BYTE"]]);
  assert.deepEqual(ways(write(7, 1)), [
    [false, 7, "BYTE_DATA", 1, "SMBUS_WRITE_BYTE_DATA"],
    [false, 7, "I2C_BLOCK_DATA", 1, "SMBUS_WRITE_I2C_BLOCK"],
  ]);
  assert.deepEqual(ways(write(7, 1, 2))[0], [false, 7, "WORD_DATA", 2, "SMBUS_WRITE_WORD_DATA"]);
  assert.deepEqual(ways({ read: 1 }), [[true, 0, "BYTE", 0, "SMBUS_READ_BYTE"]]);
  assert.deepEqual(ways(write(9), { read: 2 }), [
    [true, 9, "WORD_DATA", 0, "SMBUS_READ_WORD_DATA"],
    [true, 9, "I2C_BLOCK_DATA", 2, "SMBUS_READ_I2C_BLOCK"],
  ]);
  assert.equal(ways(write(9), { read: 32 }).length, 1);
  for (const messages of [
    [],
    [write(...Array.from({ length: 34 }, () => 0))],
    [{ read: 2 }],
    [write(9), { read: 33 }],
    [write(9, 1), { read: 1 }],
    [write(9), write(9)],
    [{ read: 1 }, { read: 1 }],
    [write(9), { read: 1 }, { read: 1 }],
  ]) {
    assert.deepEqual(ways(...messages), []);
  }
});
