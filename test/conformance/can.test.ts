// The real Python client, which is a python-can bus, drives Can drivers on virtual buses.
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { startAgent } from "../sim/agent.ts";
import { clientEnv, clientProgram, missingClient, run } from "../sim/python-client.ts";

/** The release whose environment has the CAN package. */
const version = "0.9.0";
const sections = [
  ...["send_recv", "properties", "iterator", "filters", "notifier", "redirect"],
  ...["periodic_local", "periodic_remote", "shutdown", "layers"],
];

describe(`Python client ${version}`, { skip: missingClient(version) }, () => {
  test("CAN: everything that the package's own tests do", async (t) => {
    const type = "jumpstarter_driver_can.driver.Can";
    const drivers = sections.flatMap((section) =>
      [1, 2].map((end) => [`${section}_${end}`, { type, config: { interface: "virtual", channel: section } }]),
    );
    const agent = await startAgent(t, Object.fromEntries(drivers) as Record<string, unknown>);
    const env = clientEnv(agent.socketPath);
    const driven = await run(clientProgram(version, "python"), ["test/conformance/drive_can.py", ...sections], { env });
    assert.equal(driven.code, 0, `${driven.stdout}\n${driven.stderr}\nagent:\n${agent.output().slice(-5000)}`);
    for (const section of sections) assert.match(driven.stdout, new RegExp(`^passed ${section} `, "m"));
    assert.ok(!agent.output().includes(`"level":"error"`));
  });
});
