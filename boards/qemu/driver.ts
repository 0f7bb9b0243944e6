import { defineDriver } from "../../agent/driver/driver.ts";
import type { Entry } from "../../agent/driver/entry.ts";
import { qemuConfig } from "./config.ts";
import { qemu } from "./interface.ts";
import { hasVsock, programsOf } from "./machine.ts";
import { machineOf } from "./parts.ts";

/** Brings along `power`, `flasher`, `console`, `vnc`, perhaps `ssh`, and the guest's TCP ports. */
export default defineDriver({
  types: ["jumpstarter_driver_qemu.driver.Qemu"],
  summary: "A virtual machine in QEMU: images to start from, power, console, screen, and ports of the guest.",
  implements: qemu,
  config: qemuConfig,
  children({ config, path }) {
    const part = { machine: path, config };
    const children: Record<string, Entry> = {
      power: { type: "jumpstarter_driver_qemu.driver.QemuPower", config: part },
      flasher: { type: "jumpstarter_driver_qemu.driver.QemuFlasher", config: part },
      console: { type: "jumpstarter_agent.QemuConsole", config: part },
      vnc: { type: "jumpstarter_agent.QemuVnc", config: part },
    };
    if (hasVsock()) children["ssh"] = { type: "jumpstarter_agent.QemuSsh", config: part };
    // One of the name `ssh` takes the place of the virtual socket, for hosts and guests without.
    for (const [name, { hostaddr, hostport }] of Object.entries(config.hostfwd)) {
      const where = { host: hostaddr, port: hostport };
      children[name] = { type: "jumpstarter_driver_network.driver.TcpNetwork", config: where };
    }
    return children;
  },
  needs: (config) => ({
    programs: programsOf(config),
    rights: ["kvm"],
    ports: Object.values(config.hostfwd).map(({ protocol, hostaddr, hostport }) => ({
      protocol,
      port: hostport,
      hosts: [hostaddr],
    })),
    ...(config.work_dir === null ? {} : { directories: [config.work_dir] }),
  }),
  open(context) {
    const { config, path } = context;
    const machine = machineOf(context, { machine: path, config });
    return {
      methods: {
        get_hostname: () => config.hostname,
        get_username: () => config.username,
        get_password: () => config.password,
        set_disk_size: (_call, size) => machine.setDiskSize(size),
        set_memory_size: (_call, size) => machine.setMemorySize(size),
      },
      release: () => machine.release(),
      close: () => machine.release(),
    };
  },
});
