import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { test } from "node:test";
import { dtbVariantOf } from "../../../bundles/manifest.ts";
import { baseName } from "../../../bundles/paths.ts";
import { temporaryDirectory } from "../../sim/bundle.ts";
import { exampleBundles, exampleManifests, filledExample, placeholder } from "../../sim/example-bundles.ts";
import { startFlasher } from "../../sim/flasher.ts";

test("the example bundles are those that the README tells of", async () => {
  assert.deepEqual((await exampleBundles()).sort(), ["aarch64-itb", "rcar_s4", "test", "ti_j784s4xevm"]);
  assert.equal((await exampleManifests("aarch64-itb")).size, 3);
});

test("each example builds, and each of its manifests puts on the TFTP server what a board loads", async (t) => {
  for (const example of await exampleBundles()) {
    const flasher_bundle = `oci-layout:${await temporaryDirectory(t)}:v1`;
    const words = ["dist/jmp-agent.js", "bundle", "build", await filledExample(t, example), "--output", flasher_bundle];
    execFileSync(process.execPath, words, { stdio: "pipe" });
    for (const [file, manifest] of await exampleManifests(example)) {
      const { spec } = manifest;
      for (const variant of Object.keys(spec.dtb?.variants ?? { none: null })) {
        const chosen = spec.dtb === null ? null : variant;
        const { calls, staged } = await startFlasher(t, { flasher_bundle, manifest: file, variant: chosen });
        await calls.setup_flasher_bundle();
        const dtb = dtbVariantOf(manifest, chosen)?.file;
        for (const path of [spec.kernel.file, spec.initram?.file, dtb]) {
          if (path) assert.deepEqual(await staged(baseName(path)), placeholder(path), `${example}/${file} ${chosen}`);
        }
      }
    }
  }
});
