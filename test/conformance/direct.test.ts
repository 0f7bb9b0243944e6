// `jmp shell --tls-grpc … -- j …`: how people reach an agent without a controller. The clients know it since 0.8.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { join } from "node:path";
import { describe, test, type TestContext } from "node:test";
import { scratch, startAgent, type AgentProcess } from "../sim/agent.ts";
import { clientProgram, clientVersions, missingClient, run, type Finished } from "../sim/python-client.ts";

const exported = {
  power: { type: "jumpstarter_driver_power.driver.MockPower" },
  shell: { type: "jumpstarter_driver_shell.driver.Shell", config: { methods: { hello: "echo hello from $0" } } },
  storage: { type: "jumpstarter_driver_opendal.driver.MockStorageMux" },
};

for (const version of clientVersions.filter((release) => release >= "0.8")) {
  describe(`jmp shell ${version}`, { skip: missingClient(version) }, () => {
    const shell = (t: TestContext, agent: AgentProcess, words: string[], command: string[], env = {}) => {
      const home = scratch(t);
      return run(
        clientProgram(version, "jmp"),
        ["shell", "--tls-grpc", `127.0.0.1:${agent.port}`, ...words, "--", ...command],
        {
          env: {
            HOME: home,
            XDG_CONFIG_HOME: home,
            PATH: `${join(clientProgram(version, "j"), "..")}:${process.env["PATH"]}`,
            ...env,
          },
        },
      );
    };
    const passes = (agent: AgentProcess, result: Finished, output: RegExp) => {
      assert.equal(result.code, 0, result.stdout + result.stderr + agent.output());
      assert.match(result.stdout + result.stderr, output);
    };

    test("plain text, one command after the other", async (t) => {
      const agent = await startAgent(t, exported);
      const insecure = ["--tls-grpc-insecure"];
      passes(agent, await shell(t, agent, insecure, ["j", "power", "on"]), /^/);
      passes(agent, await shell(t, agent, insecure, ["j", "shell", "hello"]), /hello from hello/);
      passes(
        agent,
        await shell(t, agent, ["--exporter-logs", ...insecure], ["j", "power", "cycle", "--wait", "1"]),
        /power on/,
      );
      const wrong = await shell(t, agent, insecure, ["j", "power", "no-such"]);
      assert.notEqual(wrong.code, 0);
    });

    test("without --tls-grpc-insecure a plain-text agent is refused", async (t) => {
      const agent = await startAgent(t, exported);
      assert.notEqual((await shell(t, agent, [], ["j", "power", "on"])).code, 0);
    });

    test("passphrase: right, wrong, missing; never in the agent's log", async (t) => {
      const agent = await startAgent(t, exported, {
        args: ["--tls-grpc-insecure"],
        env: { JMP_PASSPHRASE: "correct horse" },
      });
      const words = (passphrase: string) => ["--tls-grpc-insecure", "--passphrase", passphrase];
      passes(agent, await shell(t, agent, words("correct horse"), ["j", "power", "on"]), /^/);
      for (const refused of [words("wrong battery"), ["--tls-grpc-insecure"]]) {
        const result = await shell(t, agent, refused, ["j", "power", "on"]);
        assert.notEqual(result.code, 0);
        assert.match(result.stdout + result.stderr, /invalid or missing passphrase/);
      }
      assert.match(agent.output(), /authentication failed: invalid or missing passphrase/);
      assert.doesNotMatch(agent.output(), /wrong battery|correct horse/);
    });

    test("TLS with a certificate of our own", async (t) => {
      const directory = scratch(t);
      const [cert, key] = [join(directory, "cert.pem"), join(directory, "key.pem")];
      const made = ["-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"];
      const subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"];
      execFileSync("openssl", ["req", ...made, ...subject, "-keyout", key, "-out", cert], { stdio: "ignore" });
      const agent = await startAgent(t, exported, { args: ["--tls-cert", cert, "--tls-key", key] });
      // The clients have no option for a CA of one's own; gRPC's own variable serves both `jmp` and the `j` inside.
      const trusted = { GRPC_DEFAULT_SSL_ROOTS_FILE_PATH: cert };
      passes(agent, await shell(t, agent, [], ["j", "power", "on"], trusted), /^/);
      assert.notEqual((await shell(t, agent, [], ["j", "power", "on"])).code, 0, "an unknown CA is refused");
    });
  });
}
