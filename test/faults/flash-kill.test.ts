// `jmp-agent flash` is killed in every state of a flash, and started again.
import assert from "node:assert/strict";
import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { randomBytes } from "node:crypto";
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { createServer, type AddressInfo } from "node:net";
import { join } from "node:path";
import { describe, test, type TestContext } from "node:test";
import { stringify } from "yaml";
import { ReceiptStore } from "../../agent/ops/receipts/store.ts";
import { scratch } from "../sim/agent.ts";
import { bundleFiles, writeFiles } from "../sim/bundle.ts";
import { loopDisk, missingLoops } from "../sim/loop.ts";
import { until } from "../sim/lease-bench.ts";
import { NetbootBoard } from "../sim/netboot-board.ts";

/** By the step that goes on: the command of the board that never ends. */
const holds: Readonly<Record<string, RegExp | "mute">> = {
  "U-Boot": "mute",
  "U-Boot network": /^dhcp/,
  "load kernel": /^tftpboot 0x82/,
  "load initramfs": /^tftpboot 0x83/,
  "load device tree": /^tftpboot 0x84/,
  boot: /^booti/,
  "log in": /^uname/,
  preflash: /of=\/dev\/mmcblk0 bs=512/,
  "board network": /udhcpc/,
  write: /pipefail.*curl/,
  sync: /^sync/,
  verify: /pipefail.*sha256sum/,
};

/** Steps of a flash that no hold reaches: nothing of the board takes part in them. */
const withoutBoard = ["stage image", "bundle", "boot servers", "power cycle", "wait for image", "power off"];

describe("a flash that is killed", { concurrency: 3 }, () => {
  for (const [step, hold] of Object.entries(holds)) {
    test(`in ${step}: it was interrupted, nothing is left, and the next one works`, { timeout: 120_000 }, async (t) => {
      const lab = await setUp(t, hold);
      const killed = lab.flash();
      await lab.reached();
      const [running] = await lab.store.list();
      assert.equal(running?.state, "running");
      killed.child.kill("SIGKILL");
      await killed.ended;
      const [seen] = await lab.store.list();
      assert.equal(seen?.state === "ended" && seen.receipt.verdict, "interrupted");

      lab.mend();
      const next = lab.flash();
      assert.equal(await next.ended, 0, next.output());
      assert.match(next.output(), /a flash of bench was interrupted: 'jmp-agent receipts show/);
      const verdicts = (await lab.store.list()).map((flash) => flash.state === "ended" && flash.receipt.verdict);
      assert.deepEqual(verdicts, ["interrupted", "verified"]);
      assert.ok(lab.board().disk.equals(lab.image));
      assert.deepEqual(lab.leftovers(), []);
      const steps = (await lab.store.list()).flatMap((flash) => (flash.state === "ended" ? flash.receipt.steps : []));
      const unknown = steps.filter(({ name }) => !(name in holds) && !withoutBoard.includes(name));
      assert.deepEqual(unknown, [], "each step is in the list of those in which it is killed");
    });
  }

  test("before the board has power", { timeout: 60_000 }, async (t) => {
    const lab = await setUp(t, undefined);
    const killed = lab.flash("--off-time", "60");
    await until("the power to be off", async () => killed.output().includes("boot servers"), 20_000);
    killed.child.kill("SIGKILL");
    await killed.ended;
    const next = lab.flash();
    assert.equal(await next.ended, 0, next.output());
    assert.deepEqual(lab.leftovers(), []);
  });
});

test(
  "a disk of the host: killed at any time, no flash counts that did not end",
  { skip: missingLoops, timeout: 240_000 },
  async (t) => {
    const folder = scratch(t);
    const disk = loopDisk(t, { sizeBytes: 64 * 2 ** 20 });
    const image = randomBytes(48 * 2 ** 20);
    writeFileSync(join(folder, "image.raw"), image);
    const store = new ReceiptStore({ directory: join(folder, "receipts") });
    const flash = () => {
      const words = [
        "--import",
        "tsx",
        "test/sim/flash-storage-process.ts",
        disk.path,
        join(folder, "image.raw"),
        store.directory,
      ];
      return watch(t, spawn(process.execPath, words, { stdio: ["ignore", "pipe", "pipe"] }));
    };
    const verdicts = async () =>
      (await store.list()).map((one) => (one.state === "ended" ? one.receipt.verdict : one.state));

    const whole = flash();
    await until("the flash to begin", async () => (await store.list()).length === 1);
    const beganMs = performance.now();
    assert.equal(await whole.ended, 0, whole.output());
    const tookMs = performance.now() - beganMs;
    let killedInTime = 0;
    for (let part = 0; part < 8; part += 1) {
      const before = (await store.list()).length;
      const killed = flash();
      await until("the flash to begin", async () => (await store.list()).length > before);
      await sleep((part / 8) * tookMs * 0.8);
      const hadEnded = (await verdicts()).at(-1) === "verified";
      killed.child.kill("SIGKILL");
      await killed.ended;
      const verdict = (await verdicts()).at(-1);
      // It may have ended between our look and the kill; then the disk holds the image.
      if (verdict === "verified")
        assert.ok(hadEnded || readFileSync(disk.backing).subarray(0, image.length).equals(image));
      else {
        assert.equal(verdict, "interrupted");
        killedInTime += 1;
      }
    }
    assert.ok(killedInTime >= 4, `${killedInTime} of 8 were killed while they wrote or read`);
    const next = flash();
    assert.equal(await next.ended, 0, next.output());
    assert.equal((await verdicts()).at(-1), "verified");
    assert.ok(readFileSync(disk.backing).subarray(0, image.length).equals(image));
    assert.deepEqual(
      readdirSync(store.directory).filter((name) => name.endsWith(".started.json")),
      [],
    );
  },
);

/** A simulated board behind a serial server, and an exporter for it whose configuration real agents read. */
async function setUp(t: TestContext, hold: RegExp | "mute" | undefined) {
  const folder = scratch(t);
  let board = new NetbootBoard(t, hold === "mute" ? { mute: true } : { ...(hold && { hold }) });
  let isConnected = false;
  const console = createServer((socket) => {
    isConnected = true;
    const line = board.connect();
    socket.on("error", () => {}).on("close", () => line.destroy());
    line.on("error", () => socket.destroy());
    line.pipe(socket).pipe(line);
    // Its power is not seen from here: who connects has it switched on.
    // Who was killed by then does not: the next one would find it on already.
    setTimeout(() => socket.destroyed || board.switchOn(), 100);
  });
  await once(console.listen(0, "127.0.0.1"), "listening");
  t.after(() => console.close());
  const { port } = console.address() as AddressInfo;
  const server = (type: string, root: string) => ({
    type,
    config: { root_dir: join(folder, root), host: "127.0.0.1", port: 0 },
  });
  const config = join(folder, "exporter.yaml");
  const flasher = {
    type: "jumpstarter_driver_flashers.driver.BaseFlasher",
    config: { flasher_bundle: `file:${await writeFiles(t, bundleFiles)}`, cache_dir: join(folder, "cache") },
    children: {
      power: { type: "jumpstarter_driver_power.driver.MockPower" },
      serial: { type: "jumpstarter_driver_pyserial.driver.PySerial", config: { url: `socket://127.0.0.1:${port}` } },
      tftp: server("jumpstarter_driver_tftp.driver.Tftp", "tftp"),
      http: server("jumpstarter_driver_http.driver.HttpServer", "http"),
    },
  };
  writeFileSync(config, stringify({ metadata: { name: "bench" }, export: { flasher } }));
  const image = randomBytes(3 * 2 ** 20);
  writeFileSync(join(folder, "image.raw"), image);
  const store = new ReceiptStore({ directory: join(folder, "receipts") });

  return {
    image,
    store,
    board: () => board,
    mend: () => void (board = new NetbootBoard(t)),
    /** In the folders that boards are served from. Boot files stay for the next flash, as they are. */
    leftovers: () =>
      ["http", "tftp"]
        .flatMap((root) => readdirSync(join(folder, root)))
        .filter((name) => /flash-|\.tmp|\.part/.test(name)),
    async reached() {
      await until(
        "the board to be there",
        async () => (hold === "mute" ? isConnected : board.commands.some((command) => hold?.test(command))),
        60_000,
      );
    },
    flash(...options: string[]) {
      const words = ["flash", join(folder, "image.raw"), "--exporter-config", config, "--receipts", store.directory];
      const files = ["--receipt", join(folder, "receipt.json"), "--console-log", join(folder, "console.log")];
      const all = ["dist/jmp-agent.js", ...words, ...files, "--off-time", "0", ...options];
      return watch(t, spawn(process.execPath, all, { stdio: ["ignore", "pipe", "pipe"] }));
    },
  };
}

function watch(t: TestContext, child: ChildProcess) {
  let printed = "";
  for (const stream of [child.stdout, child.stderr])
    stream?.on("data", (chunk: Buffer) => (printed += chunk.toString()));
  t.after(() => child.kill("SIGKILL"));
  const ended = once(child, "close").then(([code]: (number | null)[]) => code);
  return { child, ended, output: () => printed };
}
