import { defineDriver } from "../../../agent/driver/driver.ts";
import { serialConsole } from "../../serial/interface.ts";
import { partConfig, virtualMachineOf } from "./parts.ts";

export default defineDriver({
  types: ["jumpstarter_agent.VirtualBoardSerial"],
  summary: "Serial console of a VirtualBoard; it stays open over power cycles.",
  implements: serialConsole,
  config: partConfig,
  open: (context) => {
    const machine = virtualMachineOf(context);
    return { methods: { connect: () => machine.console.open() } };
  },
});
