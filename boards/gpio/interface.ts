import * as z from "zod";
import { defineInterface, streaming, unary } from "../../agent/driver/interface.ts";

/** 1 active, 0 inactive, whatever that is in volts. */
const level = z.literal([0, 1]);
const timeout = z.number().nullish().describe("seconds; none or 0 waits until it happens");
const edge = z.enum(["rising", "falling"], {
  error: ({ input }) => `Invalid edge type: ${String(input)}, must be one of: rising, falling`,
});

const on = unary({ args: [], result: z.null(), help: "Set the pin to active state" });
const off = unary({ args: [], result: z.null(), help: "Set the pin to inactive state" });
const readPin = unary({ args: [], result: level, help: "Read current pin state" });

/** What a line does, as the agent's own client sees it; Python clients do not know it. */
const pinEvent = z.object({
  /** After the edge. The first item tells the level at the beginning: later edges are not missed. */
  level,
  edge: edge.nullable(),
  /** Nanoseconds on the host's monotonic clock, by the kernel where the chip has interrupts. */
  timestamp_ns: z.number(),
  /** The same in seconds since the epoch. */
  time_s: z.number(),
  /** Edges since the last item that the kernel had no room for. */
  missed: z.int().nonnegative(),
});

export const digitalOutput = defineInterface({
  driverType: "gpio",
  client: "jumpstarter_driver_gpiod.client.DigitalOutputClient",
  methods: { on, off, read_pin: readPin },
});

export const digitalInput = defineInterface({
  driverType: "gpio",
  client: "jumpstarter_driver_gpiod.client.DigitalInputClient",
  methods: {
    read_pin: readPin,
    wait_for_active: unary({ args: [timeout], result: z.null(), help: "Block until the line is active" }),
    wait_for_inactive: unary({ args: [timeout], result: z.null(), help: "Block until the line is inactive" }),
    wait_for_edge: unary({ args: [edge, timeout], result: z.null(), help: "Block until the next edge of this kind" }),
    watch: streaming({ args: [], item: pinEvent, help: "The level, then every edge with its time" }),
  },
});

/** A line that switches a board's power: `power`, and the level of the line. */
export const gpioPower = defineInterface({
  driverType: "power",
  client: "jumpstarter_driver_power.client.PowerClient",
  methods: {
    on: unary({ args: [], result: z.null(), help: "Switch on the power" }),
    off: unary({ args: [], result: z.null(), help: "Switch off the power" }),
    read: streaming({ args: [], item: z.object({ voltage: z.number(), current: z.number() }) }),
    read_pin: readPin,
  },
});
