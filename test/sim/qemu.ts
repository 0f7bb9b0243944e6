import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { Readable, Writable } from "node:stream";
import type { TestContext } from "node:test";
import { connect } from "../../agent/client/connect.ts";
import type { DriverEntry } from "../../agent/driver/entry.ts";
import { power } from "../../boards/power/interface.ts";
import { qemu, qemuFlasher } from "../../boards/qemu/interface.ts";
import { serialPort } from "../../boards/serial/interface.ts";
import { network } from "../../net/sockets/interface.ts";
import { missingPrograms } from "../../scripts/programs.mjs";
import { scratch } from "./agent.ts";
import { startExporter } from "./exporter.ts";

export const uboot = "/usr/lib/u-boot/qemu_arm64/u-boot.bin";

/** For `skip`: why no virtual machine can run here, or false. Never a reason in CI. */
export function noQemu(more: readonly string[] = []): string | false {
  const missing = missingPrograms(["qemu-system-aarch64", "qemu-system-x86_64", "qemu-img", ...more]);
  if (missing.length === 0) return false;
  const reason = `virtual machines need ${missing.join(", ")}`;
  if (process.env["CI"]) throw new Error(reason);
  return reason;
}

/** A Qemu that is emulated, wherever it runs: many nested hosts offer a KVM that boots nothing. */
export function qemuEntry(config: Record<string, unknown> = {}): DriverEntry {
  return { type: "jumpstarter_driver_qemu.driver.Qemu", config: { arch: "aarch64", accel: "tcg", ...config } };
}

/** Its firmware is U-Boot, which speaks on the console half a second later. */
export const withUboot = { default_partitions: { bios: uboot } };

/** An exporter with one `qemu`, and a client of it. Its work lies in a folder of the test. */
export async function startQemu(t: TestContext, config: Record<string, unknown> = {}) {
  const folder = scratch(t);
  const { exporter, socketPath } = await startExporter(t, { qemu: qemuEntry({ work_dir: folder, ...config }) });
  const said: string[] = [];
  exporter.logs.subscribe(({ severity, message }) => said.push(`${severity} ${message}`));
  const client = await connect({ host: socketPath });
  t.after(() => client.close());
  const node = client.find("qemu.flasher");
  if (node === undefined) throw new Error("there is no flasher");
  const flasher = node.as(qemuFlasher);
  return {
    folder,
    exporter,
    said,
    client,
    root: exporter.calls("qemu", qemu),
    power: exporter.calls("qemu.power", power),
    console: exporter.calls("qemu.console", serialPort),
    vnc: exporter.calls("qemu.vnc", network),
    flasher,
    flash: async (content: Buffer, partition?: string) => {
      const source = Readable.from(pieces(content), { objectMode: false });
      await node.lendSource(source, (handle) => flasher.flash(handle, partition), { encoding: undefined });
    },
    dump: async (partition?: string): Promise<Buffer> => {
      const chunks: Buffer[] = [];
      const sink = new Writable({ write: (chunk: Buffer, _encoding, done) => (chunks.push(chunk), done()) });
      await node.lendSink(sink, (handle) => flasher.dump(handle, partition), { encoding: undefined });
      return Buffer.concat(chunks);
    },
  };
}

function* pieces(content: Buffer) {
  for (let at = 0; at < content.length; at += 65_536) yield content.subarray(at, at + 65_536);
}

/** Ids of the QEMU processes whose work lies in this folder. */
export function machinesIn(folder: string): number[] {
  const list = execFileSync("ps", ["-eo", "pid,args"], { encoding: "utf8" }).split("\n");
  return list
    .filter((line) => line.includes(`unix:${folder}/`) && /\d qemu-system/.test(line))
    .map((line) => Number.parseInt(line, 10));
}

/** The words that a process was started with. */
export const wordsOf = (pid: number): string[] => readFileSync(`/proc/${pid}/cmdline`, "utf8").split("\0").slice(0, -1);
