import assert from "node:assert/strict";
import { spawn, type ChildProcess } from "node:child_process";
import { randomFillSync } from "node:crypto";
import { once } from "node:events";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import type { Duplex } from "node:stream";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test, type TestContext } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { connect } from "../../agent/client/connect.ts";
import { flashDevices } from "../../bundles/flash/devices.ts";
import { flash } from "../../bundles/flash/flash.ts";
import { openImageSource } from "../../bundles/flash/image-source.ts";
import { serialConsole } from "../../boards/serial/interface.ts";
import { makeBundle, missingForNetboot, startLab } from "../sim/netboot-lab.ts";

const skip = missingForNetboot(["socat"]);
const imageBytes = 64 * 2 ** 20;
const shared = mkdtempSync(join(tmpdir(), "netboot-"));
let bundle = "";
before(() => {
  if (skip === false) ({ bundle } = makeBundle(shared));
});
after(() => rmSync(shared, { recursive: true, force: true }));

/** A board's console behind a serial port that can be pulled and plugged in, as a USB adapter can. */
class SerialAdapter {
  readonly path: string;
  readonly #console: Duplex;
  #socat: ChildProcess | undefined;

  constructor(t: TestContext, path: string, console: Duplex) {
    this.path = path;
    this.#console = console;
    // What the board says while nobody listens is lost.
    console.on("data", (chunk: Buffer) => void this.#socat?.stdin?.write(chunk));
    t.after(() => this.unplug());
  }

  async plugIn(): Promise<void> {
    const socat = spawn("socat", [`PTY,link=${this.path},rawer,echo=0`, "STDIO"], {
      stdio: ["pipe", "pipe", "inherit"],
    });
    socat.stdin.on("error", () => {});
    socat.stdout.on("data", (chunk: Buffer) => void this.#console.write(chunk));
    while (!existsSync(this.path)) await sleep(10);
    this.#socat = socat;
  }

  /** Hangs the port up and takes it away. */
  async unplug(): Promise<void> {
    const socat = this.#socat;
    this.#socat = undefined;
    if (socat === undefined || socat.exitCode !== null) return;
    const gone = once(socat, "exit");
    socat.kill("SIGTERM");
    await gone;
  }
}

test("a serial adapter pulled while the board writes: the flash goes on with the same boot", { skip }, async (t) => {
  const port = join(mkdtempSync(join(shared, "port-")), "ttyBoard");
  const lab = await startLab(
    t,
    bundle,
    { kind: "user" },
    { serial: { type: "jumpstarter_driver_pyserial.driver.PySerial", config: { url: port, check_present: false } } },
  );
  const { socketPath } = await lab.serve();
  const client = await connect({ host: socketPath });
  t.after(() => client.close());
  const driver = (path: string) => client.find(path) ?? assert.fail(`no driver ${path}`);
  const adapter = new SerialAdapter(t, port, await driver("board.serial").as(serialConsole).connect());
  await adapter.plugIn();

  const content = randomFillSync(Buffer.allocUnsafe(imageBytes));
  const image = join(lab.directory, "image.raw");
  writeFileSync(image, content);
  const devices = flashDevices(
    "flasher",
    (path, wanted) => driver(path).as(wanted),
    (source, use) => driver("flasher.http.storage").lendSource(source, use),
  );
  let losses = 0;
  let said = "";
  let replugged: Promise<void> | undefined;
  const receipt = await flash(devices, {
    image: await openImageSource(image, { signal: new AbortController().signal }),
    retries: 0,
    driver: "flasher",
    method: "shell",
    offMs: 0,
    transcript: (chunk) => {
      said += chunk.toString();
      if (replugged !== undefined || !/curl -fsSL [^\n]*\n/.test(said)) return;
      replugged = (async () => {
        await adapter.unplug();
        losses += 1;
        await sleep(2_000);
        await adapter.plugIn();
      })();
    },
  });
  await replugged;
  assert.equal(receipt.verdict, "verified", JSON.stringify(receipt.failure));
  assert.equal(losses, 1, "it was pulled in the write");
  const names = receipt.steps.map(({ name }) => name);
  assert.equal(names.filter((name) => name === "power cycle").length, 1, "no new power cycle");
  assert.equal(said.match(/Starting kernel/g)?.length, 1, "the board booted once");
  assert.equal(said.match(/\( \( set -o pipefail; curl /g)?.length, 1, "the write was begun once");
  const write = receipt.steps.find(({ name }) => name === "write");
  assert.ok((write?.durationMs ?? 0) > 2_000, "it was waited for");
  assert.ok(readFileSync(lab.disk).subarray(0, imageBytes).equals(content), "the disk holds the image");
});
