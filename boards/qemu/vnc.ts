import { defineDriver } from "../../agent/driver/driver.ts";
import { dial } from "../../agent/stream/dial.ts";
import { network } from "../../net/sockets/interface.ts";
import { machineOf, partConfig } from "./parts.ts";

export default defineDriver({
  types: ["jumpstarter_agent.QemuVnc"],
  summary: "Screen of a Qemu, as it speaks RFB.",
  implements: network,
  config: partConfig,
  open(context) {
    const machine = machineOf(context, context.config);
    return { methods: { connect: ({ signal }) => dial({ path: machine.vnc }, "the screen of QEMU", signal) } };
  },
});
