// Virtual machines as the Python driver has them: firmware and disks of several kinds, in QEMU itself, emulated.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, test, type TestContext } from "node:test";
import { Bootloader } from "../../bundles/flash/bootloader.ts";
import { ConsoleDialog } from "../../bundles/flash/console.ts";
import { scratch } from "../sim/agent.ts";
import { noQemu, startQemu, uboot, withUboot } from "../sim/qemu.ts";

const { signal } = new AbortController();
const code = "/usr/share/OVMF/OVMF_CODE_4M.fd";
const variables = "/usr/share/OVMF/OVMF_VARS_4M.fd";

async function dialog(machine: Awaited<ReturnType<typeof startQemu>>): Promise<ConsoleDialog> {
  return new ConsoleDialog(await machine.console.connect());
}

/** A disk of 8 MiB with a mark in its first sector. */
function disk(t: TestContext, format: string): Buffer {
  const folder = scratch(t);
  const [raw, other] = [join(folder, "raw"), join(folder, "other")];
  const content = Buffer.alloc(8 * 2 ** 20);
  content.write("a mark in the first sector");
  writeFileSync(raw, content);
  execFileSync("qemu-img", ["convert", "-f", "raw", "-O", format, raw, other]);
  return readFileSync(other);
}

describe("a virtual machine", { skip: noQemu([uboot, code]) }, () => {
  for (const format of ["raw", "qcow2"]) {
    test(`reads and writes its ${format} disk, which grows before it starts, and is dumped as it was left`, async (t) => {
      const machine = await startQemu(t, withUboot);
      await machine.flash(disk(t, format));
      await machine.root.set_disk_size("16M");
      await machine.power.on();
      const console = await dialog(machine);
      const bootloader = new Bootloader(console, "\n=>");
      await bootloader.interrupt(signal);
      console.send("virtio scan; virtio read 0x41000000 0 1; md.b 0x41000000 10; virtio info\n");
      await console.expect(/a mark in the fi/, { what: "the first sector", timeoutMs: 10_000 });
      await console.expect(/Capacity: 16\.0 MB/, { what: "the disk's new size", timeoutMs: 10_000 });
      console.send("mw.b 0x41000000 58 200; virtio write 0x41000000 7fff 1\n");
      await console.expect(/1 blocks written: OK/, { what: "the last sector is written", timeoutMs: 10_000 });
      await machine.power.off();
      const dumped = join(scratch(t), "dumped");
      writeFileSync(dumped, await machine.dump());
      const raw = `${dumped}.raw`;
      execFileSync("qemu-img", ["convert", "-f", format, "-O", "raw", dumped, raw]);
      const content = readFileSync(raw);
      assert.equal(content.length, 16 * 2 ** 20);
      assert.match(content.toString("latin1", 0, 30), /^a mark in the first sector/);
      assert.equal(content.toString("latin1", content.length - 512), "X".repeat(512));
    });
  }

  test("of x86 speaks with SeaBIOS, and starts from its disk", async (t) => {
    const machine = await startQemu(t, { arch: "x86_64", cpu: "qemu64", smp: "1" });
    const bootable = disk(t, "raw");
    // Prints a `J` on the first serial port, and stops.
    bootable.set(Buffer.from("b04abaf803eef4ebfd", "hex"));
    bootable.writeUInt16LE(0xaa55, 510);
    await machine.flash(bootable);
    await machine.power.on();
    const console = await dialog(machine);
    await console.expect(/SeaBIOS \(version/, { what: "SeaBIOS", timeoutMs: 20_000 });
    // SeaBIOS has still to say its last characters when the sector speaks.
    await console.expect(/Booting from Hard Disk[.\s]*J/, { what: "the boot sector", timeoutMs: 20_000 });
  });

  test("of x86 speaks with UEFI firmware that was flashed, and leaves its variables as they were", async (t) => {
    const machine = await startQemu(t, { arch: "x86_64", default_partitions: { "OVMF_CODE.fd": code } });
    await machine.flash(readFileSync(variables), "OVMF_VARS.fd");
    await machine.power.on();
    await (await dialog(machine)).expect(/BdsDxe: /, { what: "the UEFI firmware", timeoutMs: 60_000 });
    await machine.power.off();
    assert.ok((await machine.dump("OVMF_VARS.fd")).equals(readFileSync(variables)));
  });
});
