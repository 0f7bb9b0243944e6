import assert from "node:assert/strict";
import { createHash, randomFillSync } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import type { FlashReceipt } from "../../agent/driver/receipt.ts";
import { makeBundle, missingForNetboot, startLab } from "../sim/netboot-lab.ts";

const skip = missingForNetboot();
const imageBytes = 32 * 2 ** 20;
const shared = mkdtempSync(join(tmpdir(), "netboot-"));
let bundle = "";
before(() => {
  if (skip === false) ({ bundle } = makeBundle(shared));
});
after(() => rmSync(shared, { recursive: true, force: true }));

test(
  "one jmp-agent flash flashes two boards at once, over the same ports and with one bundle cache",
  { skip },
  async (t) => {
    const lab = await startLab(t, bundle, { kind: "tap", boards: 2 });
    const content = randomFillSync(Buffer.allocUnsafe(imageBytes));
    const image = join(lab.directory, "image.raw");
    writeFileSync(image, content);
    const run = lab.agent(
      ...["flash", image, "--off-time", "0", "--retries", "0"],
      ...lab.boards.flatMap(({ config }) => ["--exporter-config", config]),
      ...["--receipt", join(lab.directory, "receipt.json"), "--console-log", join(lab.directory, "console.log")],
    );
    assert.equal(await run.ended(), 0, run.stderr());

    const sha256 = createHash("sha256").update(content).digest("hex");
    const receipts = lab.boards.map(({ name, disk }) => {
      const held = readFileSync(disk).subarray(0, imageBytes);
      assert.ok(held.equals(content), `the disk of ${name} holds the image`);
      const text = readFileSync(join(lab.directory, `${name}-receipt.json`), "utf8");
      const receipt = JSON.parse(text) as FlashReceipt;
      assert.equal(receipt.exporter, name);
      assert.equal(receipt.verdict, "verified");
      assert.equal(receipt.readBackSha256, sha256);
      assert.match(readFileSync(join(lab.directory, `${name}-console.log`), "utf8"), /U-Boot 20/);
      t.diagnostic(`${name}: ${receipt.steps.map((step) => `${step.name} ${step.durationMs} ms`).join(", ")}`);
      return receipt;
    });

    const spans = receipts.map(({ startedAt, durationMs }) => {
      const startMs = Date.parse(startedAt);
      return { startMs, endMs: startMs + (durationMs ?? 0) };
    });
    const [lastStartMs, firstEndMs] = [
      Math.max(...spans.map(({ startMs }) => startMs)),
      Math.min(...spans.map(({ endMs }) => endMs)),
    ];
    assert.ok(lastStartMs < firstEndMs, "not one after the other");
  },
);
