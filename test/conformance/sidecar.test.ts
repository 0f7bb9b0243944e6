// Python drivers through the side-car: what their clients see is what the Python exporter shows them.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { writeFileSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { describe, test, type TestContext } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { stringify } from "yaml";
import { freePort, scratch, startAgent } from "../sim/agent.ts";
import { clientEnv, clientProgram, missingClient, run } from "../sim/python-client.ts";

const version = "0.9.0";
const python = clientProgram(version, "python");
const env = { JMP_AGENT_PYTHON: python, PYTHONPATH: "test/conformance", PYTHONDONTWRITEBYTECODE: "1" };

/** A driver that the agent has itself, by Python. */
const forced = (type: string, config: Record<string, unknown> = {}) => ({
  type: "jumpstarter_agent.SideCar",
  config: { type, config },
});

const lab = {
  type: "sidecar_lab.Lab",
  description: "What stands on shelf 3",
  methods_description: { echo: "Say it again" },
  config: { greeting: "hi", labels: { room: "4" } },
  children: {
    power: { type: "jumpstarter_driver_power.driver.MockPower" },
    group: { children: { deep: { type: "sidecar_lab.Inner" } } },
    same: { ref: "lab.power" },
  },
};

async function drive(host: Record<string, string>, ...sections: string[]): Promise<string> {
  const program = ["test/conformance/drive_sidecar.py", ...sections];
  const { code, stdout, stderr } = await run(python, program, { env: { ...env, ...host } });
  assert.equal(code, 0, `${stdout}\n${stderr}`);
  return stdout.split("\n")[0] ?? "";
}

async function startPythonExporter(t: TestContext, exported: Record<string, unknown>): Promise<number> {
  const config = join(scratch(t), "exporter.yaml");
  const head = { apiVersion: "jumpstarter.dev/v1alpha1", kind: "ExporterConfig", endpoint: "", token: "" };
  writeFileSync(config, stringify({ ...head, metadata: { namespace: "default", name: "p" }, export: exported }));
  const port = await freePort();
  const words = ["run", "--exporter-config", config, "--tls-grpc-listener", `127.0.0.1:${port}`, "--tls-grpc-insecure"];
  const exporter = spawn(clientProgram(version, "jmp"), words, { stdio: "ignore", env: { ...process.env, ...env } });
  t.after(async () => {
    const exited = once(exporter, "exit");
    exporter.kill("SIGTERM");
    await exited;
  });
  return port;
}

async function untilAnswers(port: number): Promise<void> {
  for (let waitedMs = 0; waitedMs < 60_000; waitedMs += 200) {
    const { code } = await run("bash", ["-c", `exec 3<>/dev/tcp/127.0.0.1/${port}`]);
    if (code === 0) return;
    await sleep(200);
  }
}

describe(`Python drivers through the side-car, client ${version}`, { skip: missingClient(version) }, () => {
  test("calls are answered as by the Python exporter, errors and all", async (t) => {
    const port = await startPythonExporter(t, {
      lab: { ...lab, children: { ...lab.children, same: { ref: "lab.power" } } },
    });
    const agent = await startAgent(t, { lab }, { env });
    const ours = await drive(clientEnv(agent.socketPath), "answers");
    await untilAnswers(port);
    const tcp = { JUMPSTARTER_HOST: `127.0.0.1:${port}`, JMP_GRPC_INSECURE: "1", JMP_DRIVERS_ALLOW: "UNSAFE" };
    const theirs = await drive(tcp, "answers");
    const [our, their] = [JSON.parse(ours) as unknown[], JSON.parse(theirs) as unknown[]];
    for (const [index, answer] of their.entries()) assert.deepEqual(our[index], answer);
    assert.equal(our.length, their.length);
  });

  test("streams, resources, trees, and crashes that stay where they are", async (t) => {
    const files = scratch(t);
    const web = createServer((_request, response) => response.end("here")).listen(0, "127.0.0.1");
    await once(web, "listening");
    t.after(() => web.close());
    const { port } = web.address() as AddressInfo;
    const agent = await startAgent(
      t,
      {
        lab,
        broken: { type: "sidecar_lab.Broken" },
        absent: { type: "no_such_module.driver.Absent" },
        other: { type: "jumpstarter_driver_power.driver.MockPower" },
        echo: forced("jumpstarter_driver_network.driver.EchoNetwork"),
        tcp: forced("jumpstarter_driver_network.driver.TcpNetwork", { host: "127.0.0.1", port }),
        serial: forced("jumpstarter_driver_pyserial.driver.PySerial", { url: "loop://" }),
        flasher: forced("jumpstarter_driver_opendal.driver.MockFlasher"),
        storage: forced("jumpstarter_driver_opendal.driver.Opendal", { scheme: "fs", kwargs: { root: files } }),
        shell: forced("jumpstarter_driver_shell.driver.Shell", { methods: { say: "echo said $1" } }),
      },
      { env },
    );
    await drive(clientEnv(agent.socketPath), `streams,${port}`, "resources", "shell", "contained");
    // Said once, by whom, and where.
    const records = agent
      .output()
      .split("\n")
      .filter((line) => line.startsWith("{"))
      .map((line) => JSON.parse(line) as Record<string, unknown>);
    for (const [msg, logger] of [
      ["the lab speaks", "driver.Lab"],
      ["not a driver speaks", "elsewhere"],
      ["the lab prints", "driver.Lab"],
    ]) {
      const found = records.filter((record) => record["msg"] === msg);
      assert.deepEqual(
        found.map((record) => [record["logger"], record["driver"]]),
        [[logger, "lab"]],
        agent.output(),
      );
    }
  });
});
