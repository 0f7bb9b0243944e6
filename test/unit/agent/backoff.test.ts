import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { Backoff, retry } from "../../../agent/controller/backoff.ts";
import { waitForTime } from "../../../agent/controller/wait-for-time.ts";
import type { ErrorCode } from "../../../agent/driver/error-codes.ts";
import { AgentError } from "../../../agent/driver/errors.ts";
import { VirtualClock } from "../../sim/virtual-clock.ts";

const error = (code: ErrorCode, message = "no") => new AgentError(code, message);

function recorder() {
  const lines: string[] = [];
  return { lines, warn: (line: string) => void lines.push(line), info: (line: string) => void lines.push(line) };
}

test("pauses grow up to a limit, and one that follows silence is always short", () => {
  const random = fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true });
  const code = fc.constantFrom<ErrorCode>(
    "E_CONNECTION",
    "E_TIMEOUT",
    "E_UNAUTHENTICATED",
    "E_UNSUPPORTED",
    "E_FAILED",
  );
  fc.assert(
    fc.property(fc.array(fc.tuple(code, random), { maxLength: 100 }), (failures) => {
      let next = 0;
      const backoff = new Backoff({ random: () => next });
      const counts = { silence: 0, refusal: 0 };
      for (const [what, value] of failures) {
        next = value;
        const kind = what === "E_CONNECTION" || what === "E_TIMEOUT" ? "silence" : "refusal";
        const most = kind === "silence" ? 2_500 : 30_000;
        const step = Math.min((kind === "silence" ? 250 : 1_000) * 2 ** counts[kind], most);
        const pause = backoff.next(error(what));
        assert.ok(pause >= step / 2 && pause <= step, `${pause} of ${step}`);
        counts[kind] += 1;
      }
      next = 0.999;
      backoff.reset();
      assert.ok(backoff.next(error("E_CONNECTION")) <= 250);
    }),
  );
});

test("an attempt that waited in silence has waited already; one that was refused has not", () => {
  const backoff = new Backoff({ random: () => 0.999 });
  for (let failures = 0; failures < 10; failures += 1) {
    backoff.next(error("E_TIMEOUT"));
    backoff.next(error("E_FAILED"));
  }
  assert.ok(Math.abs(backoff.next(error("E_TIMEOUT"), 1_000) - 1_500) < 10);
  assert.ok(Math.abs(backoff.next(error("E_TIMEOUT"), 4_000) - 250) < 10);
  assert.ok(backoff.next(error("E_FAILED"), 4_000) > 29_000);
});

test("what is tried again and again is told once, and when it works again", async () => {
  const clock = new VirtualClock();
  const log = recorder();
  let working = false;
  let attempts = 0;
  const attempt = async () => {
    attempts += 1;
    if (!working) throw error("E_CONNECTION", attempts > 2_000 ? "another reason" : "nobody there");
    return "done";
  };
  const result = retry("Asking", attempt, { clock, log, signal: new AbortController().signal });
  await clock.advance(3_600_000);
  assert.ok(attempts > 1_400, String(attempts));
  assert.ok(log.lines.length <= 14, String(log.lines.length));
  assert.equal(log.lines[0], "Asking failed, trying again: nobody there");
  working = true;
  await clock.advance(5_000);
  assert.equal(await result, "done");
  assert.equal(log.lines.at(-1), "Asking: works again");
  assert.equal(clock.sleeping, 0);
});

test("a first success says nothing; a chosen failure and an abort end the attempts", async () => {
  const clock = new VirtualClock();
  const log = recorder();
  const over = new AbortController();
  const options = { clock, log, signal: over.signal };
  assert.equal(await retry("Asking", async () => 1, options), 1);
  const refused = error("E_UNSUPPORTED");
  await assert.rejects(
    retry("Asking", () => Promise.reject(refused), { ...options, giveUp: ({ code }) => code === "E_UNSUPPORTED" }),
    refused,
  );
  assert.deepEqual(log.lines, []);
  const endless = retry("Asking", () => Promise.reject(error("E_TIMEOUT")), options);
  await clock.advance(10_000);
  const reason = new Error("enough");
  over.abort(reason);
  await assert.rejects(endless, reason);
  assert.equal(clock.sleeping, 0);
});

test("a clock that shows 1970 is waited for, and its being set is told", async () => {
  const clock = new VirtualClock(new Date(5_000));
  const log = recorder();
  const waiting = waitForTime({ clock, log });
  await clock.advance(30_000);
  assert.equal(clock.sleeping, 1);
  clock.wallOffsetMs = Date.UTC(2026, 5, 1);
  await clock.advance(1_000);
  await waiting;
  assert.match(
    log.lines[0] ?? "",
    /The clock shows 1970-01-01T00:00:05\.000Z: waiting until the time is set, for 120 s/,
  );
  assert.match(log.lines[1] ?? "", /^The time is set: 2026-06-01T/);
  assert.equal(log.lines.length, 2);
});

test("a clock that is never set holds nobody up for more than two minutes", async () => {
  const clock = new VirtualClock(new Date(0));
  const log = recorder();
  const waiting = waitForTime({ clock, log });
  await clock.advance(119_000);
  assert.equal(clock.sleeping, 1);
  await clock.advance(1_000);
  await waiting;
  assert.match(log.lines[1] ?? "", /^The time is still not set: going on/);
  assert.equal(clock.now(), 120_000);
});

test("a clock that is right is not waited for, and a stop ends the waiting", async () => {
  const log = recorder();
  await waitForTime({ clock: new VirtualClock(), log });
  assert.deepEqual(log.lines, []);
  const clock = new VirtualClock(new Date(0));
  const over = new AbortController();
  const waiting = waitForTime({ clock, log, signal: over.signal });
  over.abort();
  await waiting;
  assert.equal(clock.sleeping, 0);
});
