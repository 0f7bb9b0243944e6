import * as z from "zod";
import { defineInterface, unary } from "../../agent/driver/interface.ts";
import { power } from "../power/interface.ts";

/** What linux/i2c-dev.h and drivers/i2c/i2c-dev.c take at once. */
const mostMessages = 42;
const longestMessageBytes = 8_192;

/** 7 bits, also as `0x40`. */
export const address = z.union([
  z.int().min(0).max(0x7f),
  z
    .string()
    .regex(/^0x[0-7]?[0-9a-f]$/i, { error: "must be an address of 7 bits, as 64 or 0x40" })
    .transform(Number),
]);
const bytes = z.array(z.int().min(0).max(255)).max(longestMessageBytes);
const length = z.int().min(1).max(longestMessageBytes);
const message = z.union([z.strictObject({ write: bytes }), z.strictObject({ read: length })]);

/** An I2C bus. Bytes are arrays of numbers. */
export const i2c = defineInterface({
  driverType: "i2c",
  client: "jumpstarter_agent.client.I2cClient",
  methods: {
    read: unary({
      args: [address.describe("address"), length.describe("number of bytes")],
      result: bytes,
      help: "Reads bytes from a chip",
    }),
    write: unary({
      args: [address.describe("address"), bytes.describe("bytes, as [16, 171]")],
      result: z.null(),
      help: "Writes bytes to a chip",
    }),
    transfer: unary({
      args: [
        address.describe("address"),
        z.array(message).min(1).max(mostMessages).describe('messages, as [{"write": [16]}, {"read": 2}]'),
      ],
      result: z.array(bytes),
      help: "Writes and reads in one transaction, without letting go of the bus; answers what each read brought",
    }),
  },
});

/** What a power meter needs of the switch beside it. */
export const powerSwitch = defineInterface({
  driverType: "power",
  client: power.client,
  methods: { on: power.methods.on, off: power.methods.off },
});
