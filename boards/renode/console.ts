import { defineDriver } from "../../agent/driver/driver.ts";
import pySerial from "../serial/driver.ts";
import { serialPort } from "../serial/interface.ts";
import { machineOf, partConfig } from "./config.ts";

export default defineDriver({
  types: ["jumpstarter_agent.RenodeConsole"],
  summary: "A UART of a machine in Renode. There is none while the machine is off.",
  implements: serialPort,
  config: partConfig,
  open(context) {
    const { pty } = machineOf(context, context.config.machine);
    const config = pySerial.config.parse({ url: pty, check_present: false });
    return pySerial.open({ ...context, config });
  },
});
