// Hooks of an agent without a controller: its whole life is one lease.
import assert from "node:assert/strict";
import { once } from "node:events";
import { writeFileSync } from "node:fs";
import { connect } from "node:net";
import { join } from "node:path";
import { describe, test, type TestContext } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { scratch, startAgent, type AgentProcess } from "../sim/agent.ts";
import { clientProgram, clientVersions, missingClient, run } from "../sim/python-client.ts";

const exported = { power: { type: "jumpstarter_driver_power.driver.MockPower" } };
const before = (...lines: string[]) => ({ script: lines.join("\n") + "\n", timeout: 60 });
const steps = ["echo BEFORE_HOOK_DIRECT: executed", "j power on", "echo BEFORE_HOOK_DIRECT: complete"];
const afterLease = before("j power off", "echo AFTER_HOOK_DIRECT: executed");

const shell = async (
  t: TestContext,
  version: string,
  agent: AgentProcess,
  words: readonly string[] = ["--exporter-logs"],
) => {
  const home = scratch(t);
  const address = ["--tls-grpc", `127.0.0.1:${agent.port}`, "--tls-grpc-insecure"];
  const command = ["shell", ...address, ...words, "--", "j", "power", "off"];
  const { code, stdout, stderr } = await run(clientProgram(version, "jmp"), command, {
    env: {
      ...{ HOME: home, XDG_CONFIG_HOME: home, COLUMNS: "400" },
      PATH: `${join(clientProgram(version, "j"), "..")}:${process.env["PATH"]}`,
    },
  });
  return { code, text: stdout + stderr, all: `${stdout}${stderr}\nThe agent:\n${agent.output()}` };
};
const portCloses = async (agent: AgentProcess) => {
  await assert.rejects(once(connect(agent.port, "127.0.0.1"), "connect"), { code: "ECONNREFUSED" });
};

for (const version of clientVersions.filter((release) => release >= "0.8")) {
  describe(`direct hooks and jmp shell ${version}`, { skip: missingClient(version), concurrency: 2 }, () => {
    test("a hook at the start is shown to the client that comes in time, or late", async (t) => {
      const agent = await startAgent(t, exported, { config: { hooks: { beforeLease: before(...steps) } } });
      for (let client = 1; client <= 2; client++) {
        const { code, text, all } = await shell(t, version, agent);
        assert.equal(code, 0, all);
        assert.match(text, /BEFORE_HOOK_DIRECT: executed[^]*BEFORE_HOOK_DIRECT: complete/, all);
      }
      assert.equal(agent.output().match(/BEFORE_HOOK_DIRECT: executed/g)?.length, 1);
      await agent.stop();
      await portCloses(agent);
    });

    test("both hooks: the one after runs at SIGTERM; a passphrase does not keep hooks out", async (t) => {
      const agent = await startAgent(t, exported, {
        config: { hooks: { beforeLease: before(...steps), afterLease } },
        env: { JMP_PASSPHRASE: "correct horse" },
      });
      const { code, all } = await shell(t, version, agent, ["--passphrase", "correct horse"]);
      assert.equal(code, 0, all);
      await agent.stop();
      assert.match(agent.output(), /BEFORE_HOOK_DIRECT: complete[^]*power off[^]*AFTER_HOOK_DIRECT: executed/);
      await portCloses(agent);
    });

    test("endLease: the client is told why, and the hook after does not run", async (t) => {
      const beforeLease = { ...before("echo HOOK_FAIL", "exit 3"), onFailure: "endLease" };
      const agent = await startAgent(t, exported, { config: { hooks: { beforeLease, afterLease } } });
      const { code, text, all } = await shell(t, version, agent);
      assert.notEqual(code, 0, all);
      assert.match(text, /beforeLease hook failed \(on_failure=endLease\): Hook failed with exit code 3/, all);
      await agent.stop();
      assert.doesNotMatch(agent.output(), /AFTER_HOOK_DIRECT/);
    });
  });
}

test("exit: an agent whose hook fails at the start ends", async (t) => {
  const go = join(scratch(t), "go");
  const script = [`until [ -e ${go} ]; do sleep 0.05; done`, "exit 3"];
  const beforeLease = { ...before(...script), onFailure: "exit" };
  const agent = await startAgent(t, exported, { config: { hooks: { beforeLease, afterLease } } });
  const exited = once(agent.child, "exit");
  writeFileSync(go, "");
  const end = await Promise.race([exited, sleep(30_000, "runs on", { ref: false })]);
  assert.deepEqual(end, [1, null], agent.output());
  assert.doesNotMatch(agent.output(), /AFTER_HOOK_DIRECT/);
  await portCloses(agent);
});
