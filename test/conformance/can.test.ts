// The real Python client, which is a python-can bus, drives Can drivers on virtual buses.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
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
    for (const section of sections) assert.match(driven.stdout, new RegExp(`^passed ${section}$`, "m"));
    assert.ok(!agent.output().includes(`"level":"error"`));
  });
});

test("j sends frames and dumps them in the words of can-utils", async (t) => {
  const config = { interface: "virtual", channel: "words" };
  const type = "jumpstarter_driver_can.driver.Can";
  const agent = await startAgent(t, { one: { type, config }, two: { type, config } });
  const env = clientEnv(agent.socketPath);
  const j = (...words: string[]) => run(process.execPath, ["dist/j.js", ...words], { env });
  const frames = ["7FF#", "1234567A#DEADBEEF", "123#R5", "00000005##1AABBCC"];

  const dump = spawn(process.execPath, ["dist/j.js", "two", "dump"], { env: { ...process.env, ...env } });
  t.after(() => dump.kill());
  let printed = "";
  dump.stdout.on("data", (chunk: Buffer) => (printed += chunk.toString()));
  const send = async (frame: string) => assert.equal((await j("one", "send", frame)).code, 0, frame);
  // It hears what is sent from the moment in which it is there, which nobody tells.
  while (printed === "") await send("123#DEADBEEF");
  assert.match(printed, /^\(\d{10}\.\d{6}\) words 123#DEADBEEF$/m);
  for (const frame of frames) await send(frame);
  while (!printed.endsWith("CC\n")) await once(dump.stdout, "data");
  const lines = printed.trim().split("\n");
  assert.deepEqual(
    lines.slice(-frames.length).map((line) => line.split(" ")[2]),
    frames,
  );

  const status = await j("two", "status");
  assert.match(status.stdout, /^channel_info: Virtual bus channel words\nstate: error-active\nqueued_frames: \d+$/m);
  for (const wrong of ["12#", "123", "123#ABC", "123#R100", "12345678##"]) {
    const { code, stderr } = await j("one", "send", wrong);
    assert.deepEqual([code, stderr.includes("is not like 123#DEADBEEF")], [2, true], wrong);
  }
});
