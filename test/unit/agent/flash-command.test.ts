import assert from "node:assert/strict";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { stringify } from "yaml";
import type { FlashReceipt } from "../../../agent/driver/receipt.ts";
import { scratch } from "../../sim/agent.ts";
import { run } from "../../sim/python-client.ts";

const flasherType = "jumpstarter_driver_flashers.driver.BaseFlasher";
const server = (type: string, folder: string) => ({ type, config: { root_dir: folder, host: "127.0.0.1", port: 0 } });

/** A flasher that has all it needs but a board: its console only echoes. */
function flasher(folder: string) {
  return {
    type: flasherType,
    config: { flasher_bundle: "file:/nowhere", cache_dir: join(folder, "cache") },
    children: {
      power: { type: "jumpstarter_driver_power.driver.MockPower" },
      serial: { type: "jumpstarter_driver_pyserial.driver.PySerial", config: { url: "loop://" } },
      tftp: server("jumpstarter_driver_tftp.driver.Tftp", join(folder, "tftp")),
      http: server("jumpstarter_driver_http.driver.HttpServer", join(folder, "http")),
    },
  };
}

async function flash(t: TestContext, drivers: (folder: string) => Record<string, unknown>, ...options: string[]) {
  const folder = scratch(t);
  const config = join(folder, "exporter.yaml");
  writeFileSync(config, stringify({ metadata: { name: "bench" }, export: drivers(folder) }));
  const image = join(folder, "image.raw");
  writeFileSync(image, "image");
  const [receipt, log] = [join(folder, "receipt.json"), join(folder, "console.log")];
  const words = ["flash", image, "--exporter-config", config, "--receipt", receipt, "--console-log", log, ...options];
  const finished = await run(process.execPath, ["--import", "tsx", "agent/cli/jmp-agent.ts", ...words]);
  return { ...finished, receipt, log };
}

test("a flash that fails exits with 1, names the step, and keeps receipt and console log", async (t) => {
  const { code, stdout, stderr, receipt, log } = await flash(t, (folder) => ({ flasher: flasher(folder) }));
  assert.equal(code, 1);
  assert.match(stderr, /^FAILED bundle/m);
  assert.match(stderr, /^jmp-agent flash: bundle: .*\/nowhere/m);
  assert.match(stderr, new RegExp(`^the console log is in ${log}`, "m"));
  assert.match(stdout, /s {2}bundle {2}FAILED$/m);
  assert.ok(existsSync(log));
  const { verdict, failure, exporter } = JSON.parse(readFileSync(receipt, "utf8")) as FlashReceipt;
  assert.deepEqual([verdict, failure?.step, exporter], ["failed", "bundle", "bench"]);
});

test("a bundle can be named for one flash", async (t) => {
  const { stderr } = await flash(t, (folder) => ({ flasher: flasher(folder) }), "--bundle", "file:/elsewhere");
  assert.match(stderr, /^jmp-agent flash: bundle: .*\/elsewhere/m);
});

test("wrong words are said before anything is opened", async (t) => {
  const two = (folder: string) => ({ one: flasher(folder), other: flasher(folder) });
  const one = (folder: string) => ({ flasher: flasher(folder) });
  const none = () => ({ power: { type: "jumpstarter_driver_power.driver.MockPower" } });
  const cases = [
    [two, [], 2, /there are several flashers: --flasher is one of one, other/],
    [two, ["--flasher", "third"], 2, /there is no flasher third/],
    [none, [], 1, /this exporter has no flasher/],
    [one, ["--gateway", "10.0.0.1"], 2, /--gateway needs --ip/],
    [one, ["--ip", "10.0.0.1"], 2, /--ip must be like 192\.168\.1\.20\/24/],
    [one, ["--off-time", "long"], 2, /--off-time must be 0 to 600/],
    [one, ["--retries", "many"], 2, /--retries must be 0 to 10/],
    [one, ["--sha256", "abc"], 2, /--sha256 must be 64 hexadecimal digits/],
    [one, ["--bundle", "???"], 1, /\?\?\?/],
  ] as const;
  await Promise.all(
    cases.map(async ([drivers, options, expected, message]) => {
      const { code, stderr, receipt } = await flash(t, drivers, ...options);
      assert.match(stderr, message);
      assert.equal(code, expected, stderr);
      assert.equal(existsSync(receipt), false);
    }),
  );
});

test("several boards are flashed at once, each with its receipt, and one that fails is enough to fail", async (t) => {
  const folder = scratch(t);
  const image = join(folder, "image.raw");
  writeFileSync(image, "image");
  const configs = ["left", "right"].flatMap((name) => {
    const config = join(folder, `${name}.yaml`);
    writeFileSync(config, stringify({ metadata: { name }, export: { flasher: flasher(join(folder, name)) } }));
    return ["--exporter-config", config];
  });
  const files = ["--receipt", join(folder, "receipt.json"), "--console-log", join(folder, "console.log")];
  const words = ["flash", image, ...configs, ...files, "--html", join(folder, "report.html")];
  const { code, stdout, stderr } = await run(process.execPath, ["--import", "tsx", "agent/cli/jmp-agent.ts", ...words]);
  assert.equal(code, 1);
  for (const name of ["left", "right"]) {
    assert.match(stderr, new RegExp(`^${name}: FAILED bundle`, "m"));
    assert.match(stdout, new RegExp(`^${name}$`, "m"));
    const { exporter, verdict } = JSON.parse(
      readFileSync(join(folder, `${name}-receipt.json`), "utf8"),
    ) as FlashReceipt;
    assert.deepEqual([exporter, verdict], [name, "failed"]);
    assert.ok(existsSync(join(folder, `${name}-console.log`)));
    assert.match(readFileSync(join(folder, "report.html"), "utf8"), new RegExp(name));
  }
});
