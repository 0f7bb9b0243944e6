// Hooks of leased exporters as the unmodified Python client shows them: the scenarios of Jumpstarter's own e2e suite, by the
// letters that they have there.
import assert from "node:assert/strict";
import { chmodSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { ExporterStatus } from "../../proto/gen/jumpstarter/v1/common.ts";
import { scratch } from "../sim/agent.ts";
import { startController, type Lab } from "../sim/controller/controller.ts";
import { startLeasedAgent, type LeasedAgent } from "../sim/leased-agent.ts";
import { leasedShell } from "../sim/leased-shell.ts";
import { clientProgram, missingClient } from "../sim/python-client.ts";

const exported = {
  power: { type: "jumpstarter_driver_power.driver.MockPower" },
  storage: { type: "jumpstarter_driver_opendal.driver.MockStorageMux" },
};

interface Scenario {
  readonly what: string;
  readonly beforeLease?: Record<string, unknown>;
  readonly afterLease?: Record<string, unknown>;
  /** Which end the client's command has. Default: a good one. */
  readonly client?: "fails" | "either";
  readonly shows?: readonly (string | RegExp)[];
  readonly hides?: readonly (string | RegExp)[];
  /** What neither the client nor the exporter's log may say. */
  readonly never?: string;
  /** Default: the exporter can be leased again. */
  readonly then?: "exits";
  readonly leases?: number;
  readonly words?: readonly string[];
  readonly command?: readonly string[];
  /** When the client is stopped. */
  readonly limitMs?: number;
}

const script = (...lines: string[]) => ({ script: lines.join("\n") + "\n", timeout: 60 });
const failing = (onFailure: string) => ({ ...script('echo "HOOK_FAIL: $LEASE_NAME"', "exit 3"), onFailure });
/** Fails when the client has come; the controller sends away those who come later. */
const failingSlowly = (onFailure: string) => ({
  ...script("until [ -e $MEETINGS/$LEASE_NAME ]; do sleep 0.05; done", 'echo "HOOK_FAIL: $LEASE_NAME"', "exit 3"),
  onFailure,
});
const withPower = {
  beforeLease: script(
    'echo "BEFORE_HOOK: lease=$LEASE_NAME client=$CLIENT_NAME"',
    "j power on",
    'echo "BEFORE_HOOK: complete"',
  ),
  afterLease: script('echo "AFTER_HOOK: cleaning up"', "j power off", 'echo "AFTER_HOOK: complete"'),
};
const notRun = script("echo AFTER_SHOULD_NOT_RUN");
const noRetry = ["--retry-timeout", "0"];
const endedByHook = /beforeLease hook failed \(on_failure=\w+[^)]*\): Hook failed with exit code 3/;
/** What Jumpstarter's own suite takes for it: the client may come in when the exporter has already cleaned up. */
const endedSomehow = new RegExp(
  "beforeLease hook fail|Exporter shutting down|Connection to exporter lost|" +
    "did not respond to initial status check|unreachable after",
);
const expiring = (seconds: number) => ({
  words: ["--duration", `${seconds}s`, "--retry-timeout", "75"],
  command: ["sleep", "30"],
  client: "either" as const,
  hides: ["Error:"],
  // A client that came too late tries again for as long as it is told to; Jumpstarter's own suite stops it as well.
  limitMs: 60_000,
});

const scenarios: Scenario[] = [
  {
    what: "A1, H1: a hook before the lease is shown, and nothing of how it is run",
    beforeLease: script("echo BEFORE_HOOK_MARKER: executed"),
    shows: ["BEFORE_HOOK_MARKER: executed"],
    hides: ["Starting hook subprocess", "Creating PTY", "Hook executed successfully", "Using dedicated", "Executing"],
  },
  {
    what: "A2: a hook after the lease is shown",
    afterLease: script("echo AFTER_HOOK_MARKER: executed"),
    shows: ["AFTER_HOOK_MARKER: executed"],
  },
  {
    what: "A3, E1-E3: both hooks in their order, with j and the lease's names",
    ...withPower,
    shows: [
      /BEFORE_HOOK: lease=[0-9a-f-]+ client=ann\b/,
      "BEFORE_HOOK: complete",
      "AFTER_HOOK: cleaning up",
      "AFTER_HOOK: complete",
      /BEFORE_HOOK: complete[^]*AFTER_HOOK: cleaning/,
    ],
  },
  {
    what: "B1, H3: warn, the hook before fails: a warning, and the lease goes on",
    beforeLease: failing("warn"),
    shows: [/HOOK_FAIL: [0-9a-f-]+/, "Warning: beforeLease hook warning: Hook failed with exit code 3"],
  },
  {
    what: "B2, B3: endLease, the hook before fails: the client is told, twice, and the exporter is free again",
    beforeLease: failingSlowly("endLease"),
    words: noRetry,
    leases: 2,
    client: "fails",
    shows: [endedByHook, "HOOK_FAIL"],
  },
  {
    what: "B4: endLease, the hook before fails: the hook after does not run",
    beforeLease: failingSlowly("endLease"),
    afterLease: notRun,
    words: noRetry,
    client: "fails",
    shows: [endedSomehow],
    never: "AFTER_SHOULD_NOT_RUN",
  },
  {
    what: "B5: exit, the hook before fails: the client is told and the agent ends",
    beforeLease: failingSlowly("exit"),
    words: noRetry,
    client: "fails",
    shows: [endedSomehow],
    then: "exits",
  },
  {
    what: "H2: exit, the hook before fails: the hook after does not run",
    beforeLease: failingSlowly("exit"),
    afterLease: notRun,
    words: noRetry,
    client: "fails",
    never: "AFTER_SHOULD_NOT_RUN",
    then: "exits",
  },
  {
    what: "C1, H4: warn, the hook after fails: a warning",
    afterLease: failing("warn"),
    shows: ["HOOK_FAIL", "Warning: afterLease hook warning: Hook failed with exit code 3"],
  },
  {
    what: "endLease, the hook after fails: the client is told, and the exporter is free again",
    afterLease: failing("endLease"),
    client: "fails",
    shows: [/afterLease hook failed \(on_failure=endLease\): Hook failed with exit code 3/],
  },
  {
    what: "C2: exit, the hook after fails: the agent ends",
    afterLease: failing("exit"),
    words: noRetry,
    client: "either",
    shows: ["HOOK_FAIL"],
    then: "exits",
  },
  {
    what: "D1: a hook that takes too long has failed",
    beforeLease: { ...script("echo HOOK_TIMEOUT: starting", "sleep 3600"), timeout: 1, onFailure: "warn" },
    shows: ["HOOK_TIMEOUT: starting", "Warning: beforeLease hook warning: Hook timed out after 1 seconds"],
  },
  {
    what: "F1: exec names another shell",
    beforeLease: { ...script('[[ -n "$LEASE_NAME" ]] && echo "BASH_HOOK: complete"'), exec: "/bin/bash" },
    shows: ["BASH_HOOK: complete"],
  },
  { what: "G1: a lease expires", ...expiring(6) },
  {
    what: "G2: a lease expires during the hook before",
    beforeLease: script("echo SLOW_BEFORE_HOOK: starting", "sleep 4", "echo SLOW_BEFORE_HOOK: complete"),
    afterLease: script("echo AFTER_HOOK: executed"),
    ...expiring(2),
    limitMs: 15_000,
  },
  {
    what: "G3: a lease expires shortly after the hook before",
    beforeLease: script("echo SLOW_BEFORE_HOOK: starting", "sleep 2", "echo SLOW_BEFORE_HOOK: complete"),
    afterLease: script("echo AFTER_HOOK: executed"),
    ...expiring(7),
  },
];

describe("hooks, seen from jmp shell", { skip: missingClient("0.9.0"), concurrency: 4 }, () => {
  let lab: Lab;
  before(async () => {
    lab = await startController();
    lab.addClient({ name: "ann" });
  });
  after(async () => {
    await lab.close();
    assert.deepEqual(lab.records.problems, []);
  });

  const freeAgain = (name: string, agent: LeasedAgent) =>
    lab.ready(name, 60_000).catch((error: unknown) => {
      throw new Error(`the agent said:\n${agent.output()}`, { cause: error });
    });

  let made = 0;
  const addExporter = () => {
    const name = `board-${++made}`;
    lab.addExporter({ name, labels: { board: name } });
    return { name, selector: ["--selector", `board=${name}`] };
  };

  for (const scenario of scenarios) {
    const { what, beforeLease, afterLease, shows = [], hides = [], never, words = [], command } = scenario;
    test(what, async (t) => {
      const { name, selector } = addExporter();
      const hooks = { ...(beforeLease && { beforeLease }), ...(afterLease && { afterLease }) };
      const meetings = scratch(t);
      const agent = await startLeasedAgent(t, lab, name, exported, { hooks, env: { MEETINGS: meetings } });
      const { limitMs, leases = 1 } = scenario;
      let text = "";
      for (let lease = 1; lease <= leases; lease++) {
        const shell = leasedShell(t, lab, [...selector, ...words], {
          ...(command && { command }),
          ...(limitMs && { timeoutMs: limitMs }),
        }).catch((error: Error) => {
          if (limitMs === undefined) throw error;
          return { code: null, text: error.message };
        });
        const dialled = () =>
          lab.records.dials.map((dial) => dial.lease).filter((dial) => lab.lease(dial).exporter === name);
        const next = () => [...new Set(dialled())][lease - 1];
        const met = lab.waitFor(next, { what: "the client to come", timeoutMs: 60_000 });
        writeFileSync(join(meetings, await met), "");
        const shown = await shell;
        text += shown.text;
        if (scenario.client === undefined) assert.equal(shown.code, 0, text + agent.output());
        if (scenario.client === "fails") assert.notEqual(shown.code, 0, text + agent.output());
        if (scenario.then === undefined) await freeAgain(name, agent);
      }
      const all = `${text}\nThe agent:\n${agent.output()}`;
      for (const shown of shows) assert.match(text, pattern(shown), all);
      for (const hidden of hides) assert.doesNotMatch(text, pattern(hidden), all);
      if (scenario.then === "exits") {
        // The lease has ended by now, or does so at once.
        assert.equal(await Promise.race([agent.exited, sleep(30_000, "runs on", { ref: false })]), 1, agent.output());
        assert.equal(lab.exporter(name).status, ExporterStatus.EXPORTER_STATUS_OFFLINE);
        assert.equal(lab.exporter(name).devices, null, "it is not registered any more");
      } else {
        await agent.stop();
      }
      if (never !== undefined) assert.ok(!agent.output().includes(never), agent.output());
    });
  }

  test("F2: a .py file is run by Python and uses the Python client", async (t) => {
    const file = join(scratch(t), "hook.py");
    const lines = [
      "import os",
      "from jumpstarter.utils.env import env",
      "print(f\"PYTHON_HOOK: lease={os.environ['LEASE_NAME']}\")",
      "with env() as client:",
      "    client.power.on()",
      '    print("PYTHON_HOOK: driver API works")',
      'print("PYTHON_HOOK: complete")',
    ];
    writeFileSync(file, lines.join("\n") + "\n");
    const { name, selector } = addExporter();
    const agent = await startLeasedAgent(t, lab, name, exported, {
      hooks: { beforeLease: { script: file, timeout: 60 } },
      env: { JMP_PYTHON: clientProgram("0.9.0", "python") },
    });
    const { code, text } = await leasedShell(t, lab, selector);
    assert.equal(code, 0, text + agent.output());
    assert.match(text, /PYTHON_HOOK: driver API works[^]*PYTHON_HOOK: complete/, agent.output());
    await freeAgain(name, agent);
  });

  test("F3: a script that is the path of a file runs that file", async (t) => {
    const file = join(scratch(t), "hook.sh");
    writeFileSync(file, '#!/bin/sh\necho "SCRIPTFILE_HOOK: complete"\n');
    chmodSync(file, 0o755);
    const { name, selector } = addExporter();
    const agent = await startLeasedAgent(t, lab, name, exported, { hooks: { beforeLease: { script: file } } });
    const { code, text } = await leasedShell(t, lab, selector);
    assert.equal(code, 0, text + agent.output());
    assert.match(text, /SCRIPTFILE_HOOK: complete/);
    await freeAgain(name, agent);
  });
});

function pattern(words: string | RegExp): RegExp {
  return typeof words === "string" ? new RegExp(words.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")) : words;
}
