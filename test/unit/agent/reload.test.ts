import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { test, type TestContext } from "node:test";
import { serveControl } from "../../../agent/host/control.ts";
import type { ReloadReport } from "../../../agent/host/reload-report.ts";
import { scratch } from "../../sim/agent.ts";

/** Runs `jmp-agent reload` as the user of this directory. */
async function reload(t: TestContext, directory: string, ...args: string[]) {
  const child = spawn(process.execPath, ["--import", "tsx", "agent/cli/jmp-agent.ts", "reload", ...args], {
    env: { ...process.env, RUNTIME_DIRECTORY: "", XDG_RUNTIME_DIR: directory, TMPDIR: directory },
    stdio: ["ignore", "pipe", "pipe"],
  });
  t.after(() => child.kill("SIGKILL"));
  const said = { out: "", err: "" };
  child.stdout.on("data", (chunk: Buffer) => (said.out += chunk.toString()));
  child.stderr.on("data", (chunk: Buffer) => (said.err += chunk.toString()));
  const [code] = (await once(child, "close")) as [number | null];
  return { code, ...said };
}

const bench: ReloadReport = { exporter: "bench", outcome: "unchanged", changes: [], problems: [] };

async function agent(t: TestContext, reports: ReloadReport[]): Promise<string> {
  const directory = scratch(t);
  const server = await serveControl(
    {
      reload: async ({ exporter }) =>
        reports.filter((report) => exporter === undefined || report.exporter === exporter),
      status: async () => null,
    },
    { XDG_RUNTIME_DIR: directory, TMPDIR: directory },
  );
  t.after(() => server.close());
  return directory;
}

test("it tells for each exporter what changes, and when", async (t) => {
  const directory = await agent(t, [
    bench,
    { ...bench, exporter: "rack-1", outcome: "reloaded", changes: ["power: changed"] },
    { ...bench, exporter: "rack-2", outcome: "at-lease-end", changes: ["serial: added"] },
  ]);
  const { code, out, err } = await reload(t, directory);
  assert.equal(err, "");
  const agentName = `agent ${process.pid}`;
  assert.equal(
    out,
    [
      `${agentName}: bench: nothing has changed`,
      `${agentName}: rack-1: changed now`,
      "  power: changed",
      `${agentName}: rack-2: changes when its lease ends`,
      "  serial: added",
      "",
    ].join("\n"),
  );
  assert.equal(code, 0);
});

test("what is refused is told with file, line and column, and fails the command", async (t) => {
  const problem = "/etc/jumpstarter/exporters/rack.yaml:4:3: export.power.type: must not be empty";
  const directory = await agent(t, [bench, { ...bench, exporter: "rack", outcome: "refused", problems: [problem] }]);
  const { code, out } = await reload(t, directory);
  assert.match(out, /: rack: refused, nothing is changed\n {2}\/etc\/jumpstarter\/exporters\/rack.yaml:4:3: export/);
  assert.equal(code, 1);
  assert.equal((await reload(t, directory, "--exporter", "bench", "--pid", String(process.pid))).code, 0);
});

test("nobody to ask, or an exporter that nobody runs, fails the command", async (t) => {
  const nobody = await reload(t, scratch(t));
  assert.equal(nobody.code, 1);
  assert.match(nobody.err, /^Error: no agent runs\nHint: /);
  const directory = await agent(t, [bench]);
  const unknown = await reload(t, directory, "--exporter", "bank");
  assert.equal(unknown.code, 1);
  assert.match(unknown.err, /no agent runs an exporter bank/);
  const wrong = await reload(t, directory, "--pid", "1x");
  assert.equal(wrong.code, 2);
  assert.match(wrong.err, /--pid must be a process number/);
});
