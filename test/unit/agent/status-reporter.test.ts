import assert from "node:assert/strict";
import { test } from "node:test";
import { status } from "@grpc/grpc-js";
import fc from "fast-check";
import { Backoff } from "../../../agent/controller/backoff.ts";
import { ChannelPool } from "../../../agent/controller/channel-pool.ts";
import { createControllerClient, type StatusReport } from "../../../agent/controller/controller-client.ts";
import { StatusReporter } from "../../../agent/controller/status-reporter.ts";
import { AgentError } from "../../../agent/driver/errors.ts";
import type { ErrorCode } from "../../../agent/driver/error-codes.ts";
import type { ExporterState } from "../../../agent/session/status.ts";
import { startController } from "../../sim/controller/controller.ts";
import { labSettings } from "../../sim/lab-settings.ts";
import { VirtualClock } from "../../sim/virtual-clock.ts";

function recorder() {
  const lines: string[] = [];
  return { lines, warn: (line: string) => void lines.push(line), info: (line: string) => void lines.push(line) };
}

type Answer = "ok" | ErrorCode | "late";

/** A far end whose answers the test gives one by one. */
function scripted(answers: Answer[], clock: VirtualClock) {
  const attempted: StatusReport[] = [];
  const taken: StatusReport[] = [];
  return {
    attempted,
    taken,
    async reportStatus(report: StatusReport, signal?: AbortSignal): Promise<void> {
      attempted.push(report);
      let answer = answers.shift() ?? "ok";
      if (answer === "late") {
        await clock.sleep(20_000, signal);
        answer = answers.shift() ?? "ok";
      }
      if (answer !== "ok" && answer !== "late") throw new AgentError(answer, `answered ${answer}`);
      taken.push(report);
    },
  };
}

function setUp(answers: Answer[] = []) {
  const clock = new VirtualClock();
  const controller = scripted(answers, clock);
  const log = recorder();
  const reporter = new StatusReporter({ controller, clock, log, backoff: new Backoff({ random: () => 0.5 }) });
  const names = (reports: StatusReport[]) => reports.map(({ status: name }) => name);
  return { clock, controller, log, reporter, names };
}

test("whatever fails, the last state gets through, and each failure of a hook was tried", async () => {
  const states: ExporterState[] = [
    "AVAILABLE",
    "LEASE_READY",
    "BEFORE_LEASE_HOOK_FAILED",
    "AFTER_LEASE_HOOK_FAILED",
    "OFFLINE",
  ];
  const answer = fc.constantFrom<Answer>("ok", "late", "E_CONNECTION", "E_TIMEOUT", "E_FAILED", "E_UNAUTHENTICATED");
  const step = fc.oneof(
    fc.record({ do: fc.constant("report" as const), state: fc.constantFrom(...states) }),
    fc.record({ do: fc.constant("reconnected" as const) }),
    fc.record({ do: fc.constant("wait" as const), ms: fc.integer({ min: 0, max: 40_000 }) }),
  );
  await fc.assert(
    fc.asyncProperty(
      fc.array(answer, { maxLength: 30 }),
      fc.array(step, { minLength: 1, maxLength: 20 }),
      async (answers, steps) => {
        const { clock, controller, reporter } = setUp(answers);
        const failures: string[] = [];
        let last: string | undefined;
        for (const [index, one] of steps.entries()) {
          const message = `number ${index}`;
          if (one.do === "wait") await clock.advance(one.ms);
          else if (one.do === "reconnected") reporter.reconnected();
          else {
            reporter.report(one.state, message);
            last = message;
            if (one.state.endsWith("_FAILED")) failures.push(message);
          }
        }
        const flushed = reporter.flush();
        await clock.advance(3_600_000);
        await flushed;
        assert.equal(controller.taken.at(-1)?.message, last);
        const tried = new Set(controller.attempted.map(({ message }) => message));
        assert.deepEqual(
          failures.filter((message) => !tried.has(message)),
          [],
        );
        const order = controller.attempted.map(({ message }) => Number(message.slice(7)));
        assert.deepEqual(
          order,
          [...order].sort((a, b) => a - b),
        );
        assert.equal(clock.sleeping, 0);
        reporter.stop();
      },
    ),
    { numRuns: 300 },
  );
});

test("states that are over before they could be told are left out", async () => {
  const { clock, controller, reporter, names } = setUp(["late"]);
  reporter.report("AVAILABLE", "");
  await clock.advance(0);
  reporter.report("BEFORE_LEASE_HOOK", "");
  reporter.report("LEASE_READY", "");
  reporter.report("AFTER_LEASE_HOOK_FAILED", "");
  reporter.report("AVAILABLE", "again");
  await clock.advance(20_000);
  assert.deepEqual(names(controller.attempted), ["AVAILABLE", "AFTER_LEASE_HOOK_FAILED", "AVAILABLE"]);
});

test("a new state ends the pause that a failure has brought", async () => {
  const { clock, controller, reporter, names } = setUp(["E_UNAUTHENTICATED", "E_UNAUTHENTICATED", "E_UNAUTHENTICATED"]);
  reporter.report("AVAILABLE", "");
  await clock.advance(2_000);
  const before = controller.attempted.length;
  reporter.report("OFFLINE", "");
  await clock.advance(0);
  assert.equal(controller.attempted.length, before + 1);
  await clock.advance(30_000);
  assert.equal(names(controller.taken).at(-1), "OFFLINE");
});

test("a controller that came back is told the state again", async () => {
  const { clock, controller, reporter, names } = setUp();
  reporter.reconnected();
  await clock.advance(1_000);
  assert.deepEqual(controller.attempted, []);
  reporter.report("LEASE_READY", "");
  await clock.advance(1_000);
  reporter.reconnected();
  await clock.advance(1_000);
  assert.deepEqual(names(controller.taken), ["LEASE_READY", "LEASE_READY"]);
});

test("a controller without ReportStatus is asked once, and again when it came back", async () => {
  const { clock, controller, reporter, log, names } = setUp(["E_UNSUPPORTED", "E_UNSUPPORTED", "ok", "E_UNSUPPORTED"]);
  reporter.report("AVAILABLE", "");
  await reporter.flush();
  reporter.report("LEASE_READY", "");
  await reporter.flush();
  await clock.advance(60_000);
  const warning = "ReportStatus not supported by controller, status updates will be skipped";
  assert.deepEqual(log.lines, [warning]);
  assert.equal(controller.attempted.length, 1);
  reporter.reconnected();
  await reporter.flush();
  assert.deepEqual(log.lines, [warning]);
  reporter.reconnected();
  await reporter.flush();
  assert.deepEqual(names(controller.taken), ["LEASE_READY"]);
  reporter.reconnected();
  await reporter.flush();
  assert.deepEqual(log.lines, [warning, warning]);
});

test("hours of outage give two lines of log", async () => {
  const { clock, controller, reporter, log } = setUp(Array<Answer>(2_000).fill("E_CONNECTION"));
  reporter.report("AVAILABLE", "");
  await clock.advance(2 * 3_600_000);
  assert.equal(controller.taken.length, 1);
  assert.deepEqual(log.lines, [
    "Failed to report status, trying again: answered E_CONNECTION",
    "The controller takes the status again",
  ]);
});

test("a flush ends when all is told, at its signal, and when the reporter stops", async () => {
  const { clock, reporter } = setUp(Array<Answer>(100).fill("E_CONNECTION"));
  await reporter.flush();
  reporter.report("OFFLINE", "");
  const late = new AbortController();
  const flushed = reporter.flush(late.signal);
  await clock.advance(1_000);
  const reason = new Error("too late");
  late.abort(reason);
  await assert.rejects(flushed, reason);
  await assert.rejects(reporter.flush(late.signal), reason);
  const stopped = reporter.flush();
  reporter.stop();
  await stopped;
  assert.equal(clock.sleeping, 0);
  reporter.report("AVAILABLE", "");
  await reporter.flush();
});

test("a stop ends an attempt that is under way", async () => {
  const { clock, controller, reporter } = setUp(["late"]);
  reporter.report("OFFLINE", "");
  await clock.advance(0);
  reporter.stop();
  await clock.advance(0);
  assert.equal(clock.sleeping, 0);
  await clock.advance(60_000);
  assert.equal(controller.attempted.length, 1);
});

test(
  "a real controller that refuses, falls silent and restarts ends with the truth",
  { timeout: 60_000 },
  async (t) => {
    const lab = await startController();
    t.after(() => lab.close());
    lab.addExporter({ name: "board" });
    const channels = new ChannelPool();
    t.after(() => channels.close());
    const clock = new VirtualClock();
    const settings = labSettings(lab, "board");
    const controller = createControllerClient({ settings: () => settings, channels });
    const reporter = new StatusReporter({ controller, clock, log: recorder() });
    t.after(() => reporter.stop());
    const converged = async (name: string) => {
      const timer = setInterval(() => void clock.advance(1_000), 10);
      try {
        await lab.waitFor(() => lab.records.statuses.at(-1)?.name === name, { what: name });
      } finally {
        clearInterval(timer);
      }
    };
    reporter.report("AVAILABLE", "Exporter registered and available");
    await converged("AVAILABLE");
    lab.faults.answer("ReportStatus", status.UNKNOWN, "try later", { times: 3 });
    reporter.report("LEASE_READY", "Ready for commands");
    await converged("LEASE_READY");
    const swallowed = lab.faults.swallow("ReportStatus", { times: 1 });
    reporter.report("AFTER_LEASE_HOOK", "");
    await lab.waitFor(() => swallowed.count === 1);
    lab.controller.reset();
    await converged("AFTER_LEASE_HOOK");
    await lab.controller.stop();
    reporter.report("AFTER_LEASE_HOOK_FAILED", "");
    reporter.report("AVAILABLE", "");
    await clock.advance(60_000);
    await lab.controller.start();
    await converged("AVAILABLE");
  },
);
