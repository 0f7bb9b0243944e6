import { defineDriver } from "../../../agent/driver/driver.ts";
import { composite } from "../../composite/interface.ts";
import { virtualBoardConfig } from "./command.ts";

/** Brings along `power` and `serial` of one virtual machine. */
export default defineDriver({
  types: ["jumpstarter_agent.VirtualBoard"],
  summary: "A board without hardware: U-Boot in QEMU with a disk, a network card and a serial console.",
  implements: composite,
  config: virtualBoardConfig,
  needs: () => ({ programs: ["qemu-system-aarch64"] }),
  children: ({ config, path }) => {
    // Sizes are bytes by now; the children read the same map again.
    const board = { ...config, disk_size: `${config.disk_size}`, memory: `${config.memory}`, board: path };
    return {
      power: { type: "jumpstarter_agent.VirtualBoardPower", config: board },
      serial: { type: "jumpstarter_agent.VirtualBoardSerial", config: board },
    };
  },
  open: () => ({ methods: {} }),
});
