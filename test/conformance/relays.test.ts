// The real Python clients drive a power strip over HTTP and a relay board on a serial port.
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { startAgent } from "../sim/agent.ts";
import { startEnergenie } from "../sim/energenie.ts";
import { simulateNoyito } from "../sim/noyito.ts";
import { noPtys, plugCable } from "../sim/pty.ts";
import { clientEnv, clientProgram, missingClient, run } from "../sim/python-client.ts";

/** The release whose clients are installed with these drivers. */
const version = "0.9.0";

async function drive(socketPath: string, section: string, output: () => string): Promise<void> {
  const words = ["test/conformance/drive_relays.py", section];
  const { code, stdout, stderr } = await run(clientProgram(version, "python"), words, { env: clientEnv(socketPath) });
  assert.equal(code, 0, `${stdout}\n${stderr}\nagent:\n${output()}`);
  assert.match(stdout, new RegExp(`passed ${section}`));
}

describe(`Python client ${version}`, { skip: missingClient(version) }, () => {
  test("an EnerGenie power strip", async (t) => {
    const strip = await startEnergenie(t);
    const entry = (config: Record<string, unknown>) => ({
      type: "jumpstarter_driver_energenie.driver.EnerGenie",
      config: { host: strip.host, ...config },
    });
    const agent = await startAgent(t, { outlet: entry({ slot: 2 }), stranger: entry({ password: "guessed" }) });
    await drive(agent.socketPath, "energenie", () => agent.output());
    const set = strip.requests.filter((request) => request.startsWith("POST / "));
    assert.deepEqual(
      set,
      ["cte2=1", "cte2=0", "cte2=1", "cte2=0"].map((body) => `POST / ${body}`),
    );
    assert.equal(strip.session, undefined);
    assert.ok(!agent.output().includes("guessed"));
  });

  test("a NOYITO relay board", { skip: noPtys }, async (t) => {
    const cable = await plugCable(t);
    const board = simulateNoyito(cable.board);
    const entry = (config: Record<string, unknown>) => ({
      type: "jumpstarter_driver_noyito_relay.driver.NoyitoPowerSerial",
      config: { port: cable.path, ...config },
    });
    const agent = await startAgent(t, {
      one: entry({}),
      two: entry({ channel: 2 }),
      both: entry({ all_channels: true }),
      missing: entry({ port: "/dev/ttyNowhere" }),
    });
    await drive(agent.socketPath, "noyito", () => agent.output());
    assert.deepEqual(board.relays, [true, false]);

    // Both `j` say the same to the same words.
    const env = clientEnv(agent.socketPath);
    const theirs = await run(clientProgram(version, "j"), ["both", "status"], { env });
    const ours = await run(process.execPath, ["dist/j.js", "both", "status"], { env });
    assert.equal(theirs.stdout, "partial\n", theirs.stderr);
    assert.deepEqual([ours.code, ours.stdout], [0, theirs.stdout], ours.stderr);
    const help = await run(process.execPath, ["dist/j.js", "both", "--help"], { env });
    assert.match(help.stdout, /status +Query relay channel state/);
  });
});
