import * as z from "zod";
import { hexBytes } from "../../agent/driver/hex.ts";
import { defineInterface, unary } from "../../agent/driver/interface.ts";

const id = () => z.int().min(0).max(0xffff);
const payload = z.object({ data: hexBytes() }).describe('{"data": HEX}');
const seconds = z.number().min(0).max(86_400).optional();
const nothing = { args: [], result: z.null() } as const;

const message = z.object({
  service_id: z.int(),
  method_id: z.int(),
  client_id: z.int(),
  session_id: z.int(),
  protocol_version: z.int(),
  interface_version: z.int(),
  message_type: z.int(),
  return_code: z.int(),
  payload: z.string(),
});

export const someIp = defineInterface({
  driverType: "automotive",
  client: "jumpstarter_driver_someip.client.SomeIpDriverClient",
  methods: {
    start: unary({ ...nothing, help: "Open the sockets; the first call does it, too" }),
    rpc_call: unary({
      args: [id().describe("service"), id().describe("method"), payload, seconds.describe("to wait at most (5)")],
      result: message,
      help: "Call a method and wait for its response, which may be an error of the service",
    }),
    send_message: unary({
      args: [id().describe("service"), id().describe("method"), payload],
      result: z.null(),
      help: "Send a request and wait for nothing",
    }),
    receive_message: unary({
      args: [seconds.describe("to wait at most (2)")],
      result: message,
      help: "Fetch a message that was no response to a call",
    }),
    find_service: unary({
      args: [id().describe("service"), id().optional().describe("instance"), seconds.describe("to wait at most (5)")],
      result: z.array(
        z.object({ service_id: z.int(), instance_id: z.int(), major_version: z.int(), minor_version: z.number() }),
      ),
      help: "Instances of a service that are offered",
    }),
    subscribe_eventgroup: unary({ args: [id()], result: z.null(), help: "Subscribe to events" }),
    unsubscribe_eventgroup: unary({ args: [id()], result: z.null(), help: "End a subscription" }),
    receive_event: unary({
      args: [seconds.describe("to wait at most (5)")],
      result: z.object({ service_id: z.int(), event_id: z.int(), payload: z.string() }),
      help: "Fetch an event",
    }),
    close_connection: unary({ ...nothing, help: "Close the sockets, until reconnect" }),
    reconnect: unary({ ...nothing, help: "Close the sockets and open them again" }),
  },
});
