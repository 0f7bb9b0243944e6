import * as z from "zod";
import { byteStream, defineInterface, streaming, unary } from "../../agent/driver/interface.ts";
import { logItem, logRequest } from "./record/log-item.ts";

const client = "jumpstarter_driver_pyserial.client.PySerialClient";
const connect = byteStream({
  halfCloses: false,
  help: "Reads and writes the console; several clients may at the same time",
});

/** A serial console: what boot loaders and flashers talk to. */
export const serialConsole = defineInterface({ driverType: "serial", client, methods: { connect } });

const count = () => z.number().int().nonnegative();

/** What a port does now. Numbers count from the start of the exporter, line errors from when the device was plugged in. */
export const portStatus = z.object({
  /** As configured. */
  port: z.string(),
  /** Its path now; null if it is not there, or no device of the host. */
  device: z.string().nullable(),
  /** The USB device that it belongs to. */
  usb: z.string().nullable(),
  baudrate: z.number(),
  open: z.boolean(),
  /** Streams of clients. */
  clients: count(),
  received_bytes: count(),
  sent_bytes: count(),
  /** What clients did not read in time. */
  dropped_bytes: count(),
  /** Null while the port is closed, or where nobody counts them. */
  line_errors: z.record(z.string(), z.number()).nullable(),
  /** Null if nothing is recorded. */
  record: z
    .object({
      /** `recording`, or why not. */
      state: z.string(),
      /** Null: in memory only. */
      directory: z.string().nullable(),
      /** Why the disk is not written to. */
      problem: z.string().nullable(),
      /** Starts of the board, from power on to the configured pattern. */
      boots: z.array(z.object({ at: z.string(), seconds: z.number() })),
    })
    .nullable(),
});

/** A serial port with its modem lines. */
export const serialPort = defineInterface({
  driverType: "serial",
  client,
  methods: {
    connect,
    close: unary({ args: [], result: z.null(), help: "Lets go of the port; open streams end" }),
    set_dtr: unary({ args: [z.boolean()], result: z.null(), help: "Sets the DTR line" }),
    set_rts: unary({ args: [z.boolean()], result: z.null(), help: "Sets the RTS line" }),
    send_break: unary({
      args: [z.number().min(1).max(5_000).default(250)],
      result: z.null(),
      help: "Holds the line in the break condition for so many milliseconds (250)",
    }),
    status: unary({ args: [], result: portStatus, help: "Device, line errors, bytes, recording, boot times" }),
    log: streaming({
      args: [logRequest.default({})],
      item: logItem,
      help: "What was recorded since the lease began: {from, since, lines, follow}",
    }),
  },
});
