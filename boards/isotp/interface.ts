import * as z from "zod";
import { defineInterface, unary } from "../../agent/driver/interface.ts";
import { isoTpAddress } from "./schema.ts";

/** Python writes base64 with padding, and reads it with line breaks in it. */
const base64 = /^[A-Za-z0-9+/\s]*={0,2}\s*$/;

const outgoing = z
  .object({
    data: z
      .string({ error: "data must be bytes, in base64" })
      .refine((text) => base64.test(text) && text.replaceAll(/\s/g, "").length % 4 === 0, "data is no base64")
      .transform((text): Uint8Array => Buffer.from(text, "base64")),
  })
  .describe('{"data": BASE64}');

const nothing = { args: [], result: z.null() } as const;

export const isoTp = defineInterface({
  driverType: "automotive",
  client: "jumpstarter_driver_can.client.IsoTpClient",
  methods: {
    start: unary({ ...nothing, help: "Start listening for messages" }),
    stop: unary({ ...nothing, help: "Stop listening for messages" }),
    send: unary({
      args: [
        outgoing,
        z
          .literal([0, 1], { error: "is not a valid TargetAddressType" })
          .nullish()
          .describe("0: physical, 1: functional"),
        z.number().nullish().describe("seconds to wait for the end of the transmission"),
      ],
      result: z.null(),
      help: "Send a message",
    }),
    recv: unary({
      args: [
        z.boolean().optional().describe("wait for a message"),
        z.number().nullish().describe("seconds to wait at most"),
      ],
      result: z.object({ data: z.string().nullable() }),
      help: "Fetch a received message",
    }),
    available: unary({ args: [], result: z.boolean(), help: "Whether a received message waits" }),
    transmitting: unary({ args: [], result: z.boolean(), help: "Whether a message is being sent" }),
    set_address: unary({
      args: [isoTpAddress.describe("address, or an object of tx_addr and rx_addr")],
      result: z.null(),
      help: "Speak with another node",
    }),
    stop_sending: unary({ ...nothing, help: "Give up the messages that are being sent" }),
    stop_receiving: unary({ ...nothing, help: "Give up the message that is being received" }),
  },
});
