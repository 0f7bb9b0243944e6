import assert from "node:assert/strict";
import { PassThrough } from "node:stream";
import { test } from "node:test";
import { qemuCommand, virtualBoardConfig } from "../../../../boards/qemu/virtual-board/command.ts";
import { Console } from "../../../../boards/qemu/console.ts";
import { power } from "../../../../boards/power/interface.ts";
import { startExporter } from "../../../sim/exporter.ts";

const heard = (stream: NodeJS.ReadableStream) => (stream.read() as Buffer | null)?.toString() ?? "";

test("QEMU's command line follows the configuration", () => {
  const config = virtualBoardConfig.parse({ disk: "/tmp/a,b.img", memory: "1.5G", network: { tap: "tap0" } });
  const { program, args } = qemuCommand(config, "/run/console");
  assert.equal(program, "qemu-system-aarch64");
  const line = args.join(" ");
  assert.match(line, /-m 1536M /);
  assert.match(line, /-accel tcg,thread=multi -cpu cortex-a57/);
  assert.match(line, /-netdev tap,id=net,ifname=tap0,script=no,downscript=no -device virtio-net-pci/);
  assert.match(line, /-drive file=\/tmp\/a,,b\.img,format=raw/);
  const x86 = qemuCommand(virtualBoardConfig.parse({ disk: "d", arch: "x86_64", network: "none", accel: "kvm" }), "c");
  assert.equal(x86.program, "qemu-system-x86_64");
  assert.match(x86.args.join(" "), /-accel kvm -cpu host/);
  assert.doesNotMatch(x86.args.join(" "), /-netdev/);
});

test("sizes are written as QEMU writes them", () => {
  const { disk_size, memory } = virtualBoardConfig.parse({ disk: "d", disk_size: "256M" });
  assert.deepEqual([disk_size, memory], [256 * 2 ** 20, 2 ** 30]);
  for (const wrong of ["", "G", "-1G", "10GB", "0"]) {
    const parsed = virtualBoardConfig.safeParse({ disk: "d", disk_size: wrong });
    assert.match(parsed.error?.issues[0]?.message ?? "", /not a size: .*write 512M or 20G/);
  }
  assert.equal(virtualBoardConfig.safeParse({ disk: "d", network: { tap: "a b" } }).success, false);
});

test("a console gives all it hears to every stream, over power cycles", async () => {
  const console = new Console();
  const [one, other] = [console.open(), console.open()];
  for (const round of ["first", "second"]) {
    const machine = new PassThrough();
    console.plug(machine);
    machine.push(round);
    await new Promise(setImmediate);
    assert.deepEqual([heard(one), heard(other)], [round, round]);
    machine.destroy();
    await new Promise(setImmediate);
  }
  one.end("nobody hears this");
  console.close();
  await new Promise(setImmediate);
  assert.equal(heard(other), "");
  assert.equal(other.readableEnded || other.readable === false || other.read() === null, true);
});

test("what a console says while nobody listens goes to the first who does", async () => {
  const console = new Console();
  const machine = new PassThrough();
  console.plug(machine);
  machine.push("early");
  await new Promise(setImmediate);
  assert.equal(heard(console.open()), "early");
  assert.equal(heard(console.open()), "");
});

test("a board whose QEMU or firmware is not installed is offline, and says what to install", async (t) => {
  const { exporter } = await startExporter(t, {
    board: {
      type: "jumpstarter_agent.VirtualBoard",
      config: { disk: "/nowhere/d.img", firmware: "/nowhere/u-boot.bin" },
    },
  });
  await assert.rejects(exporter.calls("board.power", power).on(), {
    code: "E_DEVICE_OFFLINE",
    message: /is missing, the virtual board cannot run \(apt install qemu-system-arm u-boot-qemu\)/,
  });
});
