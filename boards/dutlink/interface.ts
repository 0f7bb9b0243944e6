import * as z from "zod";
import { defineInterface, unary } from "../../agent/driver/interface.ts";
import { power } from "../power/interface.ts";

const action = (help: string) => unary({ args: [], result: z.null(), help });

/** Power through sequences that are stored in the board, and past them. */
export const dutlinkPower = defineInterface({
  ...power,
  methods: {
    ...power.methods,
    rescue: action("Starts the device in its rescue mode"),
    force_on: action("Switches the supply on, without the sequence that is stored in the board"),
    force_off: action("Switches the supply off, without the sequence that is stored in the board"),
  },
});
