// The whole life of a leased exporter against a controller and a network that do whatever they can do: the real
// machine, loop, link, reporter and release on a virtual clock. Drivers, sockets and processes are left out.
import assert from "node:assert/strict";
import { test } from "node:test";
import * as fc from "fast-check";
import type { HookConfig } from "../../agent/hooks/hook.ts";
import { startLeasedExporter, type LeaseConfig, type LeasedExporter } from "../../agent/controller/leased-exporter.ts";
import type { LeaseScope, LeaseScopeOptions } from "../../agent/controller/lease-scope.ts";
import type { HookName } from "../../agent/controller/lease-machine.ts";
import { AgentError } from "../../agent/driver/errors.ts";
import { createExporter, type Exporter } from "../../agent/session/exporter.ts";
import { SessionStatus } from "../../agent/session/status.ts";
import { Chance, ControllerModel } from "../sim/controller-model.ts";
import { VirtualClock } from "../sim/virtual-clock.ts";

const step = fc.record({
  event: fc.oneof(
    {
      weight: 6,
      arbitrary: fc.record({ do: fc.constant("lease" as const), client: fc.constantFrom("ann", "bob", "") }),
    },
    { weight: 5, arbitrary: fc.record({ do: fc.constant("end" as const) }) },
    {
      weight: 2,
      arbitrary: fc.record({ do: fc.constant("transfer" as const), client: fc.constantFrom("ann", "bob") }),
    },
    { weight: 3, arbitrary: fc.record({ do: fc.constant("endSession" as const) }) },
    {
      weight: 2,
      arbitrary: fc.record({ do: fc.constant("away" as const), ms: fc.constantFrom(10, 1_000, 20_000, 200_000) }),
    },
    { weight: 2, arbitrary: fc.record({ do: fc.constant("break" as const), inOrder: fc.boolean() }) },
    { weight: 2, arbitrary: fc.record({ do: fc.constant("repeat" as const), what: fc.constantFrom("truth", "past") }) },
    { weight: 1, arbitrary: fc.record({ do: fc.constant("forget" as const) }) },
    { weight: 1, arbitrary: fc.record({ do: fc.constant("reload" as const) }) },
    {
      weight: 1,
      arbitrary: fc.record({
        do: fc.constant("stop" as const),
        when: fc.constantFrom("now" as const, "leaseEnd" as const),
      }),
    },
  ),
  /** How much time passes then. */
  thenMs: fc.constantFrom(0, 0, 1, 30, 300, 2_000, 20_000),
});
type Step = typeof step extends fc.Arbitrary<infer T> ? T : never;

const hook = fc.option(
  fc
    .constantFrom<HookConfig["onFailure"]>("warn", "endLease", "exit")
    .map((onFailure) => ({ onFailure }) as HookConfig),
);
const scene = fc.record({
  hooks: fc.record({ beforeLease: hook, afterLease: hook }),
  exitOnLeaseEnd: fc.nat(9).map((n) => n === 0),
  release: fc.constantFrom("0.9" as const, "0.9" as const, "0.8" as const, "0.7" as const),
  faults: fc.constantFrom(0, 0.1, 0.4),
  /** How often a hook fails, and a lease cannot be begun. */
  failures: fc.constantFrom(0, 0, 0.3),
  seed: fc.nat(),
  steps: fc.array(step, { maxLength: 30 }),
});
type Scene = typeof scene extends fc.Arbitrary<infer T> ? T : never;

/** One lease as it was served: what of it has happened. */
interface Service {
  readonly lease: string;
  readonly config: LeaseConfig;
  readonly hooks: HookName[];
  gateOpen: boolean;
  /** Its beforeLease phase has gone well. */
  worked: boolean;
  readonly scope: Pick<LeaseScopeOptions, "endSession">;
  readonly status: SessionStatus;
}

/** Stands for drivers, sockets and hooks: takes any time, fails at any time, and watches that all is in order. */
class Board {
  readonly #chance: Chance;
  readonly #clock: VirtualClock;
  readonly #failures: number;
  readonly #controller: ControllerModel;
  readonly #config: () => LeaseConfig;
  readonly #served = new Set<string>();
  leased: LeasedExporter | undefined;
  serving: Service | undefined;
  opening = false;
  stopped = false;
  /** What was not in order. Nothing is thrown: the exporter would take it for a driver's failure. */
  readonly violations: string[] = [];

  constructor(parts: {
    clock: VirtualClock;
    chance: Chance;
    failures: number;
    controller: ControllerModel;
    config: () => LeaseConfig;
  }) {
    this.#clock = parts.clock;
    this.#chance = parts.chance;
    this.#failures = parts.failures;
    this.#controller = parts.controller;
    this.#config = parts.config;
  }

  readonly openScope = async (options: LeaseScopeOptions): Promise<LeaseScope> => {
    this.#must(!this.stopped, "a lease begins after the exporter has stopped");
    this.#must(this.serving === undefined && !this.opening, "two leases at once");
    const lease = this.leased?.state.current?.name ?? "";
    this.#must(lease !== "", "the lease that begins has a name");
    // Only who was told in between that the lease is over serves it again.
    this.#must(!this.#served.has(lease) || this.#controller.misled, `${lease} is served twice`);
    this.#served.add(lease);
    this.opening = true;
    await this.#clock.sleep(this.#chance.pick([0, 0, 5, 2_000]));
    this.opening = false;
    if (this.#chance.happens(this.#failures / 2)) throw new AgentError("E_IO", "a driver cannot be reset");
    const over = new AbortController();
    const listening = (async () => {
      for await (const client of options.listen(over.signal)) assert.fail(`nobody dials: ${client.routerEndpoint}`);
    })();
    const service: Service = {
      ...{ lease, config: this.#config(), hooks: [], gateOpen: false, worked: false },
      ...{ scope: options, status: new SessionStatus() },
    };
    this.serving = service;
    return {
      session: { status: service.status, motd: "" },
      directory: "",
      hookSocket: "",
      openGate: () => {
        service.gateOpen = true;
        if (service.config.hooks.beforeLease === null) service.worked = true;
      },
      cutTunnels() {},
      close: async () => {
        over.abort();
        await listening;
        await this.#clock.sleep(this.#chance.pick([0, 0, 5, 1_000, 31_000]));
        this.#must(this.serving === service, "the lease that is closed is the one that is served");
        this.serving = undefined;
        this.#checkHooks(service);
      },
    } as Partial<LeaseScope> as LeaseScope;
  };

  readonly runHook = async (
    name: HookName,
    { onFailure }: HookConfig,
    context: { lease: string; signal: AbortSignal },
  ) => {
    const service = this.serving;
    this.#must(!this.stopped, "a hook begins after the exporter has stopped");
    this.#must(context.lease === service?.lease, "a hook runs for the lease that is served");
    service?.hooks.push(name);
    await this.#clock.sleep(this.#chance.pick([0, 1, 50, 2_000, 40_000]), context.signal).catch(() => {});
    const failed = this.#chance.happens(this.#failures);
    if (service && name === "beforeLease") service.worked = !failed || onFailure === "warn";
    return failed ? { kind: "failed" as const, error: "exit code 1", onFailure } : { kind: "ok" as const };
  };

  readonly killLeftoverHooks = async () => {};

  #must(holds: boolean, what: string): void {
    if (!holds) this.violations.push(what);
  }

  #checkHooks({ lease, config, hooks, worked }: Service): void {
    const expected: HookName[] = [];
    if (config.hooks.beforeLease !== null) expected.push("beforeLease");
    if (config.hooks.afterLease !== null && worked) expected.push("afterLease");
    if (hooks.length === 0 && !worked) return; // it was over before its first hook
    // Nobody has used a lease whose client was not told yet when it ended.
    const nobody = this.leased?.state.current?.client === "" || this.#controller.unnamed.has(lease);
    if (nobody && expected.includes("afterLease") && !hooks.includes("afterLease")) expected.pop();
    this.#must(hooks.join() === expected.join(), `hooks of ${lease}: ${hooks.join()}, expected ${expected.join()}`);
  }
}

async function play(exporter: Exporter, { hooks, exitOnLeaseEnd, release, faults, failures, seed, steps }: Scene) {
  const clock = new VirtualClock();
  const chance = new Chance(seed);
  const controller = new ControllerModel({ clock, chance, release, faults });
  const config = { hooks, motd: null, exitOnLeaseEnd } as LeaseConfig;
  const board = new Board({ clock, chance, failures, controller, config: () => config });
  const leased = startLeasedExporter({
    ...{ exporter, controller, clock, env: {}, directoryPrefix: "", config: () => config, work: board },
    dial: () => assert.fail("nobody dials"),
    audit: undefined,
    registered: () => {},
    refreshCredentials: async () => false,
  });
  board.leased = leased;
  let exited = false;
  void leased.done.then(() => {
    exited = board.stopped = controller.closed = true;
  });

  const happen = ({ event }: Step) => {
    switch (event.do) {
      case "lease":
        return controller.create(event.client);
      case "end":
        return controller.end();
      case "transfer":
        return controller.transfer(event.client);
      case "endSession":
        return board.serving?.gateOpen === true && void board.serving.scope.endSession();
      case "away":
        return controller.leave(event.ms);
      case "break":
        return controller.breakStreams(event.inOrder ? undefined : new AgentError("E_CONNECTION", "reset"));
      case "repeat":
        return controller.repeat(event.what);
      case "forget":
        return controller.forget();
      case "reload":
        return void leased.whenFree(async () => {
          if (board.serving !== undefined || board.opening || exited) board.violations.push("it changes while leased");
          leased.registerAgain();
        });
      case "stop":
        return leased.stop(event.when, 0);
    }
  };
  for (const each of steps) {
    happen(each);
    await clock.advance(each.thenMs);
  }

  assert.deepEqual(board.violations, []);
  // What goes wrong comes to an end, the longest outage too.
  controller.calmDown();
  await clock.advance(400_000);
  controller.calmDown();
  await clock.advance(100_000);
  const { phase, current, shown, stop } = leased.state;
  const state = JSON.stringify({ ...leased.state, controller: controller.shown, active: controller.active });
  if (phase !== "stopped") {
    assert.ok(leased.online && controller.registered, `the controller has the exporter again: ${state}`);
    if (release !== "0.7") assert.equal(controller.shown, shown, `the status is told: ${state}`);
    if (board.serving) assert.equal(board.serving.status.state, shown, `clients see the same: ${state}`);
    if (phase === "available") {
      // Older controllers let nobody but clients end a lease.
      if (release !== "0.7") assert.equal(controller.active, undefined, `no lease is left behind: ${state}`);
      assert.equal(board.serving, undefined);
      assert.equal(stop, null);
    } else {
      assert.ok(phase === "ready" || phase === "over", state);
      assert.deepEqual([current?.name, current?.client], [controller.active?.name, controller.active?.client], state);
      assert.equal(board.serving?.lease, current?.name);
    }
  }

  controller.endAll();
  await clock.advance(200_000);
  if (leased.state.phase !== "stopped") assert.equal(leased.state.phase, "available", state);
  assert.equal(board.serving, undefined, "nothing of a lease is left");
  // Half of them go while they register.
  if (chance.happens(0.5)) leased.registerAgain();
  await clock.advance(chance.pick([0, 250, 251, 270, 300]));
  leased.stop("now", 0);
  await clock.advance(60_000);
  assert.equal(leased.state.phase, "stopped");
  assert.ok(exited, "it tells that it has ended");
  if (phase !== "stopped") {
    assert.equal(controller.shown, "OFFLINE");
    assert.ok(!controller.registered, "it has said goodbye");
  }
  assert.deepEqual(board.violations, []);
  assert.ok(!controller.calledAfterEnd, "an exporter that has ended calls nobody");
  assert.equal(controller.open, 0, "no stream is left open");
  assert.equal(clock.sleeping, 0, "nobody waits for anything");
}

test(
  "whatever happens in whatever order, controller and exporter agree in the end",
  { timeout: 600_000 },
  async (t) => {
    const exporter = await createExporter({ name: "model", export: {} });
    t.after(() => exporter.close());
    // Backoff draws from it; each scene has to play the same way again.
    t.after(() => (Math.random = random));
    const random = Math.random;
    const failures: unknown[] = [];
    const onRejection = (reason: unknown) => failures.push(reason);
    process.on("unhandledRejection", onRejection);
    t.after(() => process.off("unhandledRejection", onRejection));

    await fc.assert(
      fc.asyncProperty(scene, async (drawn) => {
        const chance = new Chance(drawn.seed + 1);
        Math.random = () => chance.next();
        await play(exporter, drawn);
        assert.deepEqual(failures.splice(0), []);
      }),
      { numRuns: Number(process.env["LEASE_MODEL_RUNS"] ?? 10_000) },
    );
  },
);
