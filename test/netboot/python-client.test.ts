import assert from "node:assert/strict";
import { randomFillSync } from "node:crypto";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { open } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { makeBundle, missingForNetboot, startLab } from "../sim/netboot-lab.ts";
import type { NetworkOptions } from "../sim/network-namespace.ts";
import { clientEnv, clientProgram, missingClient, run } from "../sim/python-client.ts";

const version = "0.9.0";
const skip = missingForNetboot() || missingClient(version);
const imageBytes = 16 * 2 ** 20;
const shared = mkdtempSync(join(tmpdir(), "netboot-"));
let bundle = "";
before(() => {
  if (skip === false) ({ bundle } = makeBundle(shared));
});
after(() => rmSync(shared, { recursive: true, force: true }));

const networks: Record<string, NetworkOptions> = {
  "over a clean network": { kind: "user" },
  "with 1 % of the packets lost": { kind: "tap", lossPercent: 1 },
};
for (const [how, network] of Object.entries(networks)) {
  test(`the Python j flasher flash ${version} puts an image on the board's disk ${how}`, { skip }, async (t) => {
    const lab = await startLab(t, bundle, network);
    const content = randomFillSync(Buffer.allocUnsafe(imageBytes));
    const image = join(lab.directory, "image.raw");
    writeFileSync(image, content);
    const { socketPath, agent } = await lab.serve();
    const began = performance.now();
    const { code, stdout, stderr } = await run(
      clientProgram(version, "j"),
      ["flasher", "flash", image, "--method", "shell", "--retries", "0"],
      { env: clientEnv(socketPath), timeoutMs: 400_000 },
    );
    t.diagnostic(`flash took ${Math.round(performance.now() - began)} ms`);
    assert.equal(code, 0, `${stdout}\n${stderr}\n${agent.stdout()}`);
    const disk = await open(lab.disk, "r");
    const held = (await disk.read(Buffer.alloc(imageBytes), 0, imageBytes, 0)).buffer;
    await disk.close();
    assert.ok(held.equals(content), "the disk holds the image");
  });
}
