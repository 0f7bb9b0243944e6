// A QEMU that is silent, lies, refuses or hangs: a program of ours in its place.
import assert from "node:assert/strict";
import { once } from "node:events";
import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, describe, test, type TestContext } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { LogBus } from "../../../../agent/driver/log.ts";
import { qemuConfig } from "../../../../boards/qemu/config.ts";
import { QemuMachine } from "../../../../boards/qemu/machine.ts";
import { scratch } from "../../../sim/agent.ts";
import { noPtys, plugCable } from "../../../sim/pty.ts";

const { PATH } = process.env;
const { signal } = new AbortController();

/** Plays QEMU's side of the control socket. `lines` answers the nth message, the first before any. */
const program = (behaviour: string, node: string) => `#!${node}
const words = process.argv;
require("node:fs").appendFileSync(words[1] + ".log", words.slice(2).join(" ") + "\\n");
const socket = words[words.indexOf("-qmp") + 1].replace(/^unix:/, "").replace(/,server.*/, "");
setInterval(() => {}, 1000);
const serve = (lines, end = false) => require("node:net").createServer((peer) => {
  let next = 0;
  const say = (heard = "") => { if (String(heard).includes("system_powerdown") || lines[next] === "off") process.exit(0); const line = lines[next++]; if (line !== undefined) peer.write(line + "\\n"); else if (end) peer.end(); };
  peer.on("error", () => {}).on("data", say);
  say();
}).listen(socket);
const greeting = '{"QMP": {"version": {}, "capabilities": []}}';
${behaviour}`;

/** A machine whose QEMU behaves like this. @returns it, and how often QEMU was started */
function machineOf(t: TestContext, behaviour: string, { startTimeoutMs = 5_000, shutdown_grace = 0 } = {}) {
  const folder = scratch(t);
  const path = join(folder, "qemu-system-riscv64");
  writeFileSync(path, program(behaviour, process.execPath), { mode: 0o755 });
  process.env["PATH"] = `${folder}:${PATH}`;
  const logs = new LogBus();
  const said: string[] = [];
  logs.subscribe(({ message }) => said.push(message));
  const log = logs.logger({ source: "driver", logger: "test" });
  const work = join(folder, "work");
  const config = qemuConfig.parse({ arch: "riscv64", cpu: "rv64", work_dir: work, password: "s3cret", shutdown_grace });
  const machine = new QemuMachine(config, log, { startTimeoutMs });
  t.after(() => machine.close());
  const starts = () => (existsSync(`${path}.log`) ? readFileSync(`${path}.log`, "utf8").trim().split("\n") : []);
  return { machine, said, starts, work };
}

describe("a QEMU that", () => {
  after(() => {
    process.env["PATH"] = PATH;
  });

  test("is silent is given up in time, and does not live on", async (t) => {
    const { machine } = machineOf(t, "", { startTimeoutMs: 400 });
    const message = "qemu-system-riscv64 is not ready after 0.4 s";
    await assert.rejects(machine.on(signal), { code: "E_TIMEOUT", message });
    assert.equal(machine.isOn, false);
  });

  test("ends at once is quoted, with the end of what it said", async (t) => {
    const { machine } = machineOf(t, `console.error("one\\ntwo\\nthree\\nfour"); process.exit(1);`);
    const message = "qemu-system-riscv64 did not start: two / three / four";
    await assert.rejects(machine.on(signal), { code: "E_FAILED", message });
  });

  test("breaks its control connection is told", async (t) => {
    const { machine } = machineOf(t, "serve([greeting], true);");
    await assert.rejects(machine.on(signal), {
      code: "E_CONNECTION",
      message: "QEMU has closed its control connection",
    });
  });

  test("talks rubbish without end is told", async (t) => {
    const { machine } = machineOf(t, 'serve(["x".repeat(3_000_000), ""]);', { startTimeoutMs: 3_000 });
    await assert.rejects(machine.on(signal), (error: { code: string }) =>
      ["E_CONNECTION", "E_TIMEOUT"].includes(error.code),
    );
  });

  test("refuses is quoted", async (t) => {
    const refusal = '{"id": 1, "error": {"class": "GenericError", "desc": "not today"}}';
    const { machine } = machineOf(t, `serve([greeting, '${refusal}']);`);
    await assert.rejects(machine.on(signal), { code: "E_FAILED", message: "QEMU refuses: not today" });
  });

  test("names no terminal, or one that is none, is told", async (t) => {
    const answers = (devices: string) =>
      `serve([greeting, '{"return": {}, "id": 1}', '{"return": ${devices}, "id": 2}']);`;
    const without = machineOf(t, answers('[{"label": "serial0", "filename": "null"}]'));
    await assert.rejects(without.machine.on(signal), { code: "E_FAILED", message: /no terminal for the console/ });
    const file = machineOf(t, answers('[{"label": "serial0", "filename": "pty:/dev/null"}]'));
    await assert.rejects(file.machine.on(signal), { code: "E_IO", message: /\/dev\/null is not a terminal/ });
  });

  test("finds its number taken gets another one, but not for ever", async (t) => {
    const text = "vhost-vsock: unable to set guest cid: Address already in use";
    const { machine, starts } = machineOf(t, `console.error("${text}"); process.exit(1);`);
    await assert.rejects(machine.on(signal), { message: /guest cid: Address already in use/ });
    assert.equal(starts().length, 5);
  });

  test("is waited for by those who come meanwhile, and given up with its caller", async (t) => {
    const { machine, starts, work } = machineOf(t, "", { startTimeoutMs: 60_000 });
    const giveUp = new AbortController();
    const first = machine.on(giveUp.signal);
    while (starts().length === 0) await sleep(10);
    const [file = ""] = readdirSync(work);
    assert.match(readFileSync(join(work, file, "cidata/user-data"), "utf8"), /plain_text_passwd: s3cret/);
    const off = machine.off();
    giveUp.abort(new Error("given up"));
    await assert.rejects(first, /given up/);
    await off;
    await machine.release();
    assert.deepEqual(readdirSync(work), []);
  });

  const running = (terminal: string) => [
    "greeting",
    ...["{}", `[{"label": "serial0", "filename": "pty:${terminal}"}]`, "{}"].map(
      (value, index) => `'{"return": ${value}, "id": ${index + 1}}'`,
    ),
  ];

  test(
    "shuts down when it is asked to does so before its power is cut, and what it has said is heard",
    { skip: noPtys },
    async (t) => {
      const cable = await plugCable(t);
      const { machine, said } = machineOf(t, `serve([${running(cable.path).join()}]);`, { shutdown_grace: 30 });
      await machine.on(signal);
      assert.equal(machine.isOn, true);
      cable.board.write("first words");
      const console = machine.console.open();
      await once(console, "data");
      const began = performance.now();
      await machine.off();
      assert.ok(performance.now() - began < 10_000);
      assert.deepEqual(said, []);
    },
  );

  test("ends by itself is off, which is no failure", { skip: noPtys }, async (t) => {
    const cable = await plugCable(t);
    const { machine, said } = machineOf(
      t,
      `serve([${running(cable.path).join()}]); setTimeout(() => process.exit(0), 500);`,
    );
    const console = machine.console.open();
    await machine.on(signal);
    while (machine.isOn) await sleep(10);
    assert.deepEqual(said, ["the virtual machine has switched itself off"]);
    assert.equal(console.destroyed, false, "its console waits for the next start");
    assert.throws(() => machine.vnc, {
      code: "E_DEVICE_OFFLINE",
      message: /^the virtual machine is off: it has switched itself off$/,
    });
    assert.throws(() => machine.cid, { code: "E_DEVICE_OFFLINE" });
    await assert.rejects(machine.sendBreak(), { code: "E_DEVICE_OFFLINE" });
  });

  test("does not listen to SIGTERM is killed, with what it has started", async (t) => {
    const { machine } = machineOf(t, 'process.on("SIGTERM", () => {});', { startTimeoutMs: 300 });
    const began = performance.now();
    await assert.rejects(machine.on(signal), { code: "E_TIMEOUT" });
    assert.ok(performance.now() - began > 5_000);
  });

  test("no password, and nothing of it, is in the log or the list of words", async (t) => {
    const { machine, said, starts } = machineOf(t, "process.exit(1);");
    await assert.rejects(machine.on(signal));
    assert.doesNotMatch([...said, ...starts()].join("\n"), /s3cret/);
  });
});
