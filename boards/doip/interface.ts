import * as z from "zod";
import { hexBytes } from "../../agent/driver/hex.ts";
import { defineInterface, unary } from "../../agent/driver/interface.ts";

const payload = z.object({ data: hexBytes() }).describe('{"data": HEX}');
const byte = z.int().min(0).max(0xff);
const seconds = z.number().min(0);

export const doip = defineInterface({
  driverType: "automotive",
  client: "jumpstarter_driver_doip.client.DoIPDriverClient",
  methods: {
    entity_status: unary({
      args: [],
      result: z.object({
        node_type: z.int(),
        max_open_sockets: z.int(),
        currently_open_sockets: z.int(),
        max_data_size: z.int().nullable(),
      }),
      help: "What the entity is, and how many connections it has",
    }),
    alive_check: unary({ args: [], result: z.object({ source_address: z.int() }), help: "Ask who is connected" }),
    diagnostic_power_mode: unary({
      args: [],
      result: z.object({ diagnostic_power_mode: z.int() }),
      help: "0: not ready, 1: ready, 2: not supported",
    }),
    request_vehicle_identification: unary({
      args: [
        z
          .string()
          .regex(/^[\x20-\x7e]{17}$/, "a VIN has 17 characters")
          .nullish(),
        hexBytes()
          .refine((eid) => eid.length === 6, "an EID has 6 bytes")
          .nullish(),
      ],
      result: z.object({
        vin: z.string(),
        logical_address: z.int(),
        eid: z.string(),
        gid: z.string(),
        further_action: z.int(),
        sync_status: z.int().nullable(),
      }),
      help: "Identify the vehicle, maybe by its VIN, or by its EID in hexadecimal",
    }),
    routing_activation: unary({
      args: [byte.optional().describe("activation type")],
      result: z.object({
        client_logical_address: z.int(),
        logical_address: z.int(),
        response_code: z.int(),
        vm_specific: z.int().nullable(),
      }),
      help: "Activate the routing; response code 16 is success",
    }),
    send_diagnostic: unary({ args: [payload], result: z.null(), help: "Send a diagnostic message" }),
    receive_diagnostic: unary({
      args: [seconds.optional().describe("seconds to wait at most (2)")],
      result: z.object({ data: z.string() }),
      help: "Fetch a diagnostic message",
    }),
    reconnect: unary({
      args: [seconds.max(3600).optional().describe("seconds between closing and connecting (2)")],
      result: z.null(),
      help: "Close the connection and connect again",
    }),
    close_connection: unary({ args: [], result: z.null(), help: "Close the connection, until reconnect" }),
  },
});
