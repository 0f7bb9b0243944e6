import { defineDriver } from "../../agent/driver/driver.ts";
import { AgentError } from "../../agent/driver/errors.ts";
import { machineOf, renodeConfig } from "./config.ts";
import { renode } from "./interface.ts";

/** Brings along `power`, `flasher` and `console` of one simulated machine. */
export default defineDriver({
  types: ["jumpstarter_driver_renode.driver.Renode"],
  summary: "A machine simulated by Renode, with its power, its firmware and a UART as its console.",
  implements: renode,
  config: renodeConfig,
  needs: ({ monitor_port: port }) => ({
    programs: ["renode"],
    ...(port === 0 ? {} : { ports: [{ protocol: "tcp", port, hosts: [] }] }),
  }),
  children: ({ config, path }) => {
    const part = { ...config, machine: path };
    return {
      power: { type: "jumpstarter_driver_renode.driver.RenodePower", config: part },
      flasher: { type: "jumpstarter_driver_renode.driver.RenodeFlasher", config: part },
      console: { type: "jumpstarter_agent.RenodeConsole", config: part },
    };
  },
  open(context) {
    const { config, path } = context;
    const machine = machineOf(context, path);
    return {
      methods: {
        get_platform: () => config.platform,
        get_uart: () => config.uart,
        get_machine_name: () => config.machine_name,
        monitor_cmd({ signal }, command) {
          if (config.allow_raw_monitor) return machine.execute(command, signal);
          throw new AgentError(
            "E_FAILED",
            "raw monitor access is disabled; set allow_raw_monitor: true in exporter config to enable",
          );
        },
      },
      release: () => machine.reset(),
    };
  },
});
