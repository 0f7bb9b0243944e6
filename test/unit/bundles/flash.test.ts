import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { createHash, randomBytes } from "node:crypto";
import { readdir, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { PassThrough } from "node:stream";
import { describe, test, type TestContext } from "node:test";
import { gzipSync } from "node:zlib";
import fc from "fast-check";
import { AgentError } from "../../../agent/driver/errors.ts";
import type { FlashReport } from "../../../agent/driver/receipt.ts";
import { baseFlashers, withBundle } from "../../../bundles/flash/configured.ts";
import { ConsoleDialog } from "../../../bundles/flash/console.ts";
import { flashDevices } from "../../../bundles/flash/devices.ts";
import { flash, type FlashOptions } from "../../../bundles/flash/flash.ts";
import { openImageSource } from "../../../bundles/flash/image-source.ts";
import { timelineText } from "../../../bundles/flash/receipt.ts";
import { CommandLine } from "../../../bundles/flash/shell.ts";
import { bundleFiles, temporaryDirectory, writeFiles } from "../../sim/bundle.ts";
import { startExporter } from "../../sim/exporter.ts";
import { NetbootBoard, type BoardFaults } from "../../sim/netboot-board.ts";

const sha256 = (bytes: Uint8Array) => createHash("sha256").update(bytes).digest("hex");

/** A dialog, and the board's end of its line; what is typed is echoed. */
function talk(options: ConstructorParameters<typeof ConsoleDialog>[1] = {}) {
  const board = new PassThrough();
  const dialog = new ConsoleDialog(board, options);
  return { board, dialog };
}

describe("console dialog", () => {
  test("finds text whatever pieces it comes in, without escape sequences and carriage returns", async () => {
    const text = "\x1b[1;32mflasher\x1b[0m login: \r\n# \x1b[6ndone";
    await fc.assert(
      fc.asyncProperty(fc.array(fc.nat(text.length)), async (cuts) => {
        const { board, dialog } = talk();
        const at = [0, ...cuts.sort((one, other) => one - other), text.length];
        at.slice(1).forEach((end, index) => board.write(text.slice(at[index], end)));
        const { before } = await dialog.expect(/done/, { what: "done", timeoutMs: 1_000 });
        assert.equal(before, "flasher login: \n# ");
        dialog.close();
      }),
    );
  });

  test("keeps what follows a match for the next question", async () => {
    const { board, dialog } = talk();
    board.write("one two three");
    assert.equal((await dialog.expect(/t(wo)/, { what: "two", timeoutMs: 100 })).match[1], "wo");
    assert.equal((await dialog.expect(/th/, { what: "three", timeoutMs: 100 })).before, " ");
  });

  test("says what was waited for and what was heard last", async () => {
    const { board, dialog } = talk();
    board.write("Kernel panic");
    await assert.rejects(dialog.expect(/login:/, { what: "login prompt", timeoutMs: 20 }), {
      code: "E_TIMEOUT",
      message: 'no login prompt within 0.02 s; the board said last: "Kernel panic"',
    });
    assert.equal(await dialog.hear(/login:/, 10), undefined);
  });

  test("ends with the console, and with the signal", async () => {
    const { board, dialog } = talk();
    board.destroy(new Error("adapter pulled"));
    await assert.rejects(dialog.expect(/x/, { what: "x", timeoutMs: 10_000 }), /the console closed: adapter pulled/);
    const stop = new AbortController();
    const other = talk({ signal: stop.signal }).dialog;
    const waiting = other.expect(/x/, { what: "x", timeoutMs: 10_000 });
    stop.abort();
    await assert.rejects(waiting, { code: "E_CANCELLED" });
  });

  test("forgets the oldest of what nobody asked for", async () => {
    const { board, dialog } = talk();
    board.write("first");
    for (let count = 0; count < 10; count += 1) board.write(Buffer.alloc(64 * 1024, "."));
    board.write("last");
    const { before } = await dialog.expect(/last/, { what: "last", timeoutMs: 1_000 });
    assert.ok(before.length <= 256 * 1024);
    assert.doesNotMatch(before, /first/);
  });
});

test("a command's end is not mixed up with its echo", async () => {
  const { board, dialog } = talk();
  const line = new CommandLine(dialog, /# /);
  const answer = line.run("cat file", 1_000);
  board.write("content done1=\r\ndone1=3\r\n# ");
  assert.deepEqual(await answer, { status: 3, output: "content done1=" });
  const failing = line.check("false", 1_000);
  board.write("done2=1\r\n# ");
  await assert.rejects(failing, /"false" failed with status 1: no output/);
});

interface Bench {
  readonly board: NetbootBoard;
  readonly folder: string;
  readonly run: (
    image: Buffer | { name: string; bytes: Buffer },
    options?: Partial<FlashOptions>,
  ) => Promise<FlashReport>;
}

/** An exporter with a simulated board, a bundle in a folder, and boot servers on free ports. */
async function bench(
  t: TestContext,
  faults: BoardFaults = {},
  { files = bundleFiles, flasher = {} }: { files?: Record<string, Uint8Array>; flasher?: object } = {},
): Promise<Bench> {
  const board = new NetbootBoard(t, faults);
  const folder = await temporaryDirectory(t);
  const server = (type: string, name: string) => ({
    type,
    config: { root_dir: join(folder, name), host: "127.0.0.1", port: 0 },
  });
  const { exporter } = await startExporter(
    t,
    {
      flasher: {
        type: "jumpstarter_driver_flashers.driver.BaseFlasher",
        config: { flasher_bundle: `file:${await writeFiles(t, files)}`, cache_dir: join(folder, "cache"), ...flasher },
        children: {
          power: { type: "sim.Power" },
          serial: { type: "sim.Serial" },
          tftp: server("jumpstarter_driver_tftp.driver.Tftp", "tftp"),
          http: server("jumpstarter_driver_http.driver.HttpServer", "http"),
        },
      },
    },
    { catalog: board.catalog() },
  );
  const devices = flashDevices(
    "flasher",
    (path, wanted) => exporter.calls(path, wanted),
    async (source, use) => await use(exporter.resources.lend(source, null)),
  );
  const run: Bench["run"] = async (given, options = {}) => {
    const { name, bytes } = Buffer.isBuffer(given) ? { name: "image.raw", bytes: given } : given;
    const path = join(folder, name);
    await writeFile(path, bytes);
    const image = await openImageSource(path, { signal: new AbortController().signal });
    return await flash(devices, { image, driver: "flasher", method: "shell", offMs: 0, retries: 0, ...options });
  };
  return { board, folder, run };
}

describe("flash", () => {
  test("boots the bundle, writes the image, reads the disk back, and leaves nothing behind", async (t) => {
    const { board, folder, run } = await bench(t);
    const image = randomBytes(3 * 2 ** 20 + 17);
    const seen: string[] = [];
    const receipt = await run(image, { events: { end: ({ name }) => seen.push(name) } });
    assert.equal(receipt.failure, undefined);
    assert.equal(receipt.verdict, "verified");
    assert.ok(board.disk.equals(image));
    assert.equal(receipt.target?.path, "/dev/mmcblk1");
    assert.equal(receipt.readBackSha256, sha256(image));
    assert.deepEqual([...board.memory.keys()], ["0x82000000", "0x83000000", "0x84000000"]);
    assert.equal(board.isOn, false);
    assert.deepEqual(await readdir(join(folder, "http")), []);
    assert.ok(board.commands.includes("export dhcp_addr=10.1.1.2 gw_addr=10.1.1.1"));
    assert.ok(board.commands.includes("dd if=/dev/zero of=/dev/mmcblk0 bs=512 count=34"));
    assert.deepEqual(
      receipt.steps.map(({ name }) => name),
      seen,
    );
    assert.match(timelineText(receipt.steps), /load kernel\n[^]*verify/);
    assert.equal(receipt.versions?.["linux"], "6.1.0-sim");
  });

  const encoders = {
    "a.gz": gzipSync,
    "a.zst": (bytes: Buffer) => execFileSync("zstd", ["-q", "-c"], { input: bytes, maxBuffer: 2 ** 24 }),
  };
  for (const [name, encode] of Object.entries(encoders)) {
    test(`decodes ${name}`, async (t) => {
      const { board, run } = await bench(t);
      const content = randomBytes(2 ** 20);
      const bytes = encode(content);
      const receipt = await run({ name, bytes });
      assert.equal(receipt.failure, undefined);
      assert.ok(board.disk.equals(content));
      assert.equal(receipt.image.sha256, sha256(bytes));
      assert.deepEqual(receipt.image.content, { bytes: content.length, sha256: sha256(content) });
    });
  }

  test("uses a fixed address, a target by name, and leaves the board on", async (t) => {
    const { board, run } = await bench(t);
    const address = { ip: "192.168.7.2", netmask: "255.255.255.0", gateway: "192.168.7.1" };
    const receipt = await run(randomBytes(512), { address, target: "/dev/mmcblk1", leavePowerOn: true });
    assert.equal(receipt.failure, undefined);
    assert.equal(board.isOn, true);
    const network = board.commands.filter((command) => /dhcp|ifconfig|route add|ipaddr '/.test(command));
    assert.equal(network[0], "setenv ipaddr '192.168.7.2'");
    assert.match(
      network.join("\n"),
      /ifconfig .* 192\.168\.7\.2 netmask 255\.255\.255\.0 up\nroute add default gw 192\.168\.7\.1/,
    );
  });

  test("tries DHCP again, but not for ever", async (t) => {
    assert.equal((await (await bench(t, { dhcpFailures: 2 })).run(randomBytes(512))).verdict, "verified");
    const { failure } = await (await bench(t, { dhcpFailures: 3 })).run(randomBytes(512));
    assert.equal(failure?.step, "U-Boot network");
    assert.match(failure.message, /no DHCP lease after 3 tries: .*Retry time exceeded/);
  });

  test("has fls write the disk, from the exporter's own binary", async (t) => {
    const fls = join(await writeFiles(t, { fls: "#!fls" }), "fls");
    const { board, run } = await bench(t, {}, { flasher: { fls_path: fls } });
    const image = randomBytes(4096);
    const receipt = await run(image, { method: "fls" });
    assert.equal(receipt.failure, undefined);
    assert.ok(board.disk.equals(image));
    assert.ok(board.commands.some((command) => /curl -fsSL http:\S+\/fls -o \/sbin\/fls && chmod/.test(command)));
  });

  const failures: [string, BoardFaults, Partial<FlashOptions>, string, RegExp][] = [
    ["fls that is not there", {}, { method: "fls" }, "write", /fls binary not found/],
    [
      "a boot command that comes back",
      { bootSays: "Bad Linux ARM64 Image magic!\n=> " },
      {},
      "boot",
      /U-Boot could not boot it: .*Bad Linux ARM64 Image magic!/,
    ],
    [
      "a kernel that dies",
      { bootSays: "Kernel panic - not syncing: VFS\n" },
      {},
      "boot",
      /Kernel panic - not syncing: VFS/,
    ],
    ["a target that the bundle does not know", {}, { target: "nvme" }, "log in", /no target nvme; it has usd, emmc/],
    ["a target that the board has not", {}, { target: "emmc" }, "log in", /no block device with 4f80000 in its path/],
    ["a device that the board has not", {}, { target: "/dev/sda" }, "log in", /no block device \/dev\/sda/],
    ["a device that is none", {}, { target: "/dev/x;reboot" }, "log in", /not the path of a device/],
    ["a bundle without curl", { without: ["curl"] }, {}, "write", /the flasher bundle has no curl/],
    ["a disk that keeps other data", { badDisk: true }, {}, "verify", /holds other data than the image/],
  ];
  for (const [what, faults, options, step, message] of failures) {
    test(`names the step: ${what}`, async (t) => {
      const { board, folder, run } = await bench(t, faults, { flasher: { fls_path: "/nonexistent" } });
      const receipt = await run(randomBytes(1024), options);
      assert.equal(receipt.verdict, "failed");
      assert.equal(receipt.failure?.step, step);
      assert.match(receipt.failure.message, message);
      assert.equal(board.isOn, false, "the board is off");
      assert.deepEqual(await readdir(join(folder, "http")), []);
    });
  }

  test("names the step: a boot file that is missing on the TFTP server", async (t) => {
    const { folder, run } = await bench(t);
    let removed: Promise<void> | undefined;
    const receipt = await run(randomBytes(1024), {
      offMs: 200,
      events: { begin: (step) => void (step === "power cycle" && (removed = rm(join(folder, "tftp/kernel")))) },
    });
    await removed;
    assert.equal(receipt.failure?.step, "load kernel");
    assert.match(receipt.failure.message, /the board could not load kernel: TFTP error/);
  });

  test("names the step: an image that is damaged, while the board boots", async (t) => {
    const { board, run } = await bench(t);
    const bytes = gzipSync(randomBytes(2 ** 20)).subarray(0, 2 ** 19);
    const receipt = await run({ name: "image.gz", bytes }, { offMs: 60_000 });
    assert.equal(receipt.failure?.step, "stage image");
    assert.equal(receipt.failure.code, "E_ENCODING");
    assert.equal(board.isOn, false);
  });

  test("stops when it is told to", async (t) => {
    const stop = new AbortController();
    const { run } = await bench(t, { mute: true });
    const report = await run(randomBytes(512), {
      signal: stop.signal,
      retries: 3,
      events: { begin: (step) => void (step === "U-Boot" && setTimeout(() => stop.abort(), 50)) },
    });
    assert.equal(report.failure?.code, "E_CANCELLED");
    assert.equal(report.steps.filter(({ name }) => name === "power cycle").length, 1);
  });

  for (const lostIn of ["load kernel", "boot", "log in", "board network", "write", "sync", "verify"]) {
    test(`goes on when the console goes and comes back: ${lostIn}`, async (t) => {
      const { board, run } = await bench(t, { slow: true });
      const image = randomBytes(4096);
      const report = await run(image, {
        events: { begin: (step) => void (step === lostIn && board.unplugConsole(300)) },
      });
      assert.equal(report.failure, undefined);
      assert.ok(board.disk.equals(image));
      assert.equal(board.losses, 1);
      assert.equal(report.steps.filter(({ name }) => name === "power cycle").length, 1, "without another power cycle");
    });
  }

  test("begins anew when an attempt fails, and tells of both", async (t) => {
    const { board, run } = await bench(t, { bootSays: "Kernel panic - not syncing: VFS\n", faultyBoots: 2 });
    const image = randomBytes(4096);
    const report = await run(image, { retries: 3, backoffMs: 1 });
    assert.equal(report.verdict, "verified");
    assert.ok(board.disk.equals(image));
    const boots = report.steps.filter(({ name }) => name === "boot");
    assert.deepEqual(
      boots.map(({ attempt, verdict }) => [attempt, verdict]),
      [
        [1, "failed"],
        [2, "failed"],
        [3, "ok"],
      ],
    );
    assert.equal(report.steps.filter(({ name }) => name === "stage image").length, 1);
    assert.match(timelineText(report.steps), /boot \(attempt 2\) {2}FAILED/);
  });

  test("gives up after as many attempts as it was told, and at once where another would be as bad", async (t) => {
    const often = await bench(t, { bootSays: "Kernel panic - not syncing: VFS\n" });
    const failed = await often.run(randomBytes(512), { retries: 2, backoffMs: 1 });
    assert.deepEqual([failed.verdict, failed.failure?.step], ["failed", "boot"]);
    assert.equal(failed.steps.filter(({ name }) => name === "boot").length, 3);
    const lying = await bench(t, { badDisk: true });
    const once = await lying.run(randomBytes(512), { retries: 3, backoffMs: 1 });
    assert.deepEqual([once.failure?.step, once.failure?.code], ["verify", "E_DIGEST"]);
    assert.equal(once.steps.filter(({ name }) => name === "verify").length, 1);
  });

  test("says which disk was written, and finds partitions by their labels", async (t) => {
    const { run } = await bench(t);
    const report = await run(randomBytes(512), { target: "label:rootfs" });
    assert.deepEqual(report.target, {
      path: "/dev/mmcblk1",
      bytes: 2 ** 30,
      model: "SIM1G",
      serial: "0x1234",
      cid: "1b534d30303030301012345678011a00",
    });
    const other = await run(randomBytes(512), { target: "label:boot" });
    assert.match(other.failure?.message ?? "", /no partition with the label boot/);
  });

  test("refuses an image of another digest than was asked for, and Android sparse images", async (t) => {
    const { folder, board, run } = await bench(t);
    const path = join(folder, "given.raw");
    await writeFile(path, "image");
    const options = { signal: AbortSignal.timeout(10_000), sha256: "0".repeat(64) };
    const wrong = await run(randomBytes(1), { image: await openImageSource(path, options) });
    assert.deepEqual([wrong.failure?.step, wrong.failure?.code], ["stage image", "E_DIGEST"]);
    const sparse = Buffer.concat([Buffer.from("3aff26ed", "hex"), randomBytes(1000)]);
    for (const given of [sparse, { name: "sparse.gz", bytes: gzipSync(sparse) }]) {
      assert.equal((await run(given)).failure?.code, "E_UNSUPPORTED");
    }
    assert.equal(board.disk.length, 0, "nothing was written");
  });

  test("a hundred broken flashes are a hundred failed reports", async (t) => {
    const faults: BoardFaults[] = [
      ...[/^setenv serverip/, /^dhcp/, /^tftpboot 0x82/, /^tftpboot 0x83/, /^tftpboot 0x84/, /^printenv ipaddr/],
      ...[/^ls -l/, /^test -b/, /^udhcpc/, /^command -v curl/, /^command -v dd/, /^command -v sha256sum/],
      ...[/^rm -f/, /^curl/, /^sync/, /sha256sum >/, /^cat \S+sum$/],
    ].map((failing) => ({ failing }));
    faults.push({ badDisk: true }, { bootSays: "Kernel panic - not syncing: VFS\n" }, { bootSays: "Bad magic\n=> " });
    for (let round = 0; round < 100; round += 1) {
      const { board, folder, run } = await bench(t, faults[round % faults.length]);
      const report = await run(randomBytes(1 + round * 100));
      assert.equal(report.verdict, "failed", `round ${round}`);
      assert.notEqual(report.failure, undefined);
      assert.equal(board.isOn, false);
      assert.deepEqual(await readdir(join(folder, "http")), []);
    }
  });
});

test("an image is what its first bytes say", async (t) => {
  const read = (path: string) => openImageSource(path, { signal: AbortSignal.timeout(10_000) });
  const folder = await writeFiles(t, {
    "disk.raw": "raw",
    "packed.img": gzipSync("raw"),
    "liar.xz": "raw",
    "empty.raw": "",
  });
  assert.equal((await read(join(folder, "disk.raw"))).encoding, null);
  assert.equal((await read(join(folder, "packed.img"))).encoding, "gzip");
  await assert.rejects(read(join(folder, "liar.xz")), /liar\.xz does not begin like xz data/);
  await assert.rejects(read(join(folder, "empty.raw")), /is empty/);
  await assert.rejects(read(folder), AgentError);
  assert.equal((await readFile(join(folder, "disk.raw"))).toString(), "raw");
});

test("flashers are found in a configuration, and given another bundle", () => {
  const type = "jumpstarter_driver_flashers.driver.RCarS4Flasher";
  const entries = {
    power: { type: "jumpstarter_driver_power.driver.MockPower" },
    bench: { children: { flasher: { type, config: { variant: "x" } }, other: { ref: "bench.flasher" } } },
  };
  assert.deepEqual(baseFlashers(entries), ["bench.flasher"]);
  const changed = withBundle(entries, "bench.flasher", "file:/b");
  assert.deepEqual(changed["bench"], {
    children: {
      flasher: { type, config: { variant: "x", flasher_bundle: "file:/b" } },
      other: { ref: "bench.flasher" },
    },
  });
  assert.equal(withBundle(entries, "nobody", "file:/b"), entries);
});
