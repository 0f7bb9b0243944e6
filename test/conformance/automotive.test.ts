// The same calls by the same Python clients, to our drivers and to the Python ones, each with its own ECUs: the same results.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, test, type TestContext } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { stringify } from "yaml";
import { connect, type Client } from "../../agent/client/connect.ts";
import { can } from "../../boards/can/interface.ts";
import { freePort, scratch, startAgent } from "../sim/agent.ts";
import { ecuAddress, startDoipEntity } from "../sim/doip-entity.ts";
import { clientEnv, clientProgram, missingClient, run } from "../sim/python-client.ts";
import { startSomeIpService } from "../sim/someip-service.ts";
import { ecuIds, serveOnCan } from "../sim/uds-on-can.ts";
import { UdsServer } from "../sim/uds-server.ts";
import { serveOnEthernet, XcpSlave } from "../sim/xcp-slave.ts";

/** The release whose clients and drivers are installed. */
const version = "0.9.0";

/** ECUs of one exporter's own, and the drivers that speak with them. */
async function startLab(t: TestContext) {
  const [raw, diagnostic] = [await startDoipEntity(t), await startDoipEntity(t)];
  const service = await startSomeIpService(t);
  const slave = new XcpSlave();
  const ethernet = await serveOnEthernet(t, slave);
  const onCan = new UdsServer();
  const doip = (entity: typeof raw) => ({
    ecu_ip: entity.host,
    tcp_port: entity.port,
    ecu_logical_address: ecuAddress,
  });
  const entries = {
    doip: { type: "jumpstarter_driver_doip.driver.DoIP", config: doip(raw) },
    uds_doip: { type: "jumpstarter_driver_uds_doip.driver.UdsDoip", config: doip(diagnostic) },
    uds_can: {
      type: "jumpstarter_driver_uds_can.driver.UdsCan",
      config: { channel: "bus", interface: "virtual", ...ecuIds },
    },
    can: { type: "jumpstarter_driver_can.driver.Can", config: { channel: "bus", interface: "virtual" } },
    someip: {
      type: "jumpstarter_driver_someip.driver.SomeIp",
      config: {
        host: service.host.replace(/\d+$/, "254"),
        port: await freePort(),
        multicast_group: service.group,
        multicast_port: service.groupPort,
        remote_host: service.host,
        remote_port: service.port,
      },
    },
    xcp: { type: "jumpstarter_driver_xcp.driver.Xcp", config: { host: "127.0.0.1", port: ethernet.port } },
  };
  return { entries, raw, diagnostic, onCan, service, slave };
}

type Lab = Awaited<ReturnType<typeof startLab>>;
type Results = Record<string, unknown>;

/** @param host of a client of ours, that gives life to the ECU on the virtual CAN bus of the exporter */
async function drive(client: Client, lab: Lab, env: Record<string, string>, ...more: string[]): Promise<Results> {
  const over = new AbortController();
  const node = client.find("can");
  assert.ok(node);
  const served = serveOnCan(node.as(can), lab.onCan, over.signal);
  try {
    const words = ["test/conformance/drive_automotive.py", ...more];
    const { code, stdout, stderr } = await run(clientProgram(version, "python"), words, { env });
    assert.equal(code, 0, stderr);
    // pyxcp says hello on standard output.
    return JSON.parse(stdout.trimEnd().split("\n").at(-1) ?? "") as Results;
  } finally {
    over.abort();
    await served;
    client.close();
  }
}

async function byAgent(t: TestContext): Promise<{ lab: Lab; results: Results }> {
  const lab = await startLab(t);
  const agent = await startAgent(t, lab.entries);
  const client = await connect({ host: agent.socketPath });
  return { lab, results: await drive(client, lab, clientEnv(agent.socketPath), "ours") };
}

async function byPython(t: TestContext): Promise<{ lab: Lab; results: Results }> {
  const lab = await startLab(t);
  const folder = scratch(t);
  const config = join(folder, "exporter.yaml");
  writeFileSync(
    config,
    stringify({
      apiVersion: "jumpstarter.dev/v1alpha1",
      kind: "ExporterConfig",
      metadata: { namespace: "default", name: "python" },
      endpoint: "",
      token: "",
      export: lab.entries,
    }),
  );
  const port = await freePort();
  const words = ["run", "--exporter-config", config, "--tls-grpc-listener", `127.0.0.1:${port}`, "--tls-grpc-insecure"];
  const exporter = spawn(clientProgram(version, "jmp"), words, { stdio: ["ignore", "pipe", "pipe"] });
  let printed = "";
  exporter.stdout.on("data", (chunk: Buffer) => (printed += chunk.toString()));
  exporter.stderr.on("data", (chunk: Buffer) => (printed += chunk.toString()));
  const exited = once(exporter, "exit");
  t.after(async () => {
    if (exporter.exitCode === null) exporter.kill("SIGTERM");
    await exited;
    // Its worker has the pipes, too.
    exporter.stdout.destroy();
    exporter.stderr.destroy();
  });
  const host = `127.0.0.1:${port}`;
  let client: Client | undefined;
  for (let waitedMs = 0; client === undefined; waitedMs += 250) {
    assert.ok(waitedMs < 60_000 && exporter.exitCode === null, `the Python exporter does not start:\n${printed}`);
    client = await connect({ host, insecure: true }).catch(() => undefined);
    if (client === undefined) await sleep(250);
  }
  const pyxcp = join(folder, "pyxcp_conf.py");
  const { port: slavePort } = lab.entries.xcp.config;
  writeFileSync(
    pyxcp,
    `c = get_config()\nc.Transport.layer = "ETH"\nc.Transport.Eth.host = "127.0.0.1"\n` +
      `c.Transport.Eth.protocol = "TCP"\nc.Transport.Eth.port = ${slavePort}\n`,
  );
  const env = { ...clientEnv(host), JMP_GRPC_INSECURE: "1", PYXCP_CONFIG: pyxcp };
  return { lab, results: await drive(client, lab, env, "theirs") };
}

describe(`Python client ${version}`, { skip: missingClient(version) }, () => {
  test("diagnostics, SOME/IP and XCP give what the Python drivers give", async (t) => {
    const [ours, theirs] = await Promise.all([byAgent(t), byPython(t)]);
    // doipclient 1.2.2 gives these fields other names than this release of the Python driver looks for.
    for (const name of ["doip status", "doip identify", "doip identify by VIN"]) {
      assert.equal(theirs.results[name], "raises DriverError UNKNOWN", name);
      delete theirs.results[name];
    }
    for (const [name, value] of Object.entries(theirs.results)) assert.deepEqual(ours.results[name], value, name);
    assert.ok(Object.keys(theirs.results).length > 130);
    // Not only the results are the same, but what the ECUs heard.
    assert.deepEqual(ours.lab.onCan.requests, theirs.lab.onCan.requests);
    assert.deepEqual(ours.lab.diagnostic.ecu.requests, theirs.lab.diagnostic.ecu.requests);
    assert.deepEqual(ours.lab.raw.ecu.requests, theirs.lab.raw.ecu.requests);
    assert.deepEqual(ours.lab.slave.packets, theirs.lab.slave.packets);
    assert.equal(ours.lab.service.requests[0], theirs.lab.service.requests[0]);
  });
});
