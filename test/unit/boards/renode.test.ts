import assert from "node:assert/strict";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { Readable } from "node:stream";
import { describe, test, type TestContext } from "node:test";
import { createExporter } from "../../../agent/session/exporter.ts";
import { power } from "../../../boards/power/interface.ts";
import { renode } from "../../../boards/renode/interface.ts";
import { loadCommandFor, saysError, TelnetFilter, upToPrompt, withoutEcho } from "../../../boards/renode/protocol.ts";
import { serialPort } from "../../../boards/serial/interface.ts";
import { flasher } from "../../../boards/storage/interface.ts";
import { noPtys } from "../../sim/pty.ts";
import { renodeDouble } from "../../sim/renode.ts";
import { eventually } from "../../sim/rig.ts";

test("Telnet's words are taken out, wherever the stream is cut", () => {
  const stream = Buffer.from([
    ...[0x61, 0xff, 0xfb, 0x01, 0x62, 0xff, 0xff, 0x63, 0xff, 0xfa, 0x18, 0xff, 0xff, 0x01, 0xff, 0xf0, 0x64],
    ...[0xff, 0xf1, 0x65, 0xff, 0xfe, 0xff, 0x66],
  ]);
  for (let cut = 0; cut <= stream.length; cut += 1) {
    const telnet = new TelnetFilter();
    const plain = [stream.subarray(0, cut), stream.subarray(cut)].map((part) => Buffer.from(telnet.filter(part)));
    assert.equal(Buffer.concat(plain).toString("latin1"), "ab\xffcdef", `cut at ${cut}`);
  }
});

test("prompts, echoes and errors", () => {
  const names = ["monitor", "machine-0"];
  assert.equal(upToPrompt("banner\r\n(monitor) ", names), "banner\r\n");
  assert.equal(upToPrompt("\u001b[33m(machine-0) \u001b[0m", names), "");
  for (const text of ["", "(monitor) \n", "x (monitor)", "(other) ", "text\n(moni"]) {
    assert.equal(upToPrompt(text, names), undefined, text);
  }
  assert.equal(withoutEcho("version\r\n1.0\r\n", "version"), "1.0\n");
  assert.equal(withoutEcho("\r\n version \r\n1.0", "version"), "1.0");
  assert.equal(withoutEcho("1.0\nversion\n", "version"), "1.0\nversion\n");
  for (const text of ["Could not find x", "a\r\n  Error E1", "There was an error", "Parameters did not match"]) {
    assert.ok(saysError(text), text);
  }
  assert.ok(!saysError("no Error here"));
  assert.equal(loadCommandFor(Buffer.from("\x7fELF\x01", "latin1")), "sysbus LoadELF");
  assert.equal(loadCommandFor(Buffer.from("\x7fEL")), "sysbus LoadBinary");
});

const elf = Buffer.from("\x7fELF firmware", "latin1");

async function setUp(t: TestContext, config: Record<string, unknown> = {}, { installed = true } = {}) {
  const double = renodeDouble(t);
  const before = { ...process.env };
  if (installed) Object.assign(process.env, double.env);
  t.after(() => {
    process.env["PATH"] = before["PATH"];
    delete process.env["RENODE_DOUBLE_LOG"];
  });
  const exporter = await createExporter({
    name: "test",
    export: {
      sim: { type: "jumpstarter_driver_renode.driver.Renode", config: { platform: "platforms/x.repl", ...config } },
    },
  });
  t.after(() => exporter.close());
  return {
    double,
    exporter,
    root: exporter.calls("sim", renode),
    power: exporter.calls("sim.power", power),
    console: exporter.calls("sim.console", serialPort),
    flash: (content: Buffer, load?: string) =>
      exporter.calls("sim.flasher", flasher).flash(exporter.resources.lend(Readable.from([content]), null), load),
  };
}

const directories = () => readdirSync(tmpdir()).filter((name) => name.startsWith("jmp-renode-"));

describe("a double of Renode", { skip: noPtys }, () => {
  test("power, firmware and console", async (t) => {
    const before = directories();
    const { double, root, power, console, flash, exporter } = await setUp(t, {
      allow_raw_monitor: true,
      extra_commands: ["using sysbus"],
      load_address: "0x8000000",
    });
    const [own = ""] = directories().filter((name) => !before.includes(name));
    const folder = `${tmpdir()}/${own}`;
    assert.deepEqual(
      [await root.get_platform(), await root.get_uart(), await root.get_machine_name()],
      ["platforms/x.repl", "sysbus.uart0", "machine-0"],
    );
    await flash(elf);
    assert.deepEqual(double.commands(), [], "kept for the start");
    await power.on();
    assert.deepEqual(double.commands(), [
      'mach create "machine-0"',
      "machine LoadPlatformDescription @platforms/x.repl",
      `emulation CreateUartPtyTerminal "term" "${folder}/pty"`,
      "connector Connect sysbus.uart0 term",
      "using sysbus",
      `sysbus LoadELF "${folder}/firmware"`,
      "start",
    ]);
    await power.on();
    assert.deepEqual(double.commands(), [], "on already");

    await eventually("the UART is there", () => existsSync(`${folder}/pty`));
    const uart = await console.connect();
    uart.write("hello");
    const [first] = (await uart.take(1).toArray()) as Buffer[];
    assert.equal(String(first), "hello");

    assert.equal(await root.monitor_cmd("version"), "Renode double, 1.0\nand a line with (monitor) in it\n");
    await assert.rejects(root.monitor_cmd("nonsense"), {
      code: "E_FAILED",
      message: "Unknown command or device: nonsense",
    });
    await assert.rejects(root.monitor_cmd("a\nb"), {
      code: "E_INVALID",
      message: /must not contain newline characters$/,
    });
    double.commands();
    await flash(Buffer.from("raw"));
    await flash(elf, "sysbus LoadSymbolsFrom");
    assert.deepEqual(double.commands(), [
      `sysbus LoadBinary @"${folder}/firmware" 0x8000000`,
      "machine Reset",
      `sysbus LoadSymbolsFrom @"${folder}/firmware"`,
      "machine Reset",
    ]);
    await power.off();
    await power.off();
    await assert.rejects(root.monitor_cmd("version"), { code: "E_FAILED", message: "Renode is not running" });
    await exporter.close();
    assert.deepEqual(directories(), before);
  });

  test("what Renode refuses is told in its words, and it is off again", async (t) => {
    const { power, root } = await setUp(t, { platform: "missing.repl", allow_raw_monitor: true });
    await assert.rejects(power.on(), { code: "E_FAILED", message: "Could not find file 'missing.repl'" });
    await assert.rejects(root.monitor_cmd("version"), { message: "Renode is not running" });
    assert.deepEqual(children(), []);
  });

  test("firmware that cannot work is refused before it is kept", async (t) => {
    const { flash, root, exporter } = await setUp(t);
    await assert.rejects(flash(Buffer.from("raw")), { code: "E_INVALID", message: /set load_address/ });
    await assert.rejects(flash(Buffer.alloc(0)), { code: "E_INVALID", message: "the firmware is empty" });
    await assert.rejects(flash(elf, "quit"), {
      code: "E_INVALID",
      message:
        "unsupported load_command 'quit', allowed: ['sysbus LoadBinary', 'sysbus LoadELF', 'sysbus LoadSymbolsFrom']",
    });
    await assert.rejects(root.monitor_cmd("version"), {
      code: "E_FAILED",
      message: /^raw monitor access is disabled; /,
    });
    const dump = exporter.calls("sim.flasher", flasher).dump(exporter.resources.lend(Readable.from([]), null));
    await assert.rejects(dump, { code: "E_UNSUPPORTED", message: "dump is not supported for Renode targets" });
  });

  test("a crash is noticed, and the next start is a new one", async (t) => {
    const { power, root, exporter, double } = await setUp(t, { allow_raw_monitor: true });
    const errors: string[] = [];
    exporter.logs.subscribe(({ severity, message }) => severity === "ERROR" && errors.push(message));
    await power.on();
    await assert.rejects(root.monitor_cmd("crash"), {
      code: "E_FAILED",
      message: /^Renode has ended \(exit status 134\): .*Fatal error: something is broken/,
    });
    assert.match(errors.join(), /Renode has ended \(exit status 134\)/);
    await assert.rejects(root.monitor_cmd("version"), { message: "Renode is not running" });
    double.commands();
    await power.on();
    assert.equal(double.commands().at(-1), "start");
  });

  test("a monitor that does not answer is given up with the call; the end of a lease switches off", async (t) => {
    const { power, exporter, flash, double } = await setUp(t, { allow_raw_monitor: true });
    await flash(elf);
    await power.on();
    const signal = AbortSignal.timeout(100);
    await assert.rejects(exporter.calls("sim", renode, { signal }).monitor_cmd("hang"), { name: "TimeoutError" });
    await exporter.tree.release();
    assert.deepEqual(children(), []);
    double.commands();
    await power.on();
    assert.ok(!double.commands().some((command) => command.startsWith("sysbus Load")), "the firmware was the lease's");
  });

  test("without Renode the start fails in the words of the Python driver", async (t) => {
    const { power } = await setUp(t, {}, { installed: false });
    await assert.rejects(power.on(), {
      code: "E_IO",
      message: /^renode executable not found in PATH\. Install Renode/,
    });
  });

  test("configurations that would be other commands are refused", async () => {
    const config = (given: Record<string, unknown>) =>
      createExporter({
        name: "test",
        export: { sim: { type: "jumpstarter_driver_renode.driver.Renode", config: { platform: "x", ...given } } },
      });
    await assert.rejects(config({ platform: "x\nquit" }), /must be one line/);
    await assert.rejects(config({ extra_commands: ["a\rb"] }), /must be one line/);
    await assert.rejects(config({ machine_name: 'x" quit' }), /machine_name/);
    await assert.rejects(config({ uart: "a term" }), /uart/);
    await assert.rejects(config({ load_address: "8" }), /load_address/);
  });
});

const commandLine = (pid: string) => readFileSync(`/proc/${pid}/cmdline`, "latin1");

/** Doubles that still run. */
function children(): string[] {
  return readdirSync("/proc").filter((pid) => {
    try {
      return /^[0-9]+$/.test(pid) && commandLine(pid).includes("renode-double.mjs");
    } catch {
      return false;
    }
  });
}
