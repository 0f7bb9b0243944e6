import { defineDriver } from "../../agent/driver/driver.ts";
import { dialVsock } from "../../agent/sys/vsock.ts";
import { network } from "../../net/sockets/interface.ts";
import { machineOf, partConfig } from "./parts.ts";

const sshPort = 22;

export default defineDriver({
  types: ["jumpstarter_agent.QemuSsh"],
  summary: "SSH server of a Qemu's guest, through a virtual socket.",
  implements: network,
  config: partConfig,
  open(context) {
    const machine = machineOf(context, context.config);
    return { methods: { connect: ({ signal }) => dialVsock(machine.cid, sshPort, signal) } };
  },
});
