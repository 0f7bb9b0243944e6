import { defineDriver } from "../../agent/driver/driver.ts";
import { AgentError } from "../../agent/driver/errors.ts";
import pySerial from "../serial/driver.ts";
import { serialPort } from "../serial/interface.ts";
import { SerialPort } from "../serial/port.ts";
import { serialKey } from "../serial/open.ts";
import type { SerialHandle } from "../serial/transport.ts";
import type { QemuMachine } from "./machine.ts";
import { machineOf, partConfig } from "./parts.ts";

/** A serial port like any other, that stays open over power cycles and has no modem lines. */
export default defineDriver({
  types: ["jumpstarter_agent.QemuConsole"],
  summary: "Serial console of a Qemu; it stays open over power cycles.",
  implements: serialPort,
  config: partConfig,
  open(context) {
    const { machine: path, config } = context.config;
    const machine = machineOf(context, context.config);
    const url = `console of ${path || "the virtual machine"}`;
    context.shared(serialKey(url), () => new SerialPort(url, () => Promise.resolve(handleOn(machine)), context.log));
    const line = { url, check_present: false, record: config.record };
    return pySerial.open({ ...context, config: pySerial.config.parse(line) });
  },
});

function handleOn(machine: QemuMachine): SerialHandle {
  const stream = machine.console.open();
  return {
    stream,
    setLine() {
      throw new AgentError("E_UNSUPPORTED", "the console of a virtual machine has no modem lines");
    },
    // QEMU sends one as long as it takes the guest to see it.
    setBreak: (on) => (on ? machine.sendBreak() : Promise.resolve()),
    lineErrors: () => undefined,
    discard: () => {},
    drain: async () => {},
    close: () => new Promise((resolve) => stream.once("close", resolve).destroy()),
  };
}
