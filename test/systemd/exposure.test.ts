import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { cpSync, mkdirSync, readFileSync, readdirSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";
import { test, type TestContext } from "node:test";
import { missingPrograms } from "../../scripts/programs.mjs";
import { scratch } from "../sim/agent.ts";

const missing = missingPrograms(["systemd-analyze"]);
const options = { skip: missing.length > 0 ? `needs ${missing.join(", ")}` : false };

/** The most that a unit may be exposed to, of 10, as systemd reckons. */
const limits = {
  "jumpstarter-agent.service": 2.5,
  "jumpstarter-agent@.service": 2.5,
  "jumpstarter-agent-boot.service": 2.0,
} as const;
type Unit = keyof typeof limits;

/** @returns the verdict of systemd on a unit, with a drop-in where one is given */
function exposure(t: TestContext, unit: Unit, dropIn?: string): number {
  const folder = scratch(t);
  cpSync(join("systemd/system", unit), join(folder, unit));
  if (dropIn !== undefined) {
    mkdirSync(join(folder, `${unit}.d`));
    writeFileSync(join(folder, `${unit}.d`, "drop-in.conf"), dropIn);
  }
  const words = ["security", "--offline=true", "--no-pager", `--threshold=${limits[unit] * 10}`, join(folder, unit)];
  // It fails above the threshold.
  const told = execFileSync("systemd-analyze", words, { encoding: "utf8" });
  const level = Number(/Overall exposure level for .*: ([\d.]+)/.exec(told)?.[1]);
  t.diagnostic(`${unit}${dropIn === undefined ? "" : " with the drop-in"}: ${level}`);
  return level;
}

for (const unit of Object.keys(limits) as Unit[]) {
  test(`${unit} is exposed to no more than ${limits[unit]}`, options, (t) => {
    assert.ok(exposure(t, unit) <= limits[unit]);
  });
}

for (const file of readdirSync("systemd/drop-ins")) {
  const text = readFileSync(join("systemd/drop-ins", file), "utf8");
  const units: Unit[] = text.includes("jumpstarter-agent-boot.service takes")
    ? ["jumpstarter-agent-boot.service"]
    : ["jumpstarter-agent.service", "jumpstarter-agent@.service"];
  test(`with the drop-in ${basename(file)}, too`, options, (t) => {
    for (const unit of units) assert.ok(exposure(t, unit, text) <= limits[unit]);
  });
}

test("a policy for a mock is less than the unit allows", options, (t) => {
  const policy = execFileSync(process.execPath, ["dist/jmp-agent.js", "policy", "examples/mock.yaml"], {
    encoding: "utf8",
  });
  const unit = "jumpstarter-agent.service";
  assert.ok(exposure(t, unit, policy) < exposure(t, unit));
});

test("all exporters together and one alone are kept in the same way", () => {
  const settings = (unit: Unit) =>
    readFileSync(join("systemd/system", unit), "utf8")
      .split("\n")
      .filter((line) => /^[A-Z]\w+=/.test(line))
      .filter(
        (line) => !/^(Description|ExecStart|Condition\w+|Assert\w+|Conflicts|LoadCredential|SetCredential)=/.test(line),
      );
  assert.deepEqual(settings("jumpstarter-agent@.service"), settings("jumpstarter-agent.service"));
  assert.ok(settings("jumpstarter-agent.service").includes("StartLimitIntervalSec=0"));
});

/** Vendor and product of every board that drivers find by them, as the code has them. */
const boards: readonly (readonly [file: string, vendor: string, products: readonly string[]])[] = [
  ["boards/dutlink/protocol.ts", "2b23", ["1012"]],
  ["boards/sdwire/devices.ts", "04e8", ["6001"]],
  ["boards/sdwire/devices.ts", "0403", ["6015"]],
  ["boards/sdwire/devices.ts", "0bda", ["0316"]],
  ["boards/usb-sd-mux/transport.ts", "0424", ["4041"]],
  ["boards/yepkit/protocol.ts", "04d8", ["f2f7", "f11b", "f0cd"]],
  ["boards/noyito/hid.ts", "5131", ["2007"]],
  ["boards/stlink-msd/driver.ts", "0483", ["374b", "374a", "3742", "3752", "374e", "374f", "3753", "3754"]],
  ["boards/pi-pico/driver.ts", "2e8a", ["0003", "000f"]],
];

test("every board that the code finds by its ids has a rule", () => {
  const rules = readFileSync("systemd/udev/60-jumpstarter-agent.rules", "utf8").split("\n");
  const known = new Set<string>();
  for (const [file, vendor, products] of boards) {
    const code = readFileSync(file, "utf8").toLowerCase();
    for (const id of [vendor, ...products]) {
      assert.ok(code.includes(`0x${id}`), `${file} has no 0x${id}`);
      known.add(`${file} 0x${id}`);
    }
    for (const product of products) {
      const rule = rules.find(
        (line) =>
          line.includes(`{idVendor}=="${vendor}"`) && new RegExp(`\\{idProduct\\}=="[^"]*\\b${product}\\b`).test(line),
      );
      assert.match(rule ?? "", /GROUP="plugdev", MODE="0660"/, `${vendor}:${product}`);
    }
  }
  assert.ok(rules.includes('SUBSYSTEM=="block", SUBSYSTEMS=="usb", GROUP="jumpstarter", MODE="0660"'));
  // What is new in the code must be new here.
  for (const file of new Set(boards.map(([name]) => name))) {
    for (const [id] of readFileSync(file, "utf8")
      .toLowerCase()
      .matchAll(/\b0x[0-9a-f]{4}\b/g)) {
      // The reader beside an SDWire is a disk, and they have a rule of their own.
      const isNoBoard = ["0xffff", "0x0424", "0x4050"].includes(id);
      assert.ok(isNoBoard || known.has(`${file} ${id}`), `${file}: ${id} has no rule`);
    }
  }
});
