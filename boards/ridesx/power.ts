import { setTimeout as sleep } from "node:timers/promises";
import * as z from "zod";
import { defineDriver, type Call } from "../../agent/driver/driver.ts";
import { AgentError } from "../../agent/driver/errors.ts";
import { harnessConfig, pace } from "./driver.ts";
import { noRescue, rideSXPower } from "./interface.ts";
import { powerOff, powerOn, type Step } from "./protocol.ts";
import { harnessOf, runScript } from "./script.ts";

export default defineDriver({
  types: ["jumpstarter_driver_ridesx.driver.RideSXPowerDriver"],
  summary: "Power of a Qualcomm RideSX board, by its test harness.",
  implements: rideSXPower,
  config: z.strictObject(harnessConfig),
  requires: { serial: "'serial' instance is required" },
  open(context) {
    const serial = context.children.get("serial");
    if (serial === undefined) throw new AgentError("E_CONFIG", "'serial' instance is required");
    const { turns } = harnessOf(context);
    const how = { serial, prompted: false, ...pace(context.config) };
    const tell = (call: Call, steps: readonly Step[]) => runScript(call, { ...how, steps });
    return {
      methods: {
        on: (call) => turns.take(call.signal, () => tell(call, powerOn)),
        off: (call) => turns.take(call.signal, () => tell(call, powerOff)),
        cycle: (call, delayS) =>
          turns.take(call.signal, async () => {
            await tell(call, powerOff);
            await sleep(delayS * 1000, undefined, { signal: call.signal });
            await tell(call, powerOn);
          }),
        rescue: noRescue,
      },
    };
  },
});
