// The real Python clients drive outlets behind Debian's snmpd, plugs behind Mosquitto, HTTP relays and shell scripts.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, test, type TestContext } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { freePort, scratch, startAgent } from "../sim/agent.ts";
import { noMosquitto, startMosquitto } from "../sim/mosquitto.ts";
import { clientEnv, clientProgram, missingClient, run } from "../sim/python-client.ts";
import { rawHttp, response } from "../sim/raw-http.ts";
import { apcStatus, community, noSnmpd, passphrase, privatePassphrase, raritan, startSnmpd } from "../sim/snmpd.ts";
import { startTasmota } from "../sim/tasmota.ts";
import { meddle } from "../sim/udp-meddler.ts";

const version = "0.9.0";

type Family = Record<string, unknown>;

/** Entries of one type by name, as a composite. */
function family(
  type: string,
  common: Record<string, unknown>,
  configs: Record<string, Record<string, unknown>>,
): Family {
  const children = Object.entries(configs).map(([name, config]) => [name, { type, config: { ...common, ...config } }]);
  return { type: "jumpstarter_driver_composite.driver.Composite", children: Object.fromEntries(children) as Family };
}

async function snmp(t: TestContext) {
  const agent = await startSnmpd(t);
  const line = await meddle(t, agent.port);
  line.onRequest = () => [];
  agent.put(`${apcStatus}.21`, "gauge 2305");
  agent.put(`${apcStatus}.22`, "string 0.25");
  agent.stick(`${raritan}.2`);
  const keys = { auth_key: passphrase, priv_key: privatePassphrase };
  const common = { host: "localhost", port: agent.port, plug: 1, user: "plain", confirm: true };
  const entries = family("jumpstarter_driver_snmp.driver.SNMPServer", common, {
    noauth: {},
    auth: { user: "md5", auth_protocol: "MD5", ...keys },
    priv: { user: "md5des", auth_protocol: "MD5", priv_protocol: "DES", ...keys },
    sha2: { user: "sha512aes256", auth_protocol: "SHA-512", priv_protocol: "AES-256", ...keys },
    v1: { version: 1, community },
    v2c: { version: "2c", community },
    stranger: { user: "nobody" },
    forger: { user: "md5", auth_protocol: "MD5", auth_key: "battery horse" },
    stuck: { plug: 2, timeout: 0.3 },
    silent: { host: "127.0.0.1", port: line.port, timeout: 0.3 },
    closed: { host: "127.0.0.1", port: 9, timeout: 0.3 },
    measured: { voltage_oid: `${apcStatus}.21`, voltage_scale: 0.1, current_oid: `${apcStatus}.22` },
  });
  const check = () => {
    // One SET for each command: on, off; on, cycle, off; of the first also by its CLI.
    const sets = agent.sets().filter((set) => set.startsWith(`${raritan}.1 `));
    assert.equal(sets.length, 6 * 6 + 2);
    assert.ok(
      sets.every((set, index) => set.endsWith(index % 2 === 0 ? " 1" : " 0")),
      sets.join(),
    );
  };
  return { entries, check, secrets: [passphrase, privatePassphrase, community, "battery horse"] };
}

async function tasmota(t: TestContext) {
  const broker = await startMosquitto(t);
  const { username, password, ca } = broker;
  const device = await startTasmota(t, broker);
  const [gone, mute] = [
    await startTasmota(t, broker, { name: "gone" }),
    await startTasmota(t, broker, { name: "mute" }),
  ];
  const meter = await startTasmota(t, broker, { name: "meter" });
  mute.mood = "mute";
  await gone.unplug();
  const common = {
    host: "localhost",
    port: broker.port,
    tls: false,
    username,
    password,
    timeout: 10,
    ...device.config,
  };
  const entries = family("jumpstarter_driver_tasmota.driver.TasmotaPower", common, {
    plain: {},
    tls: { tls: true, ca, port: broker.tlsPort },
    websockets: { transport: "websockets", port: broker.websocketsPort },
    unix: { transport: "unix", host: broker.socketPath },
    meter: { ...meter.config, meter: true },
    gone: gone.config,
    mute: { ...mute.config, timeout: 0.3 },
    away: { port: await freePort() },
    guest: { password: "guessed" },
  });
  const check = () => {
    // The session's start switches off, by each of the four drivers of this plug; the last two are those of `cycle`.
    const starts = Array.from({ length: 4 }, () => "POWER OFF");
    const commands = Array.from({ length: 4 }, () => ["POWER ON", "POWER OFF"]).flat();
    assert.deepEqual(device.commands, [...starts, ...commands, "POWER OFF", "POWER ON"]);
    assert.deepEqual(gone.commands, []);
  };
  return { entries, check, secrets: [password, "guessed"] };
}

async function http(t: TestContext) {
  const device = await rawHttp(t, ({ line, body }) => {
    if (line.endsWith("/slow")) return undefined;
    if (line.endsWith("/none")) return response("404 Not Found");
    if (line.endsWith("/page")) return response("200 OK", "<html>");
    if (line.endsWith("/keyless")) return response("200 OK", '{"voltage": 5}');
    return response("200 OK", body === "" ? '{"StatusSNS": {"ENERGY": [{"Voltage": "230.5", "Current": 0.5}]}}' : "");
  });
  const at = (path: string, more: Record<string, unknown> = {}) => {
    return { url: `http://admin:hunter2@127.0.0.1:${device.port}${path}`, ...more };
  };
  const paths = { voltage_path: "StatusSNS.ENERGY.0.Voltage", current_path: "StatusSNS.ENERGY.0.Current" };
  const common = {
    power_on: at("/rpc/Switch.Set?id=0&on=true"),
    power_off: at("/relay", { method: "POST", data: "turn=off" }),
  };
  const entries = family("jumpstarter_driver_http_power.driver.HttpPower", common, {
    relay: { power_read: at("/status", paths) },
    keyless: { power_read: at("/keyless") },
    lost: { power_read: at("/status", { voltage_path: "a.b" }) },
    odd: { power_read: at("/status", { voltage_path: "StatusSNS" }) },
    page: { power_read: at("/page") },
    broken: { power_on: at("/none"), power_off: at("/slow"), timeout: 0.3 },
  });
  const check = () => {
    const seen = device.requests.map(({ line, body }) => `${line} ${body}`.trim());
    const [on, off] = ["GET /rpc/Switch.Set?id=0&on=true", "POST /relay turn=off"];
    assert.deepEqual(seen.slice(0, 5), [on, off, "GET /status", off, on]);
    const basic = `Basic ${Buffer.from("admin:hunter2").toString("base64")}`;
    assert.ok(device.requests.every(({ headers }) => headers.get("authorization") === basic));
    assert.ok(device.requests.every(({ headers }) => !headers.has("content-type")));
  };
  return { entries, check, secrets: ["hunter2"] };
}

function shell(go: string) {
  const methods = {
    echo: { command: 'echo "$@"', description: "Says it again" },
    variable: 'echo "$ENV1"',
    lines: 'echo "$0"\necho "$1"\necho "$2"',
    mixed: "echo out; sleep 0.05; echo err >&2; exit 42",
    fail: "exit 1",
    killed: "kill -9 $$",
    default: {},
    unicode:
      "printf 'a\\xc3'; sleep 0.1; printf '\\xbcß\\xe2\\x82'; sleep 0.1; printf '\\xac\\xf0\\x9f'; sleep 0.1; printf '\\x98\\x80z\\n'",
    stuck: { command: "echo begun; sleep 100", description: "Never ends", timeout: 0.5 },
    dialogue: `echo ready; until [ -e ${go} ]; do sleep 0.02; done; echo done`,
    forever: "sleep 1000 & echo $$ $!; wait",
    much: "head -c 4000000 /dev/zero | tr '\\0' x",
    empty: " ",
  };
  const type = "jumpstarter_driver_shell.driver.Shell";
  const entries = family(type, {}, { scripts: { methods }, elsewhere: { methods: { echo: "echo" }, cwd: "/no/such" } });
  return { entries };
}

/** A zombie does not: nobody may reap it in a container. */
function lives(pid: string): boolean {
  try {
    return !/\) Z /.test(readFileSync(`/proc/${pid}/stat`, "utf8"));
  } catch {
    return false;
  }
}

describe(`Python client ${version}`, { skip: missingClient(version) }, () => {
  const missing = noSnmpd || noMosquitto;
  test("SNMP outlets, Tasmota plugs, HTTP relays and shell scripts", { skip: missing }, async (t) => {
    const go = join(scratch(t), "go");
    const families = { snmp: await snmp(t), tasmota: await tasmota(t), http: await http(t) };
    const entries = Object.entries(families).map(([name, each]) => [name, each.entries]);
    const agent = await startAgent(t, { ...(Object.fromEntries(entries) as Family), shell: shell(go).entries });
    const sections = [...Object.keys(families), "shell"];
    const { code, stdout, stderr } = await run(
      clientProgram(version, "python"),
      ["test/conformance/drive_outlets.py", ...sections],
      { env: { ...clientEnv(agent.socketPath), GO: go } },
    );
    const told = `${stdout}\n${stderr}\nagent:\n${agent.output()}`;
    assert.equal(code, 0, told);
    for (const section of sections) assert.match(stdout, new RegExp(`passed ${section}`), told);
    // Its client has gone, and with it the script and what it had started.
    const pids = /^left (\d+) (\d+)$/m.exec(stdout)?.slice(1) ?? [];
    assert.equal(pids.length, 2, told);
    for (const pid of pids) while (lives(pid)) await sleep(20);
    for (const { check, secrets } of Object.values(families)) {
      check();
      for (const secret of secrets) assert.ok(!agent.output().includes(secret), `${secret} is in the log`);
    }
  });
});
