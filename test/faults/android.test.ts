// An ADB server and an Android emulator (a double) end with their agent, however that ends.
import assert from "node:assert/strict";
import { once } from "node:events";
import { test } from "node:test";
import { connect } from "../../agent/client/connect.ts";
import { dial } from "../../agent/stream/dial.ts";
import { power } from "../../boards/power/interface.ts";
import { adbHome, missingAdb } from "../sim/adb.ts";
import { startAgent } from "../sim/agent.ts";
import { emulatorDouble } from "../sim/android-emulator.ts";
import { eventually } from "../sim/rig.ts";

adbHome();

const isOpen = async (port: number) => {
  const socket = await dial({ host: "127.0.0.1", port }, "port", new AbortController().signal).catch(() => undefined);
  socket?.destroy();
  return socket !== undefined;
};

for (const signal of ["SIGTERM", "SIGKILL"] as const) {
  test(`after ${signal} neither is left`, { skip: missingAdb() }, async (t) => {
    const double = await emulatorDouble(t);
    const agent = await startAgent(t, {
      phone: {
        type: "jumpstarter_driver_androidemulator.driver.AndroidEmulator",
        config: {
          avd_name: "pixel",
          emulator_path: double.program,
          console_port: double.consolePort,
          adb_server_port: double.adbServerPort,
        },
      },
    });
    const client = await connect({ host: agent.socketPath });
    t.after(() => client.close());
    await client.root.find("phone.power")?.as(power).on();
    assert.deepEqual([await isOpen(double.consolePort), await isOpen(double.adbServerPort)], [true, true]);
    agent.child.kill(signal);
    await once(agent.child, "exit");
    await eventually(
      "both have gone",
      async () => !(await isOpen(double.consolePort)) && !(await isOpen(double.adbServerPort)),
    );
  });
}
