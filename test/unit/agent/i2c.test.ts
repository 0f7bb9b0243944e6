import assert from "node:assert/strict";
import { test } from "node:test";
import { DeviceOffline } from "../../../agent/driver/errors.ts";
import { functionBits, layouts, openI2c, requests, smbusDataBytes, smbusSizes } from "../../../agent/sys/i2c.ts";
import { cValues, layoutExpressions, noCompiler } from "../../sim/c-values.ts";

test("structures, requests and functions are those of the kernel's headers", { skip: noCompiler }, (t) => {
  const [pointerBytes = 0] = cValues(t, [], ["sizeof(void *)"]);
  const { message, transfer, smbus } = layouts[pointerBytes === 4 ? 4 : 8];
  const values = cValues(
    t,
    ["linux/i2c.h", "linux/i2c-dev.h"],
    [
      ...layoutExpressions("struct i2c_msg", { address: "addr", flags: "flags", length: "len", buffer: "buf" }),
      ...layoutExpressions("struct i2c_rdwr_ioctl_data", { messages: "msgs", count: "nmsgs" }),
      ...layoutExpressions("struct i2c_smbus_ioctl_data", {
        readWrite: "read_write",
        command: "command",
        size: "size",
        data: "data",
      }),
      "sizeof(union i2c_smbus_data)",
      ...Object.keys(requests),
      ...Object.keys(functionBits).map((name) => `I2C_FUNC_${name}`),
      ...Object.keys(smbusSizes).map((name) => `I2C_SMBUS_${name}`),
    ],
  );
  const [messageLayout, transferLayout, smbusLayout] = [message, transfer, smbus].map(({ bytes, ...members }) => [
    bytes,
    ...Object.values(members),
  ]);
  assert.deepEqual(values, [
    ...(messageLayout ?? []),
    ...(transferLayout ?? []),
    ...(smbusLayout ?? []),
    smbusDataBytes,
    ...Object.values(requests),
    ...Object.values(functionBits).map((bit) => 2 ** bit),
    ...Object.values(smbusSizes),
  ]);
});

test("a bus that is not there is offline by its path", async () => {
  await assert.rejects(
    openI2c("/dev/i2c-250"),
    (error) => error instanceof DeviceOffline && error.message === "there is no I2C bus /dev/i2c-250",
  );
});
