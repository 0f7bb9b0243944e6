import * as z from "zod";
import { defineInterface, streaming, unary } from "../../agent/driver/interface.ts";

/** Standard base64 with padding; line breaks are let through, as Python's decoder does. */
const base64 = z.string().refine((text) => {
  const plain = text.replaceAll(/[\r\n]/g, "");
  return plain.length % 4 === 0 && /^[A-Za-z0-9+/]*={0,2}$/.test(plain);
}, "must be base64");

/** python-can's Message. */
export const canMessage = z.object({
  /** Seconds since the epoch. */
  timestamp: z.number(),
  arbitration_id: z.int().min(0).max(0x1fff_ffff),
  is_extended_id: z.boolean(),
  is_remote_frame: z.boolean(),
  is_error_frame: z.boolean(),
  channel: z.union([z.string(), z.number()]).nullable(),
  /** Requested length of a remote frame in bytes; of others it is that of the data. */
  dlc: z.int().min(0).max(64).nullable(),
  data: base64.nullable(),
  is_fd: z.boolean(),
  is_rx: z.boolean(),
  bitrate_switch: z.boolean(),
  error_state_indicator: z.boolean(),
});

export type CanMessage = z.output<typeof canMessage>;

const canFilter = z.object({
  can_id: z.int().min(0).max(0xffff_ffff),
  can_mask: z.int().min(0).max(0xffff_ffff),
  /** Only ids of 29 bits, or of 11; both if it is left out. */
  extended: z.boolean().nullish(),
});

export type CanFilterMessage = z.output<typeof canFilter>;

const filters = z.array(canFilter).nullable();
const seconds = z.number().nullish();
const task = z.guid();

/** One end of a CAN bus, as python-can's BusABC has it; below that what it has not. */
export const can = defineInterface({
  driverType: "automotive",
  client: "jumpstarter_driver_can.client.CanClient",
  methods: {
    _recv_internal: unary({
      args: [z.number().nullable()],
      result: z.tuple([canMessage.nullable(), z.boolean()]),
      help: "The next frame, or none in time; and whether filters are applied already",
    }),
    send: unary({ args: [canMessage, seconds], result: z.null(), help: "Sends a frame" }),
    _send_periodic_internal: unary({
      args: [
        z.union([z.array(canMessage), canMessage]),
        z.number().describe("seconds from frame to frame"),
        seconds.describe("seconds, counted from the start"),
        z.boolean().nullish().describe("start now"),
        z.null().optional(),
      ],
      result: z.string(),
      help: "Sends frames by turns, one each period; answers the task",
    }),
    _start_task: unary({ args: [task], result: z.null(), help: "Starts a periodic task" }),
    _stop_task: unary({ args: [task], result: z.null(), help: "Stops a periodic task and forgets it" }),
    state: unary({
      args: [z.literal([1, 2, 3]).nullish()],
      result: z.number().nullable(),
      help: "1: error-active, 2: error-passive, 3: neither sends nor receives",
    }),
    protocol: unary({ args: [], result: z.number(), help: "1: CAN 2.0, 2: CAN FD" }),
    channel_info: unary({ args: [], result: z.string(), help: "Name of the bus" }),
    _apply_filters: unary({ args: [filters], result: z.null(), help: "Receives only these frames" }),
    flush_tx_buffer: unary({ args: [], result: z.null(), help: "Forgets frames that are not sent yet" }),
    shutdown: unary({ args: [], result: z.null(), help: "Leaves the bus until the next lease" }),

    frames: streaming({
      args: [filters.optional()],
      item: z.array(canMessage),
      help: "Frames as they come, in batches; others that receive lose none by it",
    }),
    send_frames: unary({
      args: [z.array(canMessage).max(10_000), seconds],
      result: z.null(),
      help: "Sends frames one after the other; the timeout is for each",
    }),
    status: unary({
      args: [],
      result: z.object({
        channel_info: z.string(),
        state: z.enum(["error-active", "error-warning", "error-passive", "bus-off", "stopped"]),
        /** Bits a second; null where it is not known. */
        bitrate: z.number().nullable(),
        data_bitrate: z.number().nullable(),
        /** Error counters of the controller. */
        send_errors: z.number().nullable(),
        receive_errors: z.number().nullable(),
        bus_errors: z.number().nullable(),
        bus_offs: z.number().nullable(),
        restarts: z.number().nullable(),
        /** Received and not yet fetched. */
        queued_frames: z.number(),
        /** Thrown away since the lease began, as nobody fetched them: by the driver, and by the system. */
        dropped_frames: z.number(),
        lost_frames: z.number(),
      }),
      help: "State, bit rate and error counters",
    }),
    restart: unary({ args: [], result: z.null(), help: "Brings a controller that is bus-off back" }),
  },
});
