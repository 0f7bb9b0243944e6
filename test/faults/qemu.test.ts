// Virtual machines that die, do not start, or hang; QEMU itself, emulated.
import assert from "node:assert/strict";
import { once } from "node:events";
import { readdirSync } from "node:fs";
import { createServer } from "node:net";
import { describe, test } from "node:test";
import { openFiles, startAgent } from "../sim/agent.ts";
import { machinesIn, noQemu, qemuEntry, startQemu, uboot, withUboot, wordsOf } from "../sim/qemu.ts";
import { scratch } from "../sim/agent.ts";
import { until } from "../sim/tftp.ts";
import { connect } from "../../agent/client/connect.ts";
import { power } from "../../boards/power/interface.ts";

const skip = noQemu([uboot]);

/** Collects what a stream says. */
function listen(stream: NodeJS.ReadableStream): { heard: () => string } {
  let text = "";
  stream.on("data", (chunk: Buffer) => (text += chunk.toString()));
  return { heard: () => text };
}

describe("a virtual machine", { skip }, () => {
  test("is started with the words of the Python driver, and its console is heard from the first one on", async (t) => {
    const machine = await startQemu(t, withUboot);
    const early = await machine.console.connect();
    const { heard } = listen(early);
    await machine.power.on();
    const [pid = 0] = machinesIn(machine.folder);
    const words = wordsOf(pid);
    assert.deepEqual(words.slice(0, 4), ["qemu-system-aarch64", "-nodefaults", "-nographic", "-machine"]);
    assert.deepEqual(words.slice(-2), ["virtio-blk-pci,drive=cidata", "-S"]);
    assert.ok(!words.join(" ").includes("password"), "no password in the list of processes");
    await until(() => heard().includes("U-Boot 20"), 20_000);
    assert.match(heard(), /^\s*U-Boot 20/);
    // Who comes later hears what is said from then on; the same stream lives through a power cycle.
    await machine.power.off();
    assert.deepEqual(machinesIn(machine.folder), []);
    await machine.power.on();
    await until(() => heard().split("U-Boot 20").length === 3, 20_000);
    early.destroy();
  });

  test("that is killed is told by the log, by streams and by calls, and starts again", async (t) => {
    const machine = await startQemu(t, withUboot);
    await machine.power.on();
    const [console, vnc] = [await machine.console.connect(), await machine.vnc.connect()];
    console.resume();
    vnc.resume();
    const gone = once(vnc, "end");
    const [pid = 0] = machinesIn(machine.folder);
    process.kill(pid, "SIGKILL");
    await until(() => machine.said.some((text) => text.startsWith("ERROR qemu-system-aarch64 died (SIGKILL)")));
    await gone;
    await until(() => console.errored !== null);
    assert.match(console.errored?.message ?? "", /qemu-system-aarch64 died \(SIGKILL\)/);
    const reason = { code: "E_DEVICE_OFFLINE", message: /^the virtual machine is off: qemu-system-aarch64 died/ };
    await assert.rejects(machine.vnc.connect(), reason);
    await machine.power.on();
    assert.ok(machine.said.some((text) => /^WARNING starting again what had ended by itself: .*SIGKILL/.test(text)));
    assert.equal(machinesIn(machine.folder).length, 1);
    (await machine.vnc.connect()).destroy();
    await machine.power.on();
    assert.ok(machine.said.includes("WARNING already powered on, ignoring request"));
    assert.equal(machinesIn(machine.folder).length, 1);
  });

  test("that cannot start says why, in QEMU's words, and leaves nothing behind", async (t) => {
    const taken = createServer().listen(0, "127.0.0.1");
    await once(taken, "listening");
    t.after(() => taken.close());
    const { port } = taken.address() as { port: number };
    const fault = async (config: Record<string, unknown>, message: RegExp) => {
      const machine = await startQemu(t, config);
      await assert.rejects(machine.power.on(), { code: "E_FAILED", message });
      assert.deepEqual(machinesIn(machine.folder), []);
      await machine.power.off();
      return machine;
    };
    await fault(
      { hostfwd: { web: { hostport: port, guestport: 80 } } },
      /did not start: .*Could not set up host forwarding/,
    );
    await fault({ cpu: "abacus" }, /did not start: .*abacus/);
    const machine = await fault({ mem: "64X" }, /did not start: .*(size|suffix|64X)/i);
    await machine.root.set_memory_size("128M");
    await machine.power.on();
    assert.ok(wordsOf(machinesIn(machine.folder)[0] ?? 0).includes("128M"));
  });

  test("takes no image that refers to other files of the host", async (t) => {
    const machine = await startQemu(t, withUboot);
    const layered = Buffer.alloc(196_608);
    // A qcow2 header of version 2 whose backing file is at 0x200.
    layered.write("QFI\xfb", 0, "latin1");
    for (const [at, value] of [
      [4, 2],
      [12, 0x200],
      [16, 11],
      [20, 16],
      [28, 2 ** 20],
      [36, 1],
      [44, 0x30000 - 0x20000],
      [52, 0x10000],
      [56, 1],
    ] as const)
      layered.writeUInt32BE(value, at);
    layered.write("/etc/passwd", 0x200);
    await machine.flash(layered);
    await assert.rejects(machine.power.on(), { code: "E_INVALID", message: /refers to another file, \/etc\/passwd/ });
    assert.deepEqual(machinesIn(machine.folder), []);
  });

  test("ends with its lease, and what the lease had set is forgotten", async (t) => {
    const machine = await startQemu(t, withUboot);
    const before = openFiles(process.pid);
    for (let lease = 0; lease < 2; lease += 1) {
      await machine.exporter.tree.reset();
      await machine.root.set_memory_size("256M");
      await machine.power.on();
      assert.ok(wordsOf(machinesIn(machine.folder)[0] ?? 0).includes("256M"));
      const console = await machine.console.connect();
      const { heard } = listen(console);
      await until(() => heard().includes("U-Boot"), 20_000);
      await machine.exporter.tree.release();
      await machine.exporter.tree.release();
      await until(() => console.closed || console.readableEnded);
      assert.deepEqual([machinesIn(machine.folder), readdirSync(machine.folder)], [[], []]);
    }
    await until(() => openFiles(process.pid) <= before + 1);
    await machine.power.on();
    const words = wordsOf(machinesIn(machine.folder)[0] ?? 0);
    assert.ok(words.includes("512M"));
    const next = listen(await machine.console.connect());
    await until(() => next.heard().includes("U-Boot"), 20_000);
    assert.equal(next.heard().split("U-Boot 20").length, 2, "nothing of the lease before is heard");
    await machine.exporter.close();
    assert.deepEqual([machinesIn(machine.folder), readdirSync(machine.folder)], [[], []]);
  });

  test("whose start is given up is not left behind", async (t) => {
    const machine = await startQemu(t, withUboot);
    const giveUp = new AbortController();
    const calls = machine.exporter.calls("qemu.power", power, { signal: giveUp.signal });
    const starting = calls.on();
    await until(() => machinesIn(machine.folder).length === 1);
    giveUp.abort(new Error("given up"));
    await assert.rejects(starting, /given up/);
    assert.deepEqual(machinesIn(machine.folder), []);
    await machine.power.on();
  });

  test("has time to shut down where it is configured, and no more than that", async (t) => {
    // U-Boot does not hear of it.
    const machine = await startQemu(t, { ...withUboot, shutdown_grace: 0.3 });
    await machine.power.on();
    const began = performance.now();
    await machine.power.off();
    assert.ok(performance.now() - began >= 300);
    assert.ok(machine.said.includes("WARNING the guest has not shut down within 0.3 s: its power is cut"));
    assert.deepEqual(machinesIn(machine.folder), []);
  });

  test("dies with an agent that is killed", async (t) => {
    const folder = scratch(t);
    const agent = await startAgent(t, { qemu: qemuEntry({ ...withUboot, work_dir: folder }) });
    const client = await connect({ host: agent.socketPath });
    await client.find("qemu.power")?.as(power).on();
    assert.equal(machinesIn(folder).length, 1);
    process.kill(agent.pid, "SIGKILL");
    await until(() => machinesIn(folder).length === 0);
    await client.close();
    assert.equal(readdirSync(folder).length, 1, "the work of the killed one");
    const next = await startQemu(t, { work_dir: folder });
    await next.flash(Buffer.from("x"));
    assert.equal(readdirSync(folder).length, 1, "its own");
  });
});
