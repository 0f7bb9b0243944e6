// The Python flasher client sees the bundles of real boards as they were made: out of a registry, signed, each manifest
// and each variant.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { join } from "node:path";
import { describe, test, type TestContext } from "node:test";
import { bootCommandOf, dtbVariantOf, type FlasherManifest } from "../../bundles/manifest.ts";
import { baseName } from "../../bundles/paths.ts";
import { scratch, startAgent } from "../sim/agent.ts";
import { exampleBundles, exampleManifests, filledExample } from "../sim/example-bundles.ts";
import { clientEnv, clientProgram, clientVersions, missingClient, run } from "../sim/python-client.ts";
import { startRealRegistry } from "../sim/registry.ts";

interface Wanted {
  flasher: string;
  variant: string | null;
}

const driverTypes: Record<string, string> = { ti_j784s4xevm: "TIJ784S4Flasher", rcar_s4: "RCarS4Flasher" };
const bundleCommand = (...words: string[]) => execFileSync(process.execPath, ["dist/jmp-agent.js", "bundle", ...words]);

/** What a client must see of a manifest with a variant in use. */
function expected(manifest: FlasherManifest, variant: string | null): Record<string, unknown> {
  const { kernel, initram, dtb, targets, login } = manifest.spec;
  const used = dtbVariantOf(manifest, variant)?.file ?? null;
  const byDefault = dtbVariantOf(manifest, null)?.file ?? null;
  const loads = [kernel.file, initram?.file ?? null, byDefault];
  const staged = [...loads, used].filter((file) => file !== null).map(baseName);
  return {
    get_kernel_filename: baseName(kernel.file),
    get_initram_filename: initram === null ? null : baseName(initram.file),
    get_dtb_filename: used === null ? "" : baseName(used),
    get_kernel_address: kernel.address,
    get_initram_address: initram?.address ?? null,
    get_dtb_address: dtb?.address ?? null,
    get_bootcmd: bootCommandOf(manifest, variant),
    get_default_target: "emmc",
    get_cacert: null,
    name: manifest.metadata.name,
    targets,
    login: [login.login_prompt, login.username, login.password, login.prompt],
    loads,
    staged: [...new Set(staged)].sort(),
  };
}

async function see(version: string, socketPath: string, wanted: readonly Wanted[]): Promise<Record<string, unknown>[]> {
  const input = wanted.map((one) => JSON.stringify(one) + "\n").join("");
  const words = ["test/conformance/drive_flashers.py"];
  const { code, stdout, stderr } = await run(clientProgram(version, "python"), words, {
    env: clientEnv(socketPath),
    input,
  });
  assert.equal(code, 0, `${stdout}\n${stderr}`);
  return stdout
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as Record<string, unknown>);
}

/** An agent with a flasher for each manifest of each example, out of a registry, all signed with one key. */
async function startLabHost(t: TestContext) {
  const { host } = await startRealRegistry(t);
  const directory = scratch(t);
  const key = join(directory, "lab");
  bundleCommand("keygen", key, "--type", "ed25519");
  const flashers: { name: string; entry: object; manifest: FlasherManifest }[] = [];
  for (const example of await exampleBundles()) {
    const reference = `${host}/boards/${example}:v1`;
    bundleCommand("build", await filledExample(t, example), "--output", reference, "--plain-http", host);
    bundleCommand("sign", reference, "--key", `${key}.key`, "--plain-http", host);
    for (const [file, manifest] of await exampleManifests(example)) {
      const name = `${example}-${file}`.replaceAll(/\W/g, "_");
      const entry = {
        type: `jumpstarter_driver_flashers.driver.${driverTypes[example] ?? "BaseFlasher"}`,
        config: {
          flasher_bundle: reference,
          manifest: file,
          default_target: "emmc",
          plain_http: [host],
          signature_keys: [`${key}.pub`],
          cache_dir: join(directory, "cache"),
          tftp_dir: join(directory, name, "tftp"),
          http_dir: join(directory, name, "http"),
        },
        children: {
          serial: { type: "jumpstarter_driver_pyserial.driver.PySerial", config: { url: "loop://" } },
          power: { type: "jumpstarter_driver_power.driver.MockPower" },
        },
      };
      flashers.push({ name, entry, manifest });
    }
  }
  return flashers;
}

for (const version of clientVersions) {
  describe(`Python client ${version}`, { skip: missingClient(version) }, () => {
    test("the flashers of real boards", async (t) => {
      const flashers = await startLabHost(t);
      const exported = Object.fromEntries(flashers.map(({ name, entry }) => [name, entry]));
      const agent = await startAgent(t, exported);
      const wanted = flashers.flatMap(({ name, manifest }) =>
        [null, ...Object.keys(manifest.spec.dtb?.variants ?? {})].map((variant) => ({ flasher: name, variant })),
      );
      const seen = await see(version, agent.socketPath, wanted);
      assert.equal(seen.length, wanted.length);
      const staged = new Map<string, string[]>();
      for (const [index, { flasher, variant }] of wanted.entries()) {
        const { manifest } = flashers.find(({ name }) => name === flasher) ?? {};
        assert.ok(manifest !== undefined);
        const now = expected(manifest, variant);
        // Device trees of variants that were in use before stay where they are, until the lease ends.
        const all = new Set([...(staged.get(flasher) ?? []), ...(now["staged"] as string[])]);
        staged.set(flasher, [...all].sort());
        assert.deepEqual(seen[index], { ...now, staged: staged.get(flasher) }, `${flasher} with ${variant}`);
      }
    });
  });
}
