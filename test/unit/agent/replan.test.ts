import assert from "node:assert/strict";
import { test, type TestContext } from "node:test";
import * as z from "zod";
import composite from "../../../boards/composite/driver.ts";
import { createCatalog } from "../../../agent/driver/catalog.ts";
import { defineDriver, type ChildHandle } from "../../../agent/driver/driver.ts";
import type { Entry } from "../../../agent/driver/entry.ts";
import { DeviceOffline } from "../../../agent/driver/errors.ts";
import { defineInterface, unary } from "../../../agent/driver/interface.ts";
import { compositeType, planTree, type PlannedDriver } from "../../../agent/driver/plan.ts";
import { describeChange } from "../../../agent/driver/replan.ts";
import { createExporter, type Exporter } from "../../../agent/session/exporter.ts";
import { report } from "../../../agent/session/report.ts";
import { eventually } from "../../sim/rig.ts";

const lampInterface = defineInterface({
  driverType: "lamp",
  client: "lamp.client.LampClient",
  methods: {
    name: unary({ args: [], result: z.string() }),
    below: unary({ args: [], result: z.string() }),
    share: unary({ args: [], result: z.number() }),
  },
});

/** What the lamps of one test have done, and what they are to do. */
function workshop(t: TestContext) {
  const events: string[] = [];
  const missing = new Set<string>();
  const broken = new Set<string>();
  const gates = new Map<string, Promise<void>>();
  let shared = 0;
  const lamp = defineDriver({
    types: ["test.Lamp"],
    summary: "A lamp that tells when it is opened and closed.",
    implements: lampInterface,
    config: z.object({
      name: z.string().default("lamp"),
      bus: z.string().optional(),
      pattern: z
        .string()
        .transform((text) => new RegExp(text))
        .optional(),
    }),
    async open({ config, path, children, signal, ...context }) {
      events.push(`open ${path}`);
      if (missing.has(path)) throw new DeviceOffline(`no lamp at ${path}`);
      if (broken.has(path)) throw new Error(`${path} is broken`);
      const { bus } = config;
      const join = (key: string) =>
        context.shared(`bus ${key}`, () => {
          const number = ++shared;
          events.push(`bus ${key} made`);
          return { number, close: () => void events.push(`bus ${key} closed`) };
        });
      if (bus !== undefined) join(bus);
      await gates.get(path);
      signal.addEventListener("abort", () => events.push(`abort ${path}`));
      return {
        methods: {
          name: () => config.name,
          below: async () => {
            const child = children.get("lamp") as ChildHandle;
            return child.as(lampInterface).name();
          },
          share: () => join(bus ?? "late").number,
        },
        close: async () => {
          events.push(`close ${path}`);
          await gates.get(`close ${path}`);
        },
      };
    },
  });
  const catalog = createCatalog(
    new Map([
      [compositeType, async () => composite],
      ["test.Lamp", async () => lamp],
    ]),
  );
  const plan = async (drivers: Record<string, Entry>): Promise<PlannedDriver> => {
    const planned = await planTree({ children: drivers }, catalog);
    assert.ok("root" in planned, JSON.stringify(planned));
    return planned.root;
  };
  return {
    events,
    missing,
    broken,
    gates,
    /** What has happened since the last look. */
    news: () => events.splice(0).filter((event) => !event.startsWith("abort")),
    start: async (drivers: Record<string, Entry>): Promise<Exporter> => {
      const exporter = await createExporter({ name: "test", export: drivers, catalog });
      t.after(() => exporter.close());
      return exporter;
    },
    plan,
    replan: async (exporter: Exporter, drivers: Record<string, Entry>): Promise<string[]> =>
      (await exporter.tree.replan(await plan(drivers))).map(describeChange),
  };
}

const lamp = (config: Record<string, unknown> = {}, rest: Partial<Entry> = {}): Entry => ({
  type: "test.Lamp",
  config,
  ...rest,
});

function uuidOf(exporter: Exporter, name: string): string | undefined {
  return exporter.tree.root.children.get(name)?.uuid;
}

test("a configuration that says the same touches nothing", async (t) => {
  const { start, replan, news } = workshop(t);
  const drivers = {
    a: lamp({ bus: "one" }, { description: "first", methodsDescription: { name: "its name" } }),
    group: { children: { b: lamp() } },
    link: { ref: "group.b" },
  };
  const exporter = await start(drivers);
  news();
  const before = report(exporter);
  // A default that is written out is no change either.
  assert.deepEqual(
    await replan(exporter, { ...drivers, a: { ...drivers.a, config: { bus: "one", name: "lamp" } } }),
    [],
  );
  assert.deepEqual(news(), []);
  assert.deepEqual(report(exporter), before);
});

test("only what changed is closed and opened; the others stay open under their uuids", async (t) => {
  const { start, replan, news } = workshop(t);
  const exporter = await start({ a: lamp(), b: lamp(), c: lamp(), box: { children: { d: lamp() } } });
  const before = Object.fromEntries(["a", "b", "c", "box"].map((name) => [name, uuidOf(exporter, name)]));
  news();
  const changes = await replan(exporter, {
    a: lamp({ name: "other" }),
    b: lamp(),
    box: { children: { d: lamp() } },
    e: lamp(),
  });
  assert.deepEqual(news(), ["close c", "close a", "open a", "open e"]);
  assert.deepEqual(changes, [
    "a: changed",
    "e: added",
    "the root: opened again, as it uses a driver that changed",
    "c: removed",
  ]);
  assert.equal(uuidOf(exporter, "b"), before["b"]);
  assert.equal(uuidOf(exporter, "box"), before["box"]);
  assert.notEqual(uuidOf(exporter, "a"), before["a"]);
  assert.equal(exporter.tree.byUuid(before["a"] ?? ""), undefined);
  assert.equal(exporter.tree.byUuid(before["b"] ?? ""), exporter.tree.root.children.get("b"));
  assert.equal(await exporter.calls("a", lampInterface).name(), "other");
  const names = report(exporter).reports.map(({ labels }) => labels["jumpstarter.dev/name"]);
  assert.deepEqual(names, [undefined, "a", "b", "box", "d", "e"]);
});

test("each part of an entry counts", async (t) => {
  const { start, replan } = workshop(t);
  const exporter = await start({ a: lamp(), b: lamp() });
  const uuid = "6f2d2a34-5c55-4f0f-9d53-0d9c3bb4a2f1";
  for (const other of [
    lamp({}, { description: "a lamp" }),
    lamp({}, { methodsDescription: { name: "its name" } }),
    lamp({ labels: { colour: "red" } }),
    lamp({ log_level: "debug" }),
    lamp({ uuid }),
    lamp({ bus: "one" }),
    { children: {} },
  ]) {
    const [change] = await replan(exporter, { a: other, b: lamp() });
    assert.equal(change, "a: changed");
    if ((other as { config?: { uuid?: string } }).config?.uuid) assert.equal(uuidOf(exporter, "a"), uuid);
    assert.deepEqual((await replan(exporter, { a: other, b: lamp() })).length, 0);
  }
  // What cannot be compared is opened again rather than left with an old configuration.
  await replan(exporter, { a: lamp({ pattern: "x" }), b: lamp() });
  assert.equal((await replan(exporter, { a: lamp({ pattern: "x" }), b: lamp() }))[0], "a: changed");
});

test("what holds a handle to a changed driver follows it, through refs too", async (t) => {
  const { start, replan, news } = workshop(t);
  const drivers = (name: string, target = "base") => ({
    base: lamp({ name }),
    other: lamp({ name: "other" }),
    user: lamp({}, { children: { lamp: { ref: target } } }),
    top: lamp({}, { children: { lamp: { ref: "user" } } }),
  });
  const exporter = await start(drivers("old"));
  const uuid = uuidOf(exporter, "other");
  news();
  await replan(exporter, drivers("new"));
  assert.deepEqual(news(), ["close top", "close user", "close base", "open base", "open user", "open top"]);
  assert.equal(await exporter.calls("user", lampInterface).below(), "new");
  await replan(exporter, drivers("new", "other"));
  assert.deepEqual(news(), ["close top", "close user", "open user", "open top"]);
  assert.equal(await exporter.calls("user", lampInterface).below(), "other");
  assert.equal(uuidOf(exporter, "other"), uuid);
});

test("missing hardware leaves its driver offline, and it comes back", async (t) => {
  const { start, replan, missing } = workshop(t);
  const exporter = await start({ a: lamp() });
  missing.add("b");
  const changes = await replan(exporter, { a: lamp(), b: lamp() });
  assert.equal(changes[0], "b: added, offline: no lamp at b");
  await assert.rejects(exporter.calls("b", lampInterface).name(), { code: "E_DEVICE_OFFLINE" });
  missing.clear();
  await comesBack(exporter, "b");
});

test("a driver that cannot open answers with its error, the others work, and it is tried again", async (t) => {
  const { start, replan, news, broken } = workshop(t);
  const exporter = await start({ a: lamp(), b: lamp() });
  broken.add("a");
  news();
  const changes = await replan(exporter, { a: lamp({ name: "new" }), b: lamp(), c: lamp() });
  assert.equal(changes[0], "a: changed, cannot be opened: a is broken");
  assert.deepEqual(news(), ["close a", "open a", "open c"]);
  await assert.rejects(exporter.calls("a", lampInterface).name(), { code: "E_FAILED", message: "a is broken" });
  assert.equal(exporter.tree.root.children.get("a")?.offlineReason, "a is broken");
  assert.equal(await exporter.calls("c", lampInterface).name(), "lamp");
  assert.equal(report(exporter).reports.length, 4);
  broken.clear();
  await comesBack(exporter, "a");
  assert.equal(await exporter.calls("a", lampInterface).name(), "new");
});

/** An offline driver is tried again at most once a second. */
async function comesBack(exporter: Exporter, path: string): Promise<void> {
  let back = false;
  const calling = async () => {
    while (!back) {
      await exporter
        .calls(path, lampInterface)
        .name()
        .then(
          () => (back = true),
          () => new Promise((resolve) => setTimeout(resolve, 50)),
        );
    }
  };
  await Promise.race([calling(), eventually(`${path} is back`, () => back)]);
}

test("what drivers share is closed with its last user, before the new ones open", async (t) => {
  const { start, replan, news } = workshop(t);
  const exporter = await start({ a: lamp({ bus: "one" }), b: lamp({ bus: "one" }), c: lamp({ bus: "two" }) });
  news();
  await replan(exporter, { a: lamp({ bus: "two" }), b: lamp({ bus: "one" }), c: lamp({ bus: "three" }) });
  assert.deepEqual(news(), [
    ...["close c", "close a", "bus two closed"],
    ...["open a", "bus two made", "open c", "bus three made"],
  ]);
  await replan(exporter, {});
  assert.deepEqual(news().slice(-3).sort(), ["bus one closed", "bus three closed", "bus two closed"]);
  await replan(exporter, { a: lamp({ bus: "one" }) });
  await exporter.close();
  assert.deepEqual(news().slice(-2), ["close a", "bus one closed"]);
});

test("a driver that is gone shares nothing more and takes no calls", async (t) => {
  const { start, replan, events } = workshop(t);
  const exporter = await start({ a: lamp() });
  const gone = exporter.calls("a", lampInterface);
  await replan(exporter, { a: lamp({ name: "new" }) });
  await assert.rejects(gone.name(), { code: "E_CANCELLED", message: /gone with its configuration/ });
  assert.ok(events.includes("abort a"));
});

test("a comparison touches nothing", async (t) => {
  const { start, plan, news } = workshop(t);
  const exporter = await start({ a: lamp() });
  news();
  const changes = exporter.tree.compare(await plan({ a: lamp({ name: "new" }) }));
  assert.deepEqual(changes.map(describeChange), [
    "a: changed",
    "the root: opened again, as it uses a driver that changed",
  ]);
  assert.deepEqual(news(), []);
});

test("replans happen one after the other", async (t) => {
  const { start, plan, news } = workshop(t);
  const exporter = await start({ a: lamp() });
  news();
  const plans = [
    await plan({ a: lamp({ name: "1" }) }),
    await plan({ a: lamp({ name: "2" }), b: lamp() }),
    await plan({ a: lamp({ name: "2" }) }),
  ];
  await Promise.all(plans.map((next) => exporter.tree.replan(next)));
  assert.deepEqual(news(), ["close a", "open a", "close a", "open a", "open b", "close b"]);
  assert.equal(await exporter.calls("a", lampInterface).name(), "2");
});

test("closing during a replan leaves nothing open", async (t) => {
  const { start, replan, news, gates, events } = workshop(t);
  for (const stopAt of ["close b", "close a", "a", "c"]) {
    let proceed: () => void = () => {};
    gates.clear();
    const exporter = await start({ a: lamp({ bus: "x" }), b: lamp() });
    news();
    gates.set(stopAt, new Promise((resolve) => (proceed = resolve)));
    const reached = stopAt.startsWith("close") ? stopAt : `open ${stopAt}`;
    const replanned = assert.rejects(replan(exporter, { a: lamp({ bus: "y" }), b: lamp({ name: "new" }), c: lamp() }), {
      code: "E_CANCELLED",
    });
    await eventually(reached, () => events.includes(reached));
    const closed = exporter.close();
    proceed();
    await Promise.all([replanned, closed]);
    // An attempt that nobody waits for closes what it gets by itself.
    const balance = (path: string) =>
      events.filter((event) => event === `open ${path}`).length -
      events.filter((event) => event === `close ${path}`).length;
    await eventually("all are closed", () => balance("a") === -1 && balance("b") === -1 && balance("c") === 0);
    assert.equal(events.filter((event) => event.endsWith("made")).length + 1, closedBuses(events), stopAt);
    await assert.rejects(replan(exporter, {}), { code: "E_CANCELLED" });
  }
});

function closedBuses(events: readonly string[]): number {
  return events.filter((event) => event.startsWith("bus") && event.endsWith("closed")).length;
}
