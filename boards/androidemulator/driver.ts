import { defineDriver } from "../../agent/driver/driver.ts";
import { adb } from "../adb/interface.ts";
import { androidEmulator } from "./interface.ts";
import { emulatorConfig, emulatorOf } from "./parts.ts";

export default defineDriver({
  types: ["jumpstarter_driver_androidemulator.driver.AndroidEmulator"],
  summary: "An Android virtual device of the Android SDK's emulator, with its ADB server.",
  implements: androidEmulator,
  config: emulatorConfig,
  needs: ({ emulator_path, console_port }) => ({
    programs: [emulator_path, "adb", "setpriv"],
    rights: ["kvm"],
    ports: [console_port, console_port + 1].map((port) => ({ protocol: "tcp" as const, port, hosts: ["127.0.0.1"] })),
  }),
  children: ({ config, path }) => ({
    adb: { type: "jumpstarter_driver_adb.driver.AdbServer", config: { port: config.adb_server_port } },
    power: {
      type: "jumpstarter_driver_androidemulator.driver.AndroidEmulatorPower",
      config: { ...config, emulator: path },
    },
  }),
  open(context) {
    const emulator = emulatorOf(context, context.path);
    emulator.startAdb = async () => context.children.get("adb")?.as(adb).start_server();
    return {
      methods: {
        set_headless(_call, headless) {
          emulator.headless = headless;
          context.log.info(`Headless mode set to ${headless}`);
        },
      },
      release: () => emulator.release(),
    };
  },
});
