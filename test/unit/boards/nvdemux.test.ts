import assert from "node:assert/strict";
import { chmod, mkdtemp, mkdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import type { AgentError } from "../../../agent/driver/errors.ts";
import { createExporter } from "../../../agent/session/exporter.ts";
import { matchPaths } from "../../../boards/serial/glob.ts";
import { serialConsole } from "../../../boards/serial/interface.ts";
import { noPtys, plugCable } from "../../sim/pty.ts";

const consoleOf = (config: Record<string, unknown>) => ({
  type: "jumpstarter_driver_pyserial.nvdemux.driver.NVDemuxSerial",
  config,
});

async function folderOf(t: TestContext): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), "jmp-demux-"));
  t.after(() => rm(folder, { recursive: true, force: true }));
  return folder;
}

/** A stand-in for NVIDIA's tool: notes its arguments, prints what it is told to and stays until it is ended. */
async function fakeTool(folder: string, output: string): Promise<string> {
  const path = join(folder, "demuxer");
  await writeFile(path, `#!/bin/sh\necho "$$ $*" >> ${folder}/runs\n${output}\nexec sleep 600\n`);
  await chmod(path, 0o755);
  return path;
}

const runs = async (folder: string) => (await readFile(join(folder, "runs"), "utf8")).trim().split("\n");

test("three consoles share one process; each leads to its pts", { skip: noPtys }, async (t) => {
  const folder = await folderOf(t);
  const [ccplex, sce] = [await plugCable(t), await plugCable(t)];
  // The tool prints real pts paths, not links.
  const print = [ccplex, sce].map(({ path }, i) => `printf '%s\\t%s\\n' "$(readlink -f ${path})" 'T${i}: 0'`);
  const demuxer_path = await fakeTool(folder, print.join("\n"));
  await writeFile(join(folder, "adapter-if01"), "");
  const common = { demuxer_path, device: `${folder}/adapter-*`, chip: "T234", poll_interval: 0.1 };
  const exporter = await createExporter({
    name: "test",
    export: {
      a: consoleOf({ ...common, target: "T0: 0" }),
      b: consoleOf({ ...common, target: "T1: 0" }),
      c: consoleOf({ ...common, target: "T9: 0", timeout: 0.2 }),
    },
  });
  t.after(() => exporter.close());
  const stream = await exporter.calls("a", serialConsole).connect();
  stream.write("hello");
  const heard = new Promise((resolve) => ccplex.board.once("data", (data: Buffer) => resolve(data.toString())));
  assert.equal(await heard, "hello");
  (await exporter.calls("b", serialConsole).connect()).destroy();
  await assert.rejects(exporter.calls("c", serialConsole).connect(), {
    code: "E_TIMEOUT",
    message: `Timeout waiting for demuxer to become ready (device pattern: ${folder}/adapter-*)`,
  });
  const [only, ...more] = await runs(folder);
  assert.deepEqual(more, []);
  assert.match(only ?? "", new RegExp(`^\\d+ -m T234 -d ${folder}/adapter-if01$`));
  stream.destroy();

  // The tool is started again when it dies, and ends with the exporter.
  process.kill(Number(only?.split(" ")[0]));
  while ((await runs(folder)).length < 2) await sleep(20);
  (await exporter.calls("a", serialConsole).connect()).destroy();
  await exporter.close();
  const last = (await runs(folder)).at(-1)?.split(" ")[0];
  assert.throws(() => process.kill(Number(last), 0), { code: "ESRCH" });
});

test("the adapter may come later", { skip: noPtys }, async (t) => {
  const folder = await folderOf(t);
  const { path } = await plugCable(t);
  const demuxer_path = await fakeTool(folder, `printf '%s\\t%s\\n' "$(readlink -f ${path})" 'CCPLEX: 0'`);
  const exporter = await createExporter({
    name: "test",
    export: { a: consoleOf({ demuxer_path, device: `${folder}/tty[0-9]`, poll_interval: 0.1 }) },
  });
  t.after(() => exporter.close());
  const connecting = exporter.calls("a", serialConsole).connect();
  await sleep(200);
  await writeFile(join(folder, "tty7"), "");
  (await connecting).destroy();
});

test("an adapter in use elsewhere fails this driver at once, and only it", async (t) => {
  const folder = await folderOf(t);
  const demuxer_path = await fakeTool(folder, "echo 'ERROR: unable to obtain file lock' >&2");
  const exporter = await createExporter({
    name: "test",
    export: {
      a: consoleOf({ demuxer_path, device: "/dev/null", timeout: 600 }),
      power: { type: "jumpstarter_driver_power.driver.MockPower" },
    },
  });
  t.after(() => exporter.close());
  await assert.rejects(exporter.calls("a", serialConsole).connect(), {
    code: "E_DEVICE_OFFLINE",
    message: "the demuxer says: ERROR: unable to obtain file lock",
  });
});

test("drivers that disagree about the one process are refused", async () => {
  const same = { demuxer_path: "/bin/demuxer", device: "/no/such/device", target: "A" };
  const refused = async (other: Record<string, unknown>) =>
    createExporter({
      name: "test",
      export: { a: consoleOf(same), b: consoleOf({ ...same, target: "B", ...other }) },
    }).then(
      (exporter) => exporter.close(),
      (error: AgentError) => error.message,
    );
  assert.equal(await refused({}), undefined);
  assert.equal(await refused({ chip: "T234" }), "b: Chip mismatch: existing=T264, new=T234");
  assert.match(
    String(await refused({ device: "/other" })),
    /Device mismatch: existing=\/no\/such\/device, new=\/other/,
  );
  assert.match(String(await refused({ demuxer_path: "/x" })), /Demuxer path mismatch/);
  assert.match(String(await refused({ target: "A" })), /Target 'A' already registered/);
});

test("patterns find what the shell would find", async (t) => {
  const folder = await folderOf(t);
  for (const name of ["usb-A-if00", "usb-A-if01", "usb-B-if01", ".usb-hidden", "a+b(1)"]) {
    await mkdir(join(folder, "by-id", name), { recursive: true });
  }
  const find = async (pattern: string) =>
    (await matchPaths(join(folder, pattern))).map((path) => path.slice(folder.length + 1));
  assert.deepEqual(await find("by-id/usb-*-if01"), ["by-id/usb-A-if01", "by-id/usb-B-if01"]);
  assert.deepEqual(await find("b*/usb-?-if0[!1]"), ["by-id/usb-A-if00"]);
  assert.deepEqual(await find("by-id/*usb*"), ["by-id/usb-A-if00", "by-id/usb-A-if01", "by-id/usb-B-if01"]);
  assert.deepEqual(await find("by-id/a+b(?)"), ["by-id/a+b(1)"]);
  assert.deepEqual(await find("by-id/nothing"), []);
});
