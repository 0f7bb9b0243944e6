import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { existsSync, mkdtempSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test, type TestContext } from "node:test";
import { power } from "../../boards/power/interface.ts";
import { serialConsole } from "../../boards/serial/interface.ts";
import { Bootloader } from "../../bundles/flash/bootloader.ts";
import { ConsoleDialog } from "../../bundles/flash/console.ts";
import { DutSystem } from "../../bundles/flash/dut-system.ts";
import { startExporter } from "../sim/exporter.ts";
import { makeBundle, missingForNetboot } from "../sim/netboot-lab.ts";
import { until } from "../sim/tftp.ts";

const skip = missingForNetboot();
const shared = mkdtempSync(join(tmpdir(), "virtual-board-"));
let bootDisk = "";
before(() => {
  if (skip === false) ({ bootDisk } = makeBundle(shared));
});
after(() => rmSync(shared, { recursive: true, force: true }));

async function startBoard(t: TestContext, config: object = {}) {
  const disk = join(shared, `${randomBytes(4).toString("hex")}.img`);
  const board = { type: "jumpstarter_agent.VirtualBoard", config: { disk, disk_size: "64M", ...config } };
  const { exporter } = await startExporter(t, { board });
  return {
    disk,
    exporter,
    power: exporter.calls("board.power", power),
    listen: async () => new ConsoleDialog(await exporter.calls("board.serial", serialConsole).connect()),
  };
}

/** Ids of the QEMU processes that use this disk. */
function machinesWith(disk: string): number[] {
  const list = execFileSync("ps", ["-eo", "pid,args"], { encoding: "utf8" }).split("\n");
  const lines = list.filter((line) => line.includes(`file=${disk},`) && line.includes("qemu-system"));
  return lines.map((line) => Number.parseInt(line, 10));
}

const signal = new AbortController().signal;

for (const arch of ["aarch64", "x86_64"]) {
  test(`an ${arch} board stops at U-Boot's prompt after every power cycle`, { skip }, async (t) => {
    const board = await startBoard(t, { arch });
    assert.equal(existsSync(board.disk), false, "nothing is made before it is switched on");
    const [console, witness] = [await board.listen(), await board.listen()];
    for (let cycle = 0; cycle < 2; cycle += 1) {
      await board.power.on();
      const uboot = new Bootloader(console, "\n=>");
      await uboot.interrupt(signal);
      assert.match(await uboot.version(), /^U-Boot 20/);
      await witness.expect(/U-Boot 20/, { what: "the same on the other stream", timeoutMs: 1_000 });
      for await (const { voltage } of board.power.read()) assert.equal(voltage, 5);
      await board.power.off();
      for await (const { voltage } of board.power.read()) assert.equal(voltage, 0);
    }
    const { size, blocks } = statSync(board.disk);
    assert.equal(size, 64 * 2 ** 20);
    assert.equal(blocks, 0, "a new disk takes no space");
  });
}

test("a board boots the system on its disk and can be worked with", { skip }, async (t) => {
  const board = await startBoard(t, { disk: bootDisk });
  await board.power.on();
  // Opened late: what was said before is not lost.
  await new Promise((resolve) => setTimeout(resolve, 500));
  const console = await board.listen();
  await console.expect(/U-Boot 20/, { what: "U-Boot's banner", timeoutMs: 10_000 });
  await console.expect(/virtual-board login:/, { what: "login prompt", timeoutMs: 120_000 });
  const system = new DutSystem(console, "#");
  await system.login({ login_prompt: "login:", username: "root", password: null, prompt: "#" });
  await system.network(undefined);
  assert.equal(await system.resolveTarget("/dev/vda"), "/dev/vda");
});

test("a machine that dies is off, and can be switched on again", { skip }, async (t) => {
  const board = await startBoard(t);
  const said: string[] = [];
  board.exporter.logs.subscribe(({ message }) => said.push(message));
  await board.power.on();
  await board.power.on();
  assert.ok(said.includes("power on: the board is on already"));
  const [pid = 0, ...others] = machinesWith(board.disk);
  assert.deepEqual(others, []);
  process.kill(pid, "SIGKILL");
  await until(() => said.some((message) => /qemu-system-aarch64 died \(SIGKILL\)/.test(message)));
  for await (const { voltage } of board.power.read()) assert.equal(voltage, 0);
  await board.power.on();
  assert.equal(machinesWith(board.disk).length, 1);
  await board.exporter.close();
  assert.deepEqual(machinesWith(board.disk), [], "closed, nothing runs on");
});

test("a machine that cannot start says why: another has the disk", { skip }, async (t) => {
  const board = await startBoard(t);
  const other = await startBoard(t, { disk: board.disk });
  await board.power.on();
  await assert.rejects(other.power.on(), /qemu-system-aarch64 did not start: .*lock/);
  await board.power.off();
  await other.power.on();
});
