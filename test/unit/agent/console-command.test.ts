/** The words that show what consoles have printed, as processes beside a real agent, and after its death. */
import assert from "node:assert/strict";
import { once } from "node:events";
import { test, type TestContext } from "node:test";
import { connect } from "../../../agent/client/connect.ts";
import { serialPort } from "../../../boards/serial/interface.ts";
import { scratch, startAgent } from "../../sim/agent.ts";
import { clientEnv, run } from "../../sim/python-client.ts";
import { noPtys, plugCable } from "../../sim/pty.ts";
import { eventually } from "../../sim/rig.ts";

/** A board that has been switched on and has booted, with a recorded console. */
async function bootedBoard(t: TestContext) {
  const directory = scratch(t);
  const cable = await plugCable(t);
  const record = { directory, boot_pattern: "login:" };
  const agent = await startAgent(t, {
    power: { type: "jumpstarter_driver_power.driver.MockPower" },
    serial: { type: "jumpstarter_driver_pyserial.driver.PySerial", config: { url: cable.path, record } },
  });
  const j = async (...words: string[]) =>
    run(process.execPath, ["dist/j.js", ...words], { env: clientEnv(agent.socketPath) });
  const onHost = async (...words: string[]) =>
    run(process.execPath, ["dist/jmp-agent.js", "console", "--directory", directory, ...words], {});
  const client = await connect({ host: agent.socketPath });
  t.after(() => client.close());
  const serial = client.find("serial")?.as(serialPort);
  assert.ok(serial);
  await eventually("it records", async () => (await serial.status()).record?.state === "recording");
  assert.equal((await j("power", "on")).code, 0);
  cable.board.write("U-Boot 2023.01\r\nKernel panic - not really\r\nboard login: ");
  await eventually("it has booted", async () => (await serial.status()).record?.boots.length === 1);
  return { agent, cable, j, onHost };
}

test("j serial log prints the record of the lease", { skip: noPtys }, async (t) => {
  const { j } = await bootedBoard(t);
  const all = await j("serial", "log");
  assert.equal(all.code, 0, all.stderr);
  assert.match(all.stdout, /power.*\n.*U-Boot 2023\.01\n.*Kernel panic - not really\n.*board login: \n/s);
  assert.match((await j("serial", "log", "-n", "2")).stdout, /^[^\n]*login: ?\n[^\n]*booted in [0-9.]+ s[^\n]*\n$/);
  assert.match((await j("serial", "log", "--grep", "panic|oops")).stdout, /^[^\n]*Kernel panic - not really\n$/);
  assert.match((await j("serial", "log", "--boots")).stdout, /power[^\n]*\n[^\n]*boot[^\n]*[0-9.]+ ?s/);
  assert.equal(
    (await j("serial", "log", "--raw")).stdout,
    "U-Boot 2023.01\r\nKernel panic - not really\r\nboard login: ",
  );
  for (const line of (await j("serial", "log", "--json")).stdout.trimEnd().split("\n")) {
    assert.ok(Date.parse((JSON.parse(line) as { time: string }).time) > 0, line);
  }
  const both = await j("serial", "log", "--raw", "--boots");
  assert.deepEqual([both.code, both.stderr.includes("--raw cannot be combined")], [2, true], both.stderr);
  const pattern = await j("serial", "log", "--grep", "(");
  assert.deepEqual([pattern.code, pattern.stdout], [2, ""], pattern.stderr);
});

test("jmp-agent console prints what agents have recorded, also when they are dead", { skip: noPtys }, async (t) => {
  const { agent, onHost } = await bootedBoard(t);
  await eventually("it is in the files", async () => (await onHost("test")).stdout.includes("login:"));
  assert.match((await onHost()).stdout, /^ *test +serial +1 KiB\n$/);
  agent.child.kill("SIGKILL");
  await once(agent.child, "exit");
  const { code, stdout } = await onHost("test", "serial");
  assert.equal(code, 0);
  assert.match(stdout, /U-Boot 2023\.01\n.*Kernel panic - not really\n.*board login: \n/s);
  assert.match((await onHost("test", "--lines", "1", "--since", "1h")).stdout, /^[^\n]*booted in [^\n]*\n$/);
  assert.equal((await onHost("test", "--since", "2100-01-01T00:00:00Z")).stdout, "");
  const other = await onHost("other");
  assert.equal(other.code, 1);
  assert.match(other.stderr, /nothing is recorded of other in .*record: true/s);
});
