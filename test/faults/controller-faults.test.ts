// Whatever the controller and the network between do: the agent stays, no lease is lost, and both sides agree again.
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, test, type TestContext } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { status } from "@grpc/grpc-js";
import type { StatusResponse } from "../../proto/gen/jumpstarter/v1/jumpstarter.ts";
import { scratch } from "../sim/agent.ts";
import type { ControllerOptions } from "../sim/controller/controller.ts";
import { benchDrivers, setUpBench, startTraffic, type Bench } from "../sim/lease-bench.ts";

interface Fault {
  readonly lab?: ControllerOptions;
  /** @returns what ends the fault; without it, it is over at once. */
  readonly happen: (bench: Bench) => unknown;
  readonly mend?: (bench: Bench) => unknown;
  readonly lastsMs?: number;
  /** Whether open tunnels survive it. Default: true. */
  readonly cutsTunnels?: boolean;
  /** Whether the controller is heard all the time. Default: false. */
  readonly keepsLink?: boolean;
}

/** How long a fault lasts that must be mended, if it does not say. */
const usualMs = 1_000;

const authorities = (directory: string) =>
  readdirSync(directory, { recursive: true, encoding: "utf8" })
    .filter((path) => path.endsWith("ca.pem"))
    .map((path) => readFileSync(join(directory, path), "utf8"))
    .join("");

const faults: Record<string, (t: TestContext) => Fault> = {
  "the controller is stopped for a second": () => ({
    happen: ({ lab }) => lab.controller.stop(),
    mend: ({ lab }) => lab.controller.start(),
  }),
  "all connections are reset": () => ({
    happen({ lab }) {
      lab.controller.reset();
      lab.router.reset();
    },
    cutsTunnels: true,
  }),
  "controller and router are stopped for a second": () => ({
    happen: ({ lab }) => Promise.all([lab.controller.stop(), lab.router.stop()]),
    mend: ({ lab }) => Promise.all([lab.router.start(), lab.controller.start()]),
    cutsTunnels: true,
  }),
  "the router drops every tunnel": () => ({
    happen: ({ lab }) => lab.router.dropTunnels(),
    cutsTunnels: true,
    keepsLink: true,
  }),
  "the certificate is renewed": () => ({
    async happen({ lab }) {
      await lab.replaceCertificates("same");
      lab.controller.reset();
    },
  }),
  "the certificate comes from another authority, then the file holds that one too": (t) => {
    const directory = scratch(t);
    return {
      lab: { directory },
      async happen({ lab }) {
        await lab.replaceCertificates("another");
        lab.controller.reset();
      },
      mend(bench) {
        const ca = Buffer.from(authorities(directory)).toString("base64");
        for (const name of boards) bench.agent.configure(name, benchDrivers, { tls: { ca, insecure: false } });
        bench.trust(ca);
      },
    };
  },
  "the token is refused, then renewed in the file": () => ({
    happen({ lab }) {
      for (const name of boards) lab.refuseTokens(name);
      lab.controller.reset();
    },
    mend({ lab, agent }) {
      for (const name of boards) {
        lab.rotateToken(name);
        agent.configure(name, benchDrivers);
      }
    },
  }),
  "the token is refused as unauthenticated, then renewed in the file": () => ({
    happen({ lab }) {
      for (const name of boards) {
        lab.refuseTokens(name, { code: status.UNAUTHENTICATED, details: "token expired" });
      }
      lab.controller.reset();
    },
    mend({ lab, agent }) {
      for (const name of boards) {
        lab.rotateToken(name);
        agent.configure(name, benchDrivers);
      }
    },
  }),
  "status streams end in good order": () => ({ happen: ({ lab }) => lab.statusStreams.end() }),
  "status streams end with an error": () => ({
    happen: ({ lab }) => lab.statusStreams.end(undefined, status.INTERNAL, "watch channel closed"),
  }),
  "the listening ends in good order": () => ({ happen: ({ lab }) => lab.listenQueues.end(), keepsLink: true }),
  "the listening ends with an error": () => ({
    happen: ({ lab }) => lab.listenQueues.end(undefined, status.UNKNOWN, "lost"),
    keepsLink: true,
  }),
  "the controller takes connections and says nothing": () => ({
    happen({ lab }) {
      lab.controller.mute(true);
      lab.controller.reset();
    },
    mend({ lab }) {
      lab.controller.mute(false);
    },
    // So long that an attempt which began a moment before the end has all pauses behind it that there are.
    lastsMs: 12_000,
  }),
};

const boards = ["idle", "leased"];

describe("faults while one exporter is idle and the other one's lease is used", { concurrency: 4 }, () => {
  for (const [name, make] of Object.entries(faults)) {
    test(name, { timeout: 120_000 }, async (t) => {
      const { lab: options, happen, mend, lastsMs = usualMs, cutsTunnels = false, keepsLink = false } = make(t);
      const bench = await setUpBench(t, { exporters: boards, ...(options && { lab: options }) });
      const { lab } = bench;
      const connection = await bench.lease("leased", "first");
      let traffic = await startTraffic(t, connection);
      await traffic.moves();
      await bench.assertServed("leased", "first", connection);

      let sinceMs = lab.records.nowMs();
      await happen(bench);
      if (mend !== undefined) {
        if (!cutsTunnels) await traffic.moves();
        await sleep(lastsMs);
        for (const board of boards) await bench.untilShown(board, { online: false });
        sinceMs = lab.records.nowMs();
        await mend(bench);
      }
      if (!keepsLink) await bench.back(boards, sinceMs);
      if (cutsTunnels) {
        await lab.waitFor(() => traffic.error, { what: "the stream to break" });
        await connection.find("power")?.call("on");
        traffic = await startTraffic(t, connection);
      }
      await traffic.moves();
      await bench.assertServed("leased", "first", connection);

      // Whatever was open may have survived; what is new must work too.
      const second = await bench.connect("ann", "first");
      await second.find("power")?.call("off");
      const other = await bench.lease("idle", "second");
      await bench.assertServed("idle", "second", other);
      for (const lease of ["first", "second"]) lab.deleteLease(lease);
      await bench.agreeAndEnd(boards);
    });
  }
});

describe("what the controller says", { concurrency: 4 }, () => {
  test("status messages come three times each", { timeout: 120_000 }, async (t) => {
    const bench = await setUpBench(t, { exporters: ["board"] });
    const { lab } = bench;
    lab.statusStreams.repeat("board", 3);
    for (const name of ["one", "two", "three"]) {
      const connection = await bench.lease("board", name);
      await bench.assertServed("board", name, connection);
      lab.transfer(name, "bob");
      await bench.untilShown("board", { client: "bob" });
      lab.deleteLease(name);
      await lab.ready("board");
    }
    // The same one may be told again, as after the connection.
    const told = lab.records.statuses.map((report) => report.name).filter((name, at, all) => name !== all[at - 1]);
    const cycle = ["LEASE_READY", "AVAILABLE"];
    assert.deepEqual(told, ["AVAILABLE", ...cycle, ...cycle, ...cycle]);
    await bench.agreeAndEnd(["board"]);
  });

  test("status messages come in every order", { timeout: 120_000 }, async (t) => {
    const bench = await setUpBench(t, { exporters: ["board"] });
    const { lab, agent } = bench;
    let last = "";
    for (const [index, order] of permutations([0, 1, 2, 3]).entries()) {
      const [a, b] = [`a${index}`, `b${index}`];
      const messages = lab.statusStreams.hold("board");
      lab.assign({ client: "ann", exporter: "board", name: a });
      lab.deleteLease(a);
      lab.assign({ client: "ann", exporter: "board", name: b });
      lab.transfer(b, "bob");
      assert.equal(messages.held.length, order.length);
      messages.release((held) => order.map((at) => held[at] as StatusResponse));
      lab.statusStreams.end("board");
      await bench.untilShown("board", { state: "ready", lease: b, client: "bob" });
      if (index % 6 === 5) {
        const bob = await bench.connect("bob", b);
        await bench.assertServed("board", b, bob, "any");
      }
      lab.deleteLease(b);
      await bench.untilShown("board", { state: "available", lease: null });
      last = b;
    }
    assert.match(agent.output(), new RegExp(`Lease ${last} begins`));
    await bench.agreeAndEnd(["board"]);
  });

  test("the exporter's object is made anew: it registers again", { timeout: 120_000 }, async (t) => {
    const bench = await setUpBench(t, { exporters: boards });
    const { lab } = bench;
    const connection = await bench.lease("leased", "first");
    await bench.assertServed("leased", "first", connection);
    const sinceMs = lab.records.nowMs();
    for (const name of boards) lab.forgetExporter(name);
    lab.statusStreams.end(undefined, status.UNKNOWN, "the object is gone");
    await bench.back(boards, sinceMs);
    for (const name of boards) {
      await lab.ready(name);
      assert.notEqual(lab.exporter(name).devices, null);
    }
    await bench.untilShown("leased", { state: "available", lease: null });
    const again = await bench.lease("leased", "second");
    await bench.assertServed("leased", "second", again);
    lab.deleteLease("second");
    await bench.agreeAndEnd(boards);
  });
});

describe("what the controller answers", { concurrency: 4 }, () => {
  const refusals = [
    [status.UNAVAILABLE, "try later"],
    [status.UNKNOWN, "etcd is gone"],
    [status.PERMISSION_DENIED, "not yet"],
  ] as const;
  test("Register is refused again and again", { timeout: 120_000 }, async (t) => {
    const exporters = refusals.map(([code]) => `board-${code}`);
    const bench = await setUpBench(t, {
      exporters,
      prepare(lab) {
        for (const [code, details] of refusals) {
          lab.faults.answer("Register", code, details, { times: 3, caller: `board-${code}` });
        }
      },
    });
    const { calls } = bench.lab.records;
    for (const name of exporters) {
      const codes = calls.filter(({ rpc, caller }) => rpc === "Register" && caller === name).map(({ code }) => code);
      assert.equal(codes.length, 4, `${name}: ${codes.join()}`);
    }
    await bench.agreeAndEnd(exporters);
  });

  test("ReportStatus fails, is not there, or loses its answer", { timeout: 120_000 }, async (t) => {
    const exporters = ["fails", "lacks", "forgets"];
    const bench = await setUpBench(t, { exporters });
    const { lab } = bench;
    const { UNAVAILABLE, UNIMPLEMENTED } = status;
    const off = [
      lab.faults.answer("ReportStatus", UNAVAILABLE, "try later", { times: 3, caller: "fails" }),
      lab.faults.answer("ReportStatus", UNIMPLEMENTED, "unknown method", { caller: "lacks" }),
      lab.faults.answer("ReportStatus", UNAVAILABLE, "lost", { times: 2, caller: "forgets", afterEffect: true }),
    ];
    for (const name of exporters) lab.createLease({ client: "ann", exporterName: name, name: `of-${name}` });
    for (const name of exporters) await bench.untilShown(name, { state: "ready", lease: `of-${name}` });
    for (const name of ["fails", "forgets"]) {
      const connection = await bench.connect("ann", `of-${name}`);
      await bench.assertServed(name, `of-${name}`, connection);
    }
    // Somebody has renewed the controller that had no ReportStatus.
    for (const fault of off) fault.off();
    lab.statusStreams.end("lacks");
    const connection = await bench.connect("ann", "of-lacks");
    await bench.assertServed("lacks", "of-lacks", connection);
    for (const name of exporters) lab.deleteLease(`of-${name}`);
    await bench.agreeAndEnd(exporters);
  });

  const releases = [
    [status.PERMISSION_DENIED, "older"],
    [status.INVALID_ARGUMENT, "object kind mismatch"],
    [status.UNAUTHENTICATED, "who is it"],
    [status.UNIMPLEMENTED, "unknown method"],
  ] as const;
  test("ReleaseLease is refused in each way of older controllers", { timeout: 120_000 }, async (t) => {
    const exporters = releases.map(([code]) => `board-${code}`);
    const bench = await setUpBench(t, {
      exporters,
      hooks: { afterLease: { script: "true" } },
      prepare(lab) {
        for (const [code, details] of releases) {
          lab.faults.answer("ReleaseLease", code, details, { caller: `board-${code}` });
        }
      },
    });
    const { lab } = bench;
    await Promise.all(
      exporters.map(async (name) => {
        const connection = await bench.lease(name, `of-${name}`);
        await connection.endSession();
        await lab.waitFor(() => lab.lease(`of-${name}`).ended, { what: `the lease of ${name} to end` });
        assert.ok(lab.records.statuses.some(({ exporter, releaseLease }) => exporter === name && releaseLease));
      }),
    );
    await bench.agreeAndEnd(exporters);
  });

  test("ReleaseLease fails for a while, or loses its answer", { timeout: 120_000 }, async (t) => {
    const exporters = ["fails", "forgets"];
    const bench = await setUpBench(t, {
      exporters,
      hooks: { afterLease: { script: "true" } },
      prepare(lab) {
        lab.faults.answer("ReleaseLease", status.UNAVAILABLE, "later", { caller: "fails", times: 3 });
        const lost = { caller: "forgets", times: 1, afterEffect: true };
        lab.faults.answer("ReleaseLease", status.UNAVAILABLE, "lost", lost);
      },
    });
    const { lab } = bench;
    await Promise.all(
      exporters.map(async (name) => {
        const connection = await bench.lease(name, `of-${name}`);
        await connection.endSession();
        await lab.waitFor(() => lab.lease(`of-${name}`).ended, { what: `the lease of ${name} to end` });
      }),
    );
    await bench.agreeAndEnd(exporters);
  });
});

function permutations<T>(all: readonly T[]): T[][] {
  if (all.length === 0) return [[]];
  return all.flatMap((first, index) => permutations(all.toSpliced(index, 1)).map((rest) => [first, ...rest]));
}
