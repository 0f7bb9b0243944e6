// A tree as /sys/class/gpio is on disk. What a kernel does with it is for test/kernel.
import assert from "node:assert/strict";
import { mkdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { DeviceOffline } from "../../../../agent/driver/errors.ts";
import { openInput, openOutput } from "../../../../boards/gpio/transport.ts";
import { scratch } from "../../../sim/agent.ts";

interface FakeChip {
  base: number;
  label: string;
  lines: number;
  parent: string;
  characterDevice?: string;
}

function fakeSystem(t: TestContext, chips: readonly FakeChip[]) {
  const root = scratch(t);
  const [dev, sys] = [join(root, "dev"), join(root, "sys")];
  const folder = join(sys, "class/gpio");
  for (const each of [dev, folder]) mkdirSync(each, { recursive: true });
  writeFileSync(join(folder, "export"), "");
  writeFileSync(join(folder, "unexport"), "");
  for (const { base, label, lines, parent, characterDevice } of chips) {
    const device = join(sys, "devices/platform", parent);
    const real = join(device, "gpio", `gpiochip${base}`);
    mkdirSync(real, { recursive: true });
    if (characterDevice !== undefined) mkdirSync(join(device, characterDevice));
    for (const [name, value] of Object.entries({ base, label, ngpio: lines })) {
      writeFileSync(join(real, name), `${value}\n`);
    }
    symlinkSync(real, join(folder, `gpiochip${base}`));
  }
  /** A line that is exported already: what the kernel makes of `export` is not there. */
  const exported = (number: number, value = "0") => {
    const line = join(folder, `gpio${number}`);
    mkdirSync(line);
    for (const [name, text] of Object.entries({ value, direction: "in", active_low: "1", edge: "none" })) {
      writeFileSync(join(line, name), `${text}\n`);
    }
    return {
      read: (name: string) => readFileSync(join(line, name), "utf8"),
      write: (name: string, text: string) => writeFileSync(join(line, name), text),
      remove: () => rmSync(line, { recursive: true }),
    };
  };
  return { roots: { dev, sys }, exported, read: (name: string) => readFileSync(join(folder, name), "utf8") };
}

const plain = { activeLow: false, bias: "as_is", drive: "push_pull" } as const;
const two: FakeChip[] = [
  { base: 512, label: "pinctrl-bcm2711", lines: 58, parent: "fe200000.gpio", characterDevice: "gpiochip0" },
  { base: 570, label: "raspberrypi-exp-gpio", lines: 8, parent: "soc:firmware:gpio", characterDevice: "gpiochip1" },
];

test("the first number of a chip is looked up, however the chip is named", async (t) => {
  const system = fakeSystem(t, two);
  const line = system.exported(573);
  for (const device of ["raspberrypi-exp-gpio", "gpiochip1", "/dev/gpiochip1", 1, "gpiochip570"]) {
    const output = await openOutput({ device, line: 3 }, plain, system.roots);
    assert.equal(output.description, "line 3 of gpiochip570 [raspberrypi-exp-gpio], through sysfs");
    await output.close();
    assert.equal(system.read("unexport"), "573");
  }
  assert.equal(line.read("direction"), "in\n", "untouched");
});

test("an output gets its level with its direction, and counts by itself what is active", async (t) => {
  const system = fakeSystem(t, two);
  const line = system.exported(529);
  const output = await openOutput({ line: 17 }, { ...plain, activeLow: true }, system.roots);
  assert.equal(line.read("active_low"), "0");
  assert.equal(await output.isActive(), true, "0 V");
  await output.setActive(true);
  assert.equal(line.read("direction"), "low");
  await output.setActive(false);
  assert.deepEqual([line.read("value"), await output.isActive()], ["1", false]);
  await output.check();
  line.remove();
  await assert.rejects(output.check(), DeviceOffline);
  await assert.rejects(
    output.setActive(true),
    (error) =>
      error instanceof DeviceOffline &&
      error.message === "line 17 of gpiochip512 [pinctrl-bcm2711], through sysfs has gone",
  );
  await output.close();
});

test("edges are seen by looking", async (t) => {
  const system = fakeSystem(t, two);
  const line = system.exported(512, "1");
  const input = await openInput({ line: 0 }, { ...plain, debounceMs: 0 }, system.roots);
  assert.equal(line.read("direction"), "in");
  const edges: boolean[] = [];
  const lost = new Promise<Error>((resolve) => {
    const stop = input.edges.listen((edge) => {
      edges.push(edge.rising);
      if (edges.length === 1) line.write("value", "1");
      else line.remove();
    }, resolve);
    void stop;
  });
  setTimeout(() => line.write("value", "0"), 50);
  const error = await lost;
  assert.ok(error instanceof DeviceOffline, String(error));
  assert.deepEqual(edges, [false, true]);
  await input.close();
});

test("lines and chips that are not there, and what sysfs cannot do, are told", async (t) => {
  const { roots, exported } = fakeSystem(t, [
    ...two,
    { base: 600, label: "twin", lines: 4, parent: "a" },
    { base: 604, label: "twin", lines: 4, parent: "b" },
  ]);
  exported(512);
  const refused = async (wanted: { device?: string; line: number | string }, text: RegExp, wiring = {}) =>
    assert.rejects(
      openOutput(wanted, { ...plain, ...wiring }, roots),
      (error) => error instanceof DeviceOffline && text.test(error.message),
    );
  await refused({ line: 58 }, /^gpiochip512 \[pinctrl-bcm2711\] has the lines 0 to 57, and no line 58$/);
  await refused({ device: "pl061", line: 0 }, /^there is no GPIO chip labelled 'pl061'$/);
  await refused({ device: "twin", line: 0 }, /^several GPIO chips could be twin: .*; say which by its label$/);
  await refused({ line: "RELAY" }, /^there is no GPIO chip$/);
  await refused({ line: 0 }, /^bias and drive need the GPIO character device/, { bias: "pull_up" });
  await refused({ device: "pl061", line: 0 }, /^there is no GPIO chip labelled 'pl061'$/, { bias: "pull_up" });
});
