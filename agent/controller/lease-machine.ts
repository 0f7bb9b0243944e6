/**
 * The life of a leased exporter as a pure function: what happened goes in, what to do comes out. It knows no clock,
 * no network and no driver; agent/controller/lease-loop.ts does what it asks for and tells it what came of it.
 *
 *                        assigned                begun                 hook done
 *      ┌─► available ──────────────► beginning ──────────► beforeLease ──────────► ready
 *      │       │                          └───── no hook ────────────────────────►   │
 *      │       │ stop                                           hook failed │        │ EndSession, lease over, stop
 *      │       ▼                                                            │        ▼
 *      │   stopping ──► stopped                 ┌───────────────────────────┘    afterLease ── no hook ──► over
 *      │       ▲                                ▼                                    │                      │
 *      │       │ stop             releasing ◄── settling ◄──────── hook done ────────┘         lease over ─┤
 *      │       │                     │              │ lease over                                            │
 *      └───────┴────── cleaning ◄────┴──────────────┴──────────────────────────────────────────────────────┘
 *
 * Two facts steer it: `wanted`, the lease that the controller named last, and `current`, the one that is served. They
 * are compared by name at every step, so that it does not matter which messages came twice, late or not at all.
 */
import type { ExporterState } from "../session/status.ts";

/** Every state by its name; the tests that kill the agent in each state take their list from here. */
export const phases = [
  "available",
  "beginning",
  "beforeLease",
  "ready",
  "afterLease",
  "settling",
  "releasing",
  "over",
  "cleaning",
  "stopping",
  "stopped",
] as const;

export type Phase = (typeof phases)[number];

/** A lease as the controller tells it. */
export interface Lease {
  readonly name: string;
  readonly client: string;
  readonly context: Readonly<Record<string, string>>;
}

export type HookName = "beforeLease" | "afterLease";

/** What a hook ended with; `error` as clients are shown it. */
export type HookResult =
  { readonly kind: "ok" } | { readonly kind: "failed"; readonly error: string; readonly onFailure: OnFailure };

type OnFailure = "warn" | "endLease" | "exit";

/** What of the configuration steers the lease. */
export interface LeaseRules {
  readonly hooks: Readonly<Record<HookName, boolean>>;
  readonly exitOnLeaseEnd: boolean;
}

export type LeaseEvent =
  /** The controller's word, every time it comes; null when no lease is assigned. */
  | { readonly kind: "assigned"; readonly lease: Lease | null }
  /** The lease's session is open, or could not be opened. */
  | { readonly kind: "begun"; readonly error?: string }
  | { readonly kind: "hookDone"; readonly result: HookResult }
  /** A client said EndSession. */
  | { readonly kind: "endSession" }
  | { readonly kind: "settled" }
  | { readonly kind: "released" }
  | { readonly kind: "cleaned" }
  | { readonly kind: "unregistered" }
  | { readonly kind: "stop"; readonly when: "now" | "leaseEnd"; readonly exitCode: number };

export type Audience = "all" | "clients" | "controller";

export type LeaseEffect =
  /** Reset the drivers, open the session and its hook socket, listen for clients. Answered by `begun`. */
  | { readonly do: "begin"; readonly lease: Lease }
  /** Answered by `hookDone`. */
  | { readonly do: "runHook"; readonly hook: HookName; readonly lease: Lease }
  /** Let clients in. */
  | { readonly do: "openGate" }
  /** The lease has a new client: the old one's connections go. */
  | { readonly do: "transfer"; readonly lease: Lease }
  /** Give clients time to read the status. Answered by `settled`. */
  | { readonly do: "settle" }
  /** Give the lease back to the controller. Answered by `released`, also when it could not be told in time. */
  | { readonly do: "release"; readonly lease: string }
  /** Cut the clients, close the session, release the drivers. Answered by `cleaned`. */
  | { readonly do: "clean" }
  /** Clients read a status from the session; the controller is told. */
  | { readonly do: "tell"; readonly who: Audience; readonly status: ExporterState; readonly message: string }
  /** Answered by `unregistered`. */
  | { readonly do: "unregister" }
  | { readonly do: "exit"; readonly exitCode: number };

export interface LeaseState {
  readonly phase: Phase;
  readonly wanted: Lease | null;
  readonly current: Lease | null;
  /** Whether the afterLease hook of the current lease has still to run. */
  readonly afterLeaseDue: boolean;
  /** A lease that was given back; a controller that still names it has not heard so. */
  readonly givenBack: string | null;
  /** The last status that the controller was told. */
  readonly shown: ExporterState;
  readonly stop: { readonly when: "now" | "leaseEnd"; readonly exitCode: number } | null;
}

export const initialLeaseState: LeaseState = {
  phase: "available",
  wanted: null,
  current: null,
  afterLeaseDue: false,
  givenBack: null,
  shown: "AVAILABLE",
  stop: null,
};

export interface LeaseStep {
  readonly state: LeaseState;
  readonly effects: readonly LeaseEffect[];
}

/** What follows from an event. Events that do not fit the phase change nothing. */
export function leaseStep(state: LeaseState, event: LeaseEvent, rules: LeaseRules): LeaseStep {
  const { phase, current } = state;
  switch (event.kind) {
    case "assigned":
      return assigned(state, event.lease, rules);
    case "stop":
      return onward({ ...state, stop: strongerStop(state.stop, event) }, rules);
    case "begun":
      return phase === "beginning" ? begun(state, event.error, rules) : stay(state);
    case "hookDone":
      if (phase === "beforeLease") return beforeLeaseDone(state, event.result, rules);
      return phase === "afterLease" ? afterLeaseDone(state, event.result) : stay(state);
    case "endSession":
      return phase === "ready" ? conclude(state, rules) : stay(state);
    case "settled":
      if (phase !== "settling" || current === null) return stay(state);
      return held(state) ? enter(state, "releasing", { do: "release", lease: current.name }) : clean(state);
    case "released":
      if (phase !== "releasing" || current === null) return stay(state);
      return then(available({ ...state, givenBack: current.name }, "Exporter available after lease release"), clean);
    case "cleaned":
      return phase === "cleaning" ? cleaned(state, rules) : stay(state);
    case "unregistered":
      if (phase !== "stopping") return stay(state);
      return enter(state, "stopped", { do: "exit", exitCode: state.stop?.exitCode ?? 0 });
  }
}

function assigned(state: LeaseState, lease: Lease | null, rules: LeaseRules): LeaseStep {
  const { phase, current, givenBack } = state;
  const next = { ...state, wanted: lease };
  if (lease === null) return onward(next, rules);
  if (phase === "available" && lease.name === givenBack) {
    return { state: next, effects: [{ do: "release", lease: lease.name }] };
  }
  if (lease.name !== current?.name || lease.client === current.client) return onward(next, rules);
  const known = { ...next, current: lease };
  // A lease may be told before its client is; only the second client takes it over from the first.
  return current.client === "" ? stay(known) : { state: known, effects: [{ do: "transfer", lease }] };
}

/** Goes on by itself where nothing is under way that will be answered. */
function onward(state: LeaseState, rules: LeaseRules): LeaseStep {
  const { phase, wanted } = state;
  switch (phase) {
    case "available":
      if (state.stop !== null) return stopping(state);
      if (wanted === null || wanted.name === state.givenBack) return stay(state);
      return enter({ ...state, current: wanted, afterLeaseDue: false }, "beginning", { do: "begin", lease: wanted });
    case "ready":
      return wantedOn(state) ? stay(state) : conclude(state, rules);
    case "over":
      return wantedOn(state) ? stay(state) : clean(state);
    case "beginning":
    case "beforeLease":
    case "afterLease":
    case "settling":
    case "releasing":
    case "cleaning":
    case "stopping":
    case "stopped":
      return stay(state);
  }
}

function begun(state: LeaseState, error: string | undefined, rules: LeaseRules): LeaseStep {
  if (!wantedOn(state)) return clean(state);
  if (error !== undefined) {
    return settle(show(state, "BEFORE_LEASE_HOOK_FAILED", `beforeLease hook failed: ${error}`));
  }
  const due = { ...state, afterLeaseDue: rules.hooks.beforeLease || rules.hooks.afterLease };
  if (!rules.hooks.beforeLease) return ready(due, "Ready for commands");
  return then(show(due, "BEFORE_LEASE_HOOK", "Running beforeLease hook"), (now) => runHook(now, "beforeLease"));
}

function beforeLeaseDone(state: LeaseState, result: HookResult, rules: LeaseRules): LeaseStep {
  if (result.kind === "failed" && result.onFailure !== "warn") {
    const failed = { ...state, afterLeaseDue: false };
    return then(hookFailed(failed, "beforeLease", result), (now) => withEffect(settle(stay(now)), { do: "openGate" }));
  }
  if (!wantedOn(state)) return conclude(state, rules);
  return ready(state, result.kind === "ok" ? "Ready for commands" : warning("beforeLease", result.error));
}

function ready(state: LeaseState, message: string): LeaseStep {
  return then(show(state, "LEASE_READY", message), (now) => enter(now, "ready", { do: "openGate" }));
}

/** The work of the lease is over: because a client said so, the controller did, or the exporter stops. */
function conclude(state: LeaseState, { hooks }: LeaseRules): LeaseStep {
  if (state.afterLeaseDue && state.current?.client !== "") {
    const rest = { ...state, afterLeaseDue: false };
    if (!hooks.afterLease) return afterLeaseDone(rest, { kind: "ok" });
    return then(show(rest, "AFTER_LEASE_HOOK", "Running afterLease hooks"), (now) => runHook(now, "afterLease"));
  }
  if (!wantedOn(state)) return clean(state);
  // Without hooks the client gives the lease back; until then it may go on using what it has open.
  return then(available(state, "Available for new lease"), (now) => enter(now, "over"));
}

function afterLeaseDone(state: LeaseState, result: HookResult): LeaseStep {
  if (result.kind === "failed" && result.onFailure !== "warn") return settle(hookFailed(state, "afterLease", result));
  const message = result.kind === "ok" ? "Available for new lease" : warning("afterLease", result.error);
  const told = available(state, message);
  return held(state) ? settle(told) : then(told, clean);
}

/** Tells what failed. One that asks to exit is offline for the controller, while clients still read why. */
function hookFailed(state: LeaseState, hook: HookName, { error, onFailure }: HookFailure): LeaseStep {
  const failed = hook === "beforeLease" ? "BEFORE_LEASE_HOOK_FAILED" : "AFTER_LEASE_HOOK_FAILED";
  const mode = onFailure === "exit" ? "exit, shutting down" : onFailure;
  const told = show(state, failed, `${hook} hook failed (on_failure=${mode}): ${error}`);
  if (onFailure !== "exit") return told;
  const stop = strongerStop(state.stop, { when: "now", exitCode: 1 });
  return withEffect(
    { ...told, state: { ...told.state, stop, shown: "OFFLINE" } },
    { do: "tell", who: "controller", status: "OFFLINE", message: `Exporter shutting down due to ${hook} hook failure` },
  );
}

type HookFailure = HookResult & { kind: "failed" };

function warning(hook: HookName, error: string): string {
  // Clients look for this prefix and show the rest as a warning.
  return `[HOOK_WARNING] ${hook} hook warning: ${error}`;
}

function cleaned(state: LeaseState, rules: LeaseRules): LeaseStep {
  const stop = state.stop ?? (rules.exitOnLeaseEnd ? { when: "now" as const, exitCode: 0 } : null);
  const free: LeaseState = { ...state, phase: "available", current: null, afterLeaseDue: false, stop };
  if (stop !== null || free.shown === "AVAILABLE") return onward(free, rules);
  return then(available(free, "Available for new lease"), (now) => onward(now, rules));
}

function stopping(state: LeaseState): LeaseStep {
  return then(show(state, "OFFLINE", "Exporter shutting down"), (now) => enter(now, "stopping", { do: "unregister" }));
}

/** Whether the controller still means the lease that is served. */
function held({ wanted, current }: LeaseState): boolean {
  return wanted !== null && wanted.name === current?.name;
}

/** Whether there is a reason to go on serving it. */
function wantedOn(state: LeaseState): boolean {
  return held(state) && state.stop?.when !== "now";
}

/** An order to stop at once overrides one to wait; otherwise the first counts. */
function strongerStop(before: LeaseState["stop"], { when, exitCode }: NonNullable<LeaseState["stop"]>) {
  return before === null || (before.when === "leaseEnd" && when === "now") ? { when, exitCode } : before;
}

function stay(state: LeaseState): LeaseStep {
  return { state, effects: [] };
}

function enter(state: LeaseState, phase: Phase, ...effects: LeaseEffect[]): LeaseStep {
  return { state: { ...state, phase }, effects };
}

function then(step: LeaseStep, next: (state: LeaseState) => LeaseStep): LeaseStep {
  const { state, effects } = next(step.state);
  return { state, effects: [...step.effects, ...effects] };
}

function withEffect(step: LeaseStep, effect: LeaseEffect): LeaseStep {
  return { ...step, effects: [...step.effects, effect] };
}

function show(state: LeaseState, status: ExporterState, message: string): LeaseStep {
  return { state: { ...state, shown: status }, effects: [{ do: "tell", who: "all", status, message }] };
}

/** Clients wait for AVAILABLE at the end of a session; the controller must not place a lease on one that stops. */
function available(state: LeaseState, message: string): LeaseStep {
  if (state.stop?.when !== "now") return show(state, "AVAILABLE", message);
  return { state, effects: [{ do: "tell", who: "clients", status: "AVAILABLE", message }] };
}

function runHook(state: LeaseState, hook: HookName): LeaseStep {
  if (state.current === null) return stay(state);
  return enter(state, hook, { do: "runHook", hook, lease: state.current });
}

function settle(step: LeaseStep): LeaseStep {
  return then(step, (now) => enter(now, "settling", { do: "settle" }));
}

function clean(state: LeaseState): LeaseStep {
  return enter(state, "cleaning", { do: "clean" });
}
