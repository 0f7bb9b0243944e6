import assert from "node:assert/strict";
import { test } from "node:test";
import {
  initialLeaseState,
  leaseStep,
  type LeaseEffect,
  type LeaseEvent,
  type LeaseRules,
} from "../../../agent/controller/lease-machine.ts";

const noHooks: LeaseRules = { hooks: { beforeLease: false, afterLease: false }, exitOnLeaseEnd: false };
const bothHooks: LeaseRules = { hooks: { beforeLease: true, afterLease: true }, exitOnLeaseEnd: false };
const beforeOnly: LeaseRules = { ...bothHooks, hooks: { beforeLease: true, afterLease: false } };
const afterOnly: LeaseRules = { ...bothHooks, hooks: { beforeLease: false, afterLease: true } };

const lease = (name: string, client = "alice") => ({ name, client, context: {} });
const assigned = (name: string | null, client?: string): LeaseEvent => ({
  kind: "assigned",
  lease: name === null ? null : lease(name, client),
});
const begun: LeaseEvent = { kind: "begun" };
const ok: LeaseEvent = { kind: "hookDone", result: { kind: "ok" } };
const failed = (onFailure: "warn" | "endLease" | "exit"): LeaseEvent => ({
  kind: "hookDone",
  result: { kind: "failed", error: "Hook failed with exit code 3", onFailure },
});
const endSession: LeaseEvent = { kind: "endSession" };
const settled: LeaseEvent = { kind: "settled" };
const released: LeaseEvent = { kind: "released" };
const cleaned: LeaseEvent = { kind: "cleaned" };
const unregistered: LeaseEvent = { kind: "unregistered" };
const stop = (when: "now" | "leaseEnd", exitCode = 143): LeaseEvent => ({ kind: "stop", when, exitCode });

/** An effect as one line. */
function line(effect: LeaseEffect): string {
  switch (effect.do) {
    case "tell":
      return `${effect.who === "all" ? "" : `${effect.who}: `}${effect.status} ${effect.message}`.trim();
    case "begin":
      return `begin ${effect.lease.name}`;
    case "runHook":
      return `run ${effect.hook} for ${effect.lease.client}`;
    case "transfer":
      return `transfer to ${effect.lease.client}`;
    case "release":
      return `release ${effect.lease}`;
    case "exit":
      return `exit ${effect.exitCode}`;
    case "openGate":
    case "settle":
    case "clean":
    case "unregister":
      return effect.do;
  }
}

/** What the machine does for these events, and the phase in which it is left. */
function play(rules: LeaseRules, ...events: LeaseEvent[]): string[] {
  let state = initialLeaseState;
  const lines: string[] = [];
  for (const event of events) {
    const step = leaseStep(state, event, rules);
    state = step.state;
    lines.push(...step.effects.map(line));
  }
  return [...lines, `(${state.phase})`];
}

test("a lease without hooks: ready at once, available when the client ends its session, clean when the lease goes", () => {
  assert.deepEqual(play(noHooks, assigned("A"), begun, endSession, assigned(null), cleaned), [
    "begin A",
    "LEASE_READY Ready for commands",
    "openGate",
    "AVAILABLE Available for new lease",
    "clean",
    "(available)",
  ]);
});

test("a lease without hooks that the controller ends", () => {
  assert.deepEqual(play(noHooks, assigned("A"), begun, assigned(null), cleaned), [
    "begin A",
    "LEASE_READY Ready for commands",
    "openGate",
    "clean",
    "AVAILABLE Available for new lease",
    "(available)",
  ]);
});

test("both hooks run, the session stays readable for a moment, the lease is given back", () => {
  const events = [assigned("A"), begun, ok, endSession, endSession, ok, settled, released, cleaned, assigned(null)];
  assert.deepEqual(play(bothHooks, ...events), [
    "begin A",
    "BEFORE_LEASE_HOOK Running beforeLease hook",
    "run beforeLease for alice",
    "LEASE_READY Ready for commands",
    "openGate",
    "AFTER_LEASE_HOOK Running afterLease hooks",
    "run afterLease for alice",
    "AVAILABLE Available for new lease",
    "settle",
    "release A",
    "AVAILABLE Exporter available after lease release",
    "clean",
    "(available)",
  ]);
});

test("a hook that is not there is passed over; the lease is given back all the same", () => {
  assert.deepEqual(play(beforeOnly, assigned("A"), begun, ok, endSession, settled, released).slice(5), [
    "AVAILABLE Available for new lease",
    "settle",
    "release A",
    "AVAILABLE Exporter available after lease release",
    "clean",
    "(cleaning)",
  ]);
  assert.deepEqual(play(afterOnly, assigned("A"), begun, assigned(null), ok), [
    "begin A",
    "LEASE_READY Ready for commands",
    "openGate",
    "AFTER_LEASE_HOOK Running afterLease hooks",
    "run afterLease for alice",
    "AVAILABLE Available for new lease",
    "clean",
    "(cleaning)",
  ]);
});

test("beforeLease fails: warn goes on, endLease gives the lease back, exit stops with 1; afterLease only after warn", () => {
  assert.deepEqual(play(bothHooks, assigned("A"), begun, failed("warn")).slice(3), [
    "LEASE_READY [HOOK_WARNING] beforeLease hook warning: Hook failed with exit code 3",
    "openGate",
    "(ready)",
  ]);
  assert.deepEqual(play(bothHooks, assigned("A"), begun, failed("endLease"), settled, released, cleaned).slice(3), [
    "BEFORE_LEASE_HOOK_FAILED beforeLease hook failed (on_failure=endLease): Hook failed with exit code 3",
    "settle",
    "openGate",
    "release A",
    "AVAILABLE Exporter available after lease release",
    "clean",
    "(available)",
  ]);
  const exits = [assigned("A"), begun, failed("exit"), settled, released, cleaned, unregistered];
  assert.deepEqual(play(bothHooks, ...exits).slice(3), [
    "BEFORE_LEASE_HOOK_FAILED beforeLease hook failed (on_failure=exit, shutting down): Hook failed with exit code 3",
    "controller: OFFLINE Exporter shutting down due to beforeLease hook failure",
    "settle",
    "openGate",
    "release A",
    "clients: AVAILABLE Exporter available after lease release",
    "clean",
    "OFFLINE Exporter shutting down",
    "unregister",
    "exit 1",
    "(stopped)",
  ]);
});

test("afterLease fails: warn is told with AVAILABLE, endLease is available after the release, exit stops with 1", () => {
  const until = [assigned("A"), begun, ok, endSession];
  assert.deepEqual(play(bothHooks, ...until, failed("warn"), settled).slice(7), [
    "AVAILABLE [HOOK_WARNING] afterLease hook warning: Hook failed with exit code 3",
    "settle",
    "release A",
    "(releasing)",
  ]);
  assert.deepEqual(play(bothHooks, ...until, failed("endLease"), settled, released, cleaned).slice(7), [
    "AFTER_LEASE_HOOK_FAILED afterLease hook failed (on_failure=endLease): Hook failed with exit code 3",
    "settle",
    "release A",
    "AVAILABLE Exporter available after lease release",
    "clean",
    "(available)",
  ]);
  assert.deepEqual(play(bothHooks, ...until, failed("exit"), assigned(null), settled, cleaned, unregistered).slice(7), [
    "AFTER_LEASE_HOOK_FAILED afterLease hook failed (on_failure=exit, shutting down): Hook failed with exit code 3",
    "controller: OFFLINE Exporter shutting down due to afterLease hook failure",
    "settle",
    "clean",
    "OFFLINE Exporter shutting down",
    "unregister",
    "exit 1",
    "(stopped)",
  ]);
});

test("a lease that ends before its hooks have begun runs none of them", () => {
  assert.deepEqual(play(bothHooks, assigned("A"), assigned(null), begun, cleaned), ["begin A", "clean", "(available)"]);
});

test("a lease that ends during beforeLease is never ready, and afterLease runs once the hook has ended", () => {
  assert.deepEqual(play(bothHooks, assigned("A"), begun, assigned(null), ok, ok, cleaned).slice(3), [
    "AFTER_LEASE_HOOK Running afterLease hooks",
    "run afterLease for alice",
    "AVAILABLE Available for new lease",
    "clean",
    "(available)",
  ]);
});

test("a switch from A to B without a word between them ends A wholly, then begins B with its hooks", () => {
  const events = [assigned("A"), begun, ok, assigned("B", "bob"), ok, cleaned, begun];
  assert.deepEqual(play(bothHooks, ...events).slice(5), [
    "AFTER_LEASE_HOOK Running afterLease hooks",
    "run afterLease for alice",
    "AVAILABLE Available for new lease",
    "clean",
    "begin B",
    "BEFORE_LEASE_HOOK Running beforeLease hook",
    "run beforeLease for bob",
    "(beforeLease)",
  ]);
});

test("a transfer cuts the old client's connections and changes nothing else", () => {
  assert.deepEqual(play(noHooks, assigned("A"), begun, assigned("A", "bob"), assigned("A", "bob")).slice(3), [
    "transfer to bob",
    "(ready)",
  ]);
  assert.deepEqual(play(noHooks, assigned("A", ""), begun, assigned("A", "bob")).slice(3), ["(ready)"]);
});

test("the same word twice changes nothing", () => {
  assert.deepEqual(play(noHooks, assigned("A"), assigned("A"), begun, begun, assigned("A")).slice(3), ["(ready)"]);
  assert.deepEqual(play(noHooks, assigned(null), assigned(null), cleaned, released, settled), ["(available)"]);
});

test("a controller that has not heard of the release is told again, and the lease is not begun again", () => {
  const until = [assigned("A"), begun, ok, endSession, ok, settled, released, cleaned];
  const before = play(bothHooks, ...until).length - 1;
  assert.deepEqual(play(bothHooks, ...until, assigned("A"), assigned(null), assigned("A")).slice(before), [
    "release A",
    "release A",
    "(available)",
  ]);
});

test("a session that cannot be opened fails the lease with its reason", () => {
  assert.deepEqual(play(noHooks, assigned("A"), { kind: "begun", error: "no space left" }, settled, released), [
    "begin A",
    "BEFORE_LEASE_HOOK_FAILED beforeLease hook failed: no space left",
    "settle",
    "release A",
    "AVAILABLE Exporter available after lease release",
    "clean",
    "(cleaning)",
  ]);
});

test("a stop while idle unregisters at once; a stop for the lease's end waits for it, and is overridden by one for now", () => {
  const farewell = ["OFFLINE Exporter shutting down", "unregister", "exit 143", "(stopped)"];
  assert.deepEqual(play(noHooks, stop("now"), unregistered), farewell);
  assert.deepEqual(play(noHooks, stop("leaseEnd"), unregistered), farewell);
  const leased = [assigned("A"), begun, stop("leaseEnd", 129)];
  assert.deepEqual(play(noHooks, ...leased).slice(3), ["(ready)"]);
  assert.deepEqual(play(noHooks, ...leased, assigned(null), cleaned, unregistered).slice(3), [
    "clean",
    "OFFLINE Exporter shutting down",
    "unregister",
    "exit 129",
    "(stopped)",
  ]);
  assert.deepEqual(play(noHooks, ...leased, stop("now"), cleaned, unregistered).slice(3), ["clean", ...farewell]);
});

test("a stop during a lease runs afterLease, and no new lease is invited", () => {
  assert.deepEqual(play(bothHooks, assigned("A"), begun, ok, stop("now"), ok, settled, released, cleaned).slice(5), [
    "AFTER_LEASE_HOOK Running afterLease hooks",
    "run afterLease for alice",
    "clients: AVAILABLE Available for new lease",
    "settle",
    "release A",
    "clients: AVAILABLE Exporter available after lease release",
    "clean",
    "OFFLINE Exporter shutting down",
    "unregister",
    "(stopping)",
  ]);
});

test("exitOnLeaseEnd ends the exporter after its first lease, with 0", () => {
  const rules = { ...noHooks, exitOnLeaseEnd: true };
  assert.deepEqual(play(rules, assigned(null)), ["(available)"]);
  assert.deepEqual(play(rules, assigned("A"), begun, assigned(null), cleaned, unregistered).slice(3), [
    "clean",
    "OFFLINE Exporter shutting down",
    "unregister",
    "exit 0",
    "(stopped)",
  ]);
});
