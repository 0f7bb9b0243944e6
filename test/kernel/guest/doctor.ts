// The doctor and the suggestions see real devices: what is plugged in, what is missing, and that it has come.
import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test, type TestContext } from "node:test";
import { stringify } from "yaml";
import { loadConfig } from "../../../agent/config/load.ts";
import { createCatalog, shippedDrivers } from "../../../agent/driver/catalog.ts";
import type { AnyDriver } from "../../../agent/driver/driver.ts";
import { examine, type Examination } from "../../../agent/ops/doctor/examine.ts";
import { firstToFix } from "../../../agent/ops/doctor/finding.ts";
import { pluggedIn, type PluggedIn } from "../../../agent/ops/doctor/plugged-in.ts";
import { collectSuggestions, suggestionsAsYaml } from "../../../agent/ops/suggest.ts";
import { startExporter } from "../../sim/exporter.ts";
import { massStorage } from "../../sim/usbip/mass-storage.ts";
import { plugUsb } from "../../sim/usbip/plug.ts";
import { serialAdapter, type SerialAdapter } from "./lib/plug.ts";
import { exec, modprobe, waitFor } from "./lib/system.ts";

/** One line for each device. */
function outline(tree: readonly PluggedIn[]): string[] {
  return tree.flatMap(({ what, nodes, below }) => [[what, ...nodes].join(" "), ...outline(below)]);
}

function configFile(t: TestContext, exported: object): string {
  const directory = mkdtempSync(join(tmpdir(), "doctor-"));
  t.after(() => rmSync(directory, { recursive: true, force: true }));
  const file = join(directory, "bench.yaml");
  writeFileSync(file, stringify({ metadata: { name: "bench" }, export: exported }));
  return file;
}

async function look(file: string): Promise<Examination> {
  const nobody = { agents: [], offline: [], silent: [], directories: [] };
  return await examine({ files: [file], catalog: hardware, env: process.env, ...nobody });
}

/** Drivers of what is wired to a board: code of the others takes a slow machine half a minute to load. */
const hardware = createCatalog(
  new Map(
    shippedDrivers
      .types()
      .filter((type) => !/flashers|opendal|http|tftp|network|VirtualBoard|shell|uboot/.test(type))
      .map((type) => [type, () => shippedDrivers.load(type) as Promise<AnyDriver>]),
  ),
);

/** An emulated processor that others want, too, reads the eighteen USB buses of this machine for many seconds. */
const emulatedLimitMs = 120_000;

/** A chip of four lines, for the life of the machine. */
async function gpioChip(label: string): Promise<string> {
  await modprobe("gpio_sim");
  const device = `/sys/kernel/config/gpio-sim/${label}`;
  mkdirSync(`${device}/bank0`, { recursive: true });
  writeFileSync(`${device}/bank0/num_lines`, "4");
  writeFileSync(`${device}/bank0/label`, label);
  writeFileSync(`${device}/live`, "1");
  return readFileSync(`${device}/bank0/chip_name`, "utf8").trim();
}

let adapter: SerialAdapter;
let tty: string;

const closers: (() => Promise<void>)[] = [];

after(async () => {
  for (const close of closers) await close();
});

before(async () => {
  adapter = await serialAdapter({ after: (close) => void closers.push(close as () => Promise<void>) }, "DOCTOR1");
  tty = await adapter.plug();
});

test("the tree shows what is plugged in, and no longer what was pulled out", async (t) => {
  const chip = await gpioChip("doctor-gpio");
  await modprobe("i2c_dev");
  await modprobe("i2c_stub", "chip_addr=0x48");
  await modprobe("vcan");
  await exec("ip", "link", "add", "vcan7", "type", "vcan");
  t.after(() => exec("ip", "link", "del", "vcan7"));
  await modprobe("usb_storage");
  await modprobe("sd_mod");
  const reader = massStorage({ vendor: "Generic", product: "Ultra HS-SD/MMC" });
  const serial = "000000000011";
  // Nothing asks this machine's readers whether a card has come later.
  reader.insert(Buffer.alloc(4 * 2 ** 20));
  const plugged = await plugUsb(t, { vendorId: 0x0424, productId: 0x4050, serial, functions: [reader] });
  const lookAgain = async () => {
    const seen = outline(await pluggedIn("/sys"));
    if (!seen.some((line) => line.includes("(4 MB)"))) throw new Error(seen.join("\n"));
    return seen;
  };
  const lines = await waitFor("the reader's card", lookAgain, emulatedLimitMs);
  const demand = (pattern: RegExp) =>
    assert.ok(
      lines.some((line) => pattern.test(line)),
      `${pattern}:\n${lines.join("\n")}`,
    );
  demand(new RegExp(`^0403:6001 .*, serial DOCTOR1 ${tty}$`));
  demand(new RegExp(`^0424:4050.*, serial ${serial} /dev/sd[a-z]+ \\(4 MB\\)`));
  demand(new RegExp(`/dev/${chip}$`));
  demand(/^SMBus stub driver \/dev\/i2c-\d+$/);
  demand(/^virtual, down vcan7$/);

  await plugged.unplug();
  assert.doesNotMatch(outline(await pluggedIn("/sys")).join("\n"), new RegExp(serial));
});

test("a device that is missing is the first thing to fix; once it is plugged in, all is well", async (t) => {
  const port = { type: "jumpstarter_driver_pyserial.driver.PySerial", config: { url: tty } };
  const file = configFile(t, { console: port, power: { type: "jumpstarter_driver_power.driver.MockPower" } });
  await adapter.unplug();
  const missing = firstToFix((await look(file)).findings);
  assert.equal(missing?.area, "devices");
  assert.ok(missing.text.startsWith("bench: console: ") && missing.text.includes(tty), missing.text);
  assert.equal(await adapter.plug(), tty);
  const { findings } = await look(file);
  assert.equal(firstToFix(findings), undefined, JSON.stringify(findings));
});

test("what is suggested opens for real", async (t) => {
  const suggestions = await collectSuggestions(hardware, emulatedLimitMs);
  assert.deepEqual(suggestions.failures, []);
  const file = configFile(t, {});
  writeFileSync(file, `metadata: {name: bench}\n${suggestionsAsYaml(suggestions)}`);
  const { config, warnings } = await loadConfig(file, { catalog: hardware, env: {} });
  assert.deepEqual(warnings, []);
  const { exporter } = await startExporter(t, config.export);
  const offline = exporter.tree.drivers.flatMap(({ planned, offlineReason }) =>
    offlineReason === undefined ? [] : [`${planned.path}: ${offlineReason}`],
  );
  assert.deepEqual(offline, []);
});
