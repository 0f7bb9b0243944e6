import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdirSync, readdirSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { stringify } from "yaml";
import { inspectConfig } from "../../../agent/config/load.ts";
import { shippedDrivers } from "../../../agent/driver/catalog.ts";
import { serveControl } from "../../../agent/host/control.ts";
import type { DoctorFinding } from "../../../agent/ops/doctor/finding.ts";
import type { PluggedIn } from "../../../agent/ops/doctor/plugged-in.ts";
import { scratch } from "../../sim/agent.ts";

interface Lab {
  readonly directory: string;
  /** Writes a configuration of the user, and answers its path. */
  readonly configure: (alias: string, exported: object) => string;
  readonly run: (...args: string[]) => Promise<{ code: number | null; out: string; err: string }>;
  readonly doctor: (...words: string[]) => Promise<Answer & { code: number | null }>;
}

interface Answer {
  readonly ok: boolean;
  readonly first: DoctorFinding | null;
  readonly findings: readonly DoctorFinding[];
  readonly tree: readonly PluggedIn[];
}

/** A user with directories of its own, who calls the command line from source. */
function user(t: TestContext): Lab {
  const directory = scratch(t);
  mkdirSync(join(directory, "exporters"));
  const env = {
    ...process.env,
    ...{ JMP_CLIENT_CONFIG_HOME: directory, XDG_RUNTIME_DIR: directory, TMPDIR: directory, JMP_NAME: "" },
  };
  const run: Lab["run"] = async (...args) => {
    const child = spawn(process.execPath, ["--import", "tsx", "agent/cli/jmp-agent.ts", ...args], {
      ...{ env, stdio: ["ignore", "pipe", "pipe"] },
    });
    t.after(() => child.kill("SIGKILL"));
    let [out, err] = ["", ""];
    child.stdout.on("data", (chunk: Buffer) => (out += chunk.toString()));
    child.stderr.on("data", (chunk: Buffer) => (err += chunk.toString()));
    const [code] = (await once(child, "close")) as [number | null];
    return { code, out, err };
  };
  return {
    directory,
    configure(alias, exported) {
      const file = join(directory, "exporters", `${alias}.yaml`);
      writeFileSync(file, stringify({ metadata: { name: alias }, export: exported }));
      return file;
    },
    run,
    async doctor(...words) {
      const { code, out, err } = await run("doctor", "--json", ...words);
      assert.equal(err, "");
      return { code, ...(JSON.parse(out) as Answer) };
    },
  };
}

const mock = { type: "jumpstarter_driver_power.driver.MockPower" };
const serial = (url: string) => ({ type: "jumpstarter_driver_pyserial.driver.PySerial", config: { url } });

test("doctor: a missing device is the first thing to fix, told last and as `first`; then all is well", async (t) => {
  const { directory, configure, run, doctor } = user(t);
  const device = join("/dev", `doctor-test-${process.pid}`);
  const file = configure("bench", { power: mock, console: serial(device) });
  const told = await run("doctor", file);
  assert.equal(told.code, 1, told.err);
  const [before, after] = told.out.split("Fix first: ");
  assert.match(before ?? "", /\ndevices\n {2}problem {2}bench: console: .*\n {11}/);
  assert.ok(after?.startsWith(`bench: console: `) && after.includes(device), after);
  const { code, ok, first, findings } = await doctor(file);
  assert.deepEqual([code, ok, first?.area, first?.level], [1, false, "devices", "problem"]);
  assert.ok(first?.text.includes(device) && first.hint !== undefined);
  assert.ok(findings.some(({ level, area }) => level === "ok" && area === "configuration"));

  configure("bench", { power: mock, console: serial("/dev/null") });
  const green = await doctor(file);
  assert.deepEqual([green.code, green.ok, green.first], [0, true, null], JSON.stringify(green.findings));
  assert.match((await run("doctor", file)).out, /\nno problems, (no|\d+) warnings?\.\n$/);
  // tsx, not the doctor, keeps what it compiles.
  assert.deepEqual(
    readdirSync(directory).filter((name) => !name.startsWith("tsx-")),
    ["exporters"],
    "nothing is left behind",
  );
});

test("doctor: a configuration by alias, all that there are, none, one that is wrong, one that is not there", async (t) => {
  const { directory, configure, run, doctor } = user(t);
  assert.match((await run("doctor")).out, /\nThere is no configuration to look at\.\n/);
  configure("left", { power: mock });
  configure("right", { power: mock });
  const names = async (...words: string[]) =>
    (await doctor(...words)).findings.filter(({ area }) => area === "configuration").map(({ text }) => text);
  const [left, right] = ["left", "right"].map((alias) => {
    return `${join(directory, "exporters", alias)}.yaml: exporter ${alias}`;
  });
  assert.deepEqual(await names(), [left, right]);
  assert.deepEqual(await names("right"), [right]);
  configure("left", { power: { type: "no_such.Driver" } });
  const wrong = await doctor();
  assert.deepEqual([wrong.code, wrong.first?.area], [1, "configuration"]);
  assert.match(wrong.first?.text ?? "", /left\.yaml:\d+:\d+: export\.power\.type: /);
  const missing = await run("doctor", "up");
  assert.equal(missing.code, 1);
  assert.match(missing.err, /^Error: no exporter 'up'/);
});

test("doctor: a port that somebody else holds, a folder that is not made for the look", async (t) => {
  const { directory, configure, doctor } = user(t);
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  t.after(() => server.close());
  const { port } = server.address() as { port: number };
  const root = join(directory, "www");
  const http = { type: "jumpstarter_driver_http.driver.HttpServer", config: { root_dir: root, port } };
  const { code, first } = await doctor(configure("bench", { http }));
  assert.deepEqual([code, first?.area], [1, "ports"]);
  assert.ok(first?.text.includes(`TCP port ${port} is held by `) && first.text.includes(`process ${process.pid}`));
  assert.equal(existsSync(root), false);
});

test("doctor: what a running agent says of its drivers is told, and its ports are no conflict", async (t) => {
  const { directory, configure, doctor } = user(t);
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  t.after(() => server.close());
  const { port } = server.address() as { port: number };
  const file = configure("bench", {
    power: mock,
    http: { type: "jumpstarter_driver_http.driver.HttpServer", config: { root_dir: directory, port } },
  });
  let offline = [{ driver: "power", reason: "the relay says nothing" }];
  const exporter = { exporter: "bench", config: file, state: "AVAILABLE", online: true, lease: null, client: null };
  let refused = false;
  const status = async () => {
    if (refused) throw new Error("too busy");
    return [{ ...exporter, offline }];
  };
  const handlers = { reload: async () => [], status };
  const control = await serveControl(handlers, { XDG_RUNTIME_DIR: directory, TMPDIR: directory });
  t.after(() => control.close());
  const { code, first } = await doctor(file);
  assert.equal(code, 1);
  assert.equal(first?.text, "bench: power: is offline in the running agent: the relay says nothing");
  offline = [];
  const green = await doctor(file);
  assert.deepEqual([green.code, green.first], [0, null]);
  assert.ok(green.findings.some(({ text }) => text.endsWith(`TCP port ${port} is held by a running agent`)));
  refused = true;
  const unheard = await doctor(file);
  assert.equal(unheard.code, 0);
  assert.ok(
    unheard.findings.some(({ level, text }) => {
      return level === "warning" && text === `the running agent ${process.pid} does not say how it is: too busy`;
    }),
  );
});

test("suggest prints what check accepts, also as JSON", async (t) => {
  const { directory, run } = user(t);
  const { code, out, err } = await run("suggest");
  assert.deepEqual([code, err], [0, ""]);
  const file = join(directory, "suggested.yaml");
  writeFileSync(file, `metadata: {name: suggested}\n${out}`);
  const { problems } = await inspectConfig(file, { catalog: shippedDrivers, env: {} });
  assert.deepEqual(problems, []);
  const { found, failures } = JSON.parse((await run("suggest", "--json")).out) as Record<string, unknown[]>;
  assert.ok(Array.isArray(found) && Array.isArray(failures));
});
