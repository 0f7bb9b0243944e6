// The real probe-rs, which has no probe here (node scripts/probe-rs.mjs builds it), and a double of it that has one.
import assert from "node:assert/strict";
import { copyFileSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Readable } from "node:stream";
import { test, type TestContext } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { createExporter } from "../../../agent/session/exporter.ts";
import { findProgram } from "../../../agent/sys/program.ts";
import { probeRs } from "../../../boards/probe-rs/interface.ts";
import { environment, hexWords, problemOf } from "../../../boards/probe-rs/protocol.ts";
import { isAlive } from "../../sim/processes.ts";
import { builtProbeRs } from "../../../scripts/probe-rs.mjs";

const entry = (config: Record<string, unknown>) => ({ type: "jumpstarter_driver_probe_rs.driver.ProbeRs", config });

interface Told {
  pid: number;
  child?: number;
  command: string;
  words: string[];
  env: Record<string, string>;
  content?: string;
  mode?: number;
}

/** An exporter of doubles with these configurations. */
async function probes(t: TestContext, configs: Record<string, Record<string, unknown>>) {
  const folder = mkdtempSync(join(tmpdir(), "jmp-probe-"));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  // Files that are lent to it go into a folder of this test.
  const former = process.env["TMPDIR"];
  process.env["TMPDIR"] = mkdtempSync(join(folder, "tmp-"));
  t.after(() => {
    if (former === undefined) delete process.env["TMPDIR"];
    else process.env["TMPDIR"] = former;
  });
  const leftovers = () => readdirSync(tmpdir());
  const probe_rs_path = join(folder, "probe-rs");
  copyFileSync("test/sim/probe-rs.mjs", `${probe_rs_path}.mjs`);
  writeFileSync(probe_rs_path, `#!/bin/sh\nexec ${process.execPath} ${probe_rs_path}.mjs "$@"\n`, { mode: 0o755 });
  writeFileSync(join(folder, "calls"), "");
  const entries = Object.entries(configs).map(([name, config]) => [name, entry({ probe_rs_path, ...config })]);
  const exporter = await createExporter({ name: "test", export: Object.fromEntries(entries) as Record<string, never> });
  t.after(() => exporter.close());
  const log: string[] = [];
  exporter.logs.subscribe(({ severity, message }) => log.push(`${severity} ${message}`));
  const calls = () =>
    readFileSync(join(folder, "calls"), "utf8")
      .split("\n")
      .filter(Boolean)
      .map((line) => JSON.parse(line) as Told);
  const on = (name: string, signal?: AbortSignal) =>
    exporter.calls(name, probeRs, signal === undefined ? {} : { signal });
  return { exporter, on, calls, log, folder, leftovers };
}

test("commands, their environment, and what they print", async (t) => {
  const { exporter, on, calls, leftovers } = await probes(t, {
    plain: {},
    full: {
      ...{ probe: "0d28:0204:99E3", chip: "nRF52840_xxAA", protocol: "SWD" },
      ...{ connect_under_reset: "yes", speed: "4000" },
    },
  });
  assert.equal(await on("plain").info(), "Target: nRF52840_xxAA\nFlash size: 1MB\n");
  assert.equal(await on("full").reset_target(), "ok\n");
  assert.equal(await on("plain").erase(), "ok\n");
  assert.deepEqual(await on("plain").read("b32", "0xf000", "4"), ["deadbeef", "deadbef0", "deadbef1", "deadbef2"]);
  const handle = exporter.resources.lend(Readable.from([Buffer.from("firm"), Buffer.from("ware")]), null);
  assert.equal(await on("plain").download(handle), "ok\n");
  const own = { PATH: process.env["PATH"], HOME: process.env["HOME"], NO_COLOR: "1", PROBE_RS_NON_INTERACTIVE: "true" };
  const [info, reset, , read, download] = calls();
  // Of the shell that plays the program, and of Node where coverage is taken.
  const others = ["PWD", "_", "SHLVL", "OLDPWD", "NODE_V8_COVERAGE"];
  const named = ({ env }: Told = { env: {} } as Told) =>
    Object.fromEntries(Object.entries(env).filter(([name]) => !others.includes(name)));
  assert.deepEqual(named(info), own);
  assert.deepEqual(named(reset), {
    ...own,
    PROBE_RS_PROBE: "0d28:0204:99E3",
    PROBE_RS_CHIP: "nRF52840_xxAA",
    PROBE_RS_PROTOCOL: "swd",
    PROBE_RS_CONNECT_UNDER_RESET: "true",
    PROBE_RS_SPEED: "4000",
  });
  assert.deepEqual([read?.command, read?.words], ["read", ["b32", "0xf000", "4"]]);
  assert.deepEqual([download?.content, download?.mode], ["firmware", 0o700]);
  assert.deepEqual(leftovers(), []);
});

test("a command that fails has an empty answer and its words in the log; strict, or without one, it is an error", async (t) => {
  const { exporter, on, log, leftovers } = await probes(t, {
    lax: { chip: "fails" },
    strict: { chip: "fails", strict: true },
    liar: { chip: "lies" },
  });
  assert.equal(await on("lax").info(), "");
  assert.match(log.join("\n"), /ERROR probe-rs info failed \(exit 1\): WARN[^]*no ACK/);
  const firmware = () => exporter.resources.lend(Readable.from([Buffer.from("x")]), null);
  assert.equal(await on("lax").download(firmware()), "");
  const unsuccessful = { code: "E_FAILED", message: "probe-rs read: Error: Connecting to the chip was unsuccessful." };
  await assert.rejects(on("lax").read("b8", "0", "1"), unsuccessful);
  await assert.rejects(on("strict").erase(), { code: "E_FAILED", message: /^probe-rs erase: Error: Connecting/ });
  await assert.rejects(on("strict").download(firmware()), { code: "E_FAILED" });
  await assert.rejects(on("liar").read("b8", "0", "1"), { message: /printed no words of memory: "no memory today/ });
  // Half a file is not flashed.
  const broken = Readable.from(
    (async function* () {
      yield Buffer.from("half");
      throw new Error("the client has gone");
    })(),
  ).on("error", () => {});
  await assert.rejects(on("lax").download(exporter.resources.lend(broken, null)), /the client has gone/);
  assert.deepEqual(leftovers(), []);
});

test("a probe that hangs: time up, a call given up, the lease's end; nothing is left", async (t) => {
  const { on, calls } = await probes(t, {
    slow: { chip: "hangs", timeout: 0.4 },
    patient: { chip: "hangs" },
    noisy: { chip: "chatters" },
  });
  const gone = () =>
    assert.deepEqual(
      calls().flatMap(({ pid, child }) => [pid, child ?? pid].filter(isAlive)),
      [],
    );
  await assert.rejects(on("slow").info(), { code: "E_TIMEOUT", message: "probe-rs has not ended within 0.4 s" });
  gone();
  const cancel = new AbortController();
  const call = on("patient", cancel.signal).erase();
  // The first one may not have come as far, on a busy host.
  while (!calls().some(({ command }) => command === "erase")) await sleep(10);
  cancel.abort(new Error("enough"));
  await assert.rejects(call, /enough/);
  gone();
  await assert.rejects(on("noisy").info(), { code: "E_LIMIT" });
  gone();
});

test("one command at a time", async (t) => {
  const { on, folder } = await probes(t, { a: {}, b: {} });
  await Promise.all([on("a").info(), on("b").reset_target(), on("a").erase()]);
  const turns = readFileSync(join(folder, "turns"), "utf8").trim().split("\n");
  assert.deepEqual(
    turns.map((line) => line.split(" ")[0]),
    ["begin", "end", "begin", "end", "begin", "end"],
  );
});

test("words that would be options are refused", async (t) => {
  const { on, calls } = await probes(t, { a: {} });
  for (const [width, address, words] of [
    ["--help", "0x0", "1"],
    ["b7", "0x0", "1"],
    ["b8", "--chip=x", "1"],
    ["b8", "0x", "1"],
    ["b8", "0", "-1"],
    ["b8", "0", "0"],
    ["b8", "0", "1 2"],
  ] as const) {
    await assert.rejects(on("a").read(width, address, words), { code: "E_INVALID" }, [width, address, words].join());
  }
  assert.deepEqual(calls(), []);
});

test("configurations, and a program that is not there", async () => {
  const refused = (config: Record<string, unknown>, message: RegExp) =>
    assert.rejects(createExporter({ name: "test", export: { probe: entry(config) } }), message);
  await refused({ probe: "--list" }, /must be VID:PID/);
  await refused({ protocol: "spi" }, /must be swd or jtag/);
  await refused({ speed: 0 }, /at least 1/);
  const exporter = await createExporter({ name: "test", export: { probe: entry({ probe_rs_path: "/no/probe-rs" }) } });
  await assert.rejects(exporter.calls("probe", probeRs).info(), {
    code: "E_DEVICE_OFFLINE",
    message: "there is no /no/probe-rs",
  });
  await exporter.close();
});

test("what it is told and what it prints", () => {
  assert.deepEqual(environment({ connect_under_reset: false, probe: null }, { PATH: "/bin", TOKEN: "t" }), {
    PATH: "/bin",
    NO_COLOR: "1",
    PROBE_RS_NON_INTERACTIVE: "true",
  });
  assert.deepEqual(hexWords("DEADBEEF CAFEBABE\nCAFE0000  DEAD0000\n"), [
    "DEADBEEF",
    "CAFEBABE",
    "CAFE0000",
    "DEAD0000",
  ]);
  for (const output of ["", " \n", "xyz", "0xde ad"]) assert.throws(() => hexWords(output), /no words of memory/);
  assert.equal(problemOf("WARN x\nError: a\nError: b"), "Error: a");
  assert.equal(problemOf("x\ny\n\n"), "y");
  assert.equal(problemOf("\n"), "it did not say why");
});

// CI does not wait for its build: there is no test of it then, and docs/microcontrollers.md says so.
const real = builtProbeRs() ?? findProgram("probe-rs");
if (real === undefined) console.error("probe-rs is not here: node scripts/probe-rs.mjs builds it, for one more test");
else {
  test("the real program, without a probe", async (t) => {
    const { on, log } = await probes(t, {
      lax: { probe_rs_path: real, chip: "nRF52840_xxAA", protocol: "swd", speed: 4000, connect_under_reset: true },
      strict: { probe_rs_path: real, strict: true },
    });
    assert.equal(await on("lax").reset_target(), "");
    assert.match(log.join("\n"), /ERROR probe-rs reset failed \(exit 1\): [^]*No connected probes were found/);
    await assert.rejects(on("strict").reset_target(), {
      code: "E_FAILED",
      message: "probe-rs reset: Error: No connected probes were found.",
    });
    await assert.rejects(on("lax").read("b32", "0x20000000", "4"), /No connected probes were found/);
  });
}
