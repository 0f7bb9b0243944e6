import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { TransferSockets } from "../../../net/tftp/socket.ts";
import type { OptionList } from "../../../net/tftp/protocol.ts";
import { lossyProxy } from "../../sim/lossy-proxy.ts";
import { startNetwork } from "../../sim/network-namespace.ts";
import { download, folderWith, startTftp } from "../../sim/tftp.ts";

/** How packets leave: the same tests for both ways. */
const paths = {
  "through dgram": () => new TransferSockets({ onlyDgram: true }),
  "many at once": () => new TransferSockets(),
};

const whole = randomBytes(300_000);
const withWindow = (blockSize: number, windowSize: number): OptionList => [
  ["blksize", String(blockSize)],
  ["windowsize", String(windowSize)],
];

for (const [path, sockets] of Object.entries(paths)) {
  test(`${path}: whole files arrive for every combination of size, block size and window`, async (t) => {
    const sizes = [0, 1, 511, 512, 513, 1024, 300_000];
    const root = await folderWith(t);
    for (const length of sizes) await writeFile(join(root, `f${length}`), whole.subarray(0, length));
    const { port } = await startTftp(t, root, { sockets: sockets(), limits: { windowSize: 64 } });
    for (const length of sizes) {
      for (const options of [
        [],
        [["blksize", "512"]],
        [["windowsize", "3"]],
        withWindow(1468, 16),
        withWindow(1468, 64),
        withWindow(8192, 8),
        withWindow(65_464, 2),
        withWindow(100, 5),
      ] satisfies OptionList[]) {
        const got = await download(t, { port, filename: `f${length}`, options });
        assert.ok(got.equals(whole.subarray(0, length)), `${length} bytes with ${options.join(" ")}`);
      }
    }
  });

  test(`${path}: IPv6`, async (t) => {
    const root = await folderWith(t, { file: whole });
    const { port } = await startTftp(t, root, { sockets: sockets(), hosts: ["::1"] });
    const got = await download(t, { port, address: "::1", filename: "file", options: withWindow(1428, 8) });
    assert.ok(got.equals(whole));
  });

  test(`${path}: lost, late and doubled packets leave the bytes as they are`, async (t) => {
    const { port } = await startTftp(t, await folderWith(t, { file: whole }), { sockets: sockets() });
    for (const [loss, reorder, windowSize] of [
      [0.01, 0, 1],
      [0.01, 0, 16],
      [0.05, 0.05, 16],
      [0, 0.3, 8],
    ] as const) {
      const proxy = await lossyProxy(t, { targetPort: port, loss, reorder, duplicate: 0.02, seed: windowSize });
      const got = await download(t, { port: proxy.port, filename: "file", options: withWindow(1468, windowSize) });
      assert.ok(got.equals(whole), `${loss * 100} % lost, ${reorder * 100} % late, window ${windowSize}`);
    }
  });
}

const isInside = process.env["TFTP_INSIDE"] !== undefined;
const skip = isInside || process.getuid?.() !== 0 ? "needs root, for a network of its own" : false;

test("the same holds where blocks are larger than the MTU, and cannot be cut by the kernel", { skip }, async (t) => {
  const network = await startNetwork(t, { kind: "user" });
  await network.run("ip", ["link", "set", "dev", "lo", "mtu", "1500"]);
  const words = ["--import", "tsx", "--test", fileURLToPath(import.meta.url)];
  await network.run("env", ["-u", "NODE_TEST_CONTEXT", "TFTP_INSIDE=1", process.execPath, ...words]);
});
