/** The built agent as a process: devices that are missing, and calls that do not want to end. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { connect } from "../../agent/client/connect.ts";
import { power } from "../../boards/power/interface.ts";
import { scratch, startAgent } from "../sim/agent.ts";
import { noPtys } from "../sim/pty.ts";
import { eventually } from "../sim/rig.ts";

test(
  "a device that is missing is offline by name, the others work, and it is used when it comes",
  { skip: noPtys },
  async (t) => {
    const device = join(scratch(t), "ttyUSB0");
    const agent = await startAgent(t, {
      power: { type: "jumpstarter_driver_power.driver.MockPower" },
      serial: { type: "jumpstarter_driver_pyserial.driver.PySerial", config: { url: device } },
    });
    const client = await connect({ host: agent.socketPath });
    t.after(() => client.close());
    const serial = client.find("serial");
    assert.ok(serial);
    await assert.rejects(serial.stream(), (error: Error & { code?: string }) => {
      assert.equal(error.code, "E_CONNECTION");
      assert.ok(error.message.includes(device), error.message);
      return true;
    });
    // The log is written in batches.
    await eventually("the log says so", () => /serial is offline: .*ttyUSB0/.test(agent.output()));
    await client.find("power")?.as(power).on();

    const socat = spawn("socat", [`pty,rawer,link=${device}`, "exec:cat"], { stdio: "ignore" });
    t.after(() => socat.kill());
    await eventually("the device is there", () => existsSync(device));
    await sleep(1_100); // an offline driver is tried again once a second
    const stream = await serial.stream();
    const echoed = once(stream, "data");
    stream.write(Buffer.from("hello"));
    assert.equal(String((await echoed)[0]), "hello");
    stream.destroy();
    assert.equal(await agent.stop(), 143);
  },
);

test("SIGTERM ends the agent although a script ignores it and a client holds a stream", async (t) => {
  const agent = await startAgent(t, {
    shell: {
      type: "jumpstarter_driver_shell.driver.Shell",
      config: { methods: { stubborn: "trap '' TERM HUP INT; echo $$; while :; do sleep 1; done" }, timeout: 600 },
    },
    echo: { type: "jumpstarter_driver_network.driver.EchoNetwork" },
  });
  const client = await connect({ host: agent.socketPath });
  t.after(() => client.close());
  const stream = await client.find("echo")?.stream();
  assert.ok(stream);
  const items = client.find("shell")?.streamingCall("call_method", ["stubborn", {}]);
  const [printed] = (await items?.next())?.value as [string];
  const script = `/proc/${Number(printed)}`;
  assert.ok(existsSync(script));
  const rest = assert.rejects(async () => {
    while ((await items?.next())?.done === false);
  });
  assert.equal(await agent.stop(), 143);
  await rest;
  assert.ok(!existsSync(agent.socketPath));
  await eventually("the script has gone with the agent", () => !existsSync(script));
});
