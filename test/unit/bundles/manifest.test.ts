import assert from "node:assert/strict";
import { test } from "node:test";
import { AgentError } from "../../../agent/driver/errors.ts";
import { bootCommandOf, dtbVariantOf, parseManifest } from "../../../bundles/manifest.ts";
import { bundleManifest } from "../../sim/bundle.ts";

const least = `
metadata: { name: least }
spec:
  manufacturer: Nobody
  link: null
  bootcmd: bootm 0x58000000
  default_target: emmc
  targets: { emmc: /dev/mmcblk0 }
  kernel: { file: ./data//flasher.itb, address: "0x58000000" }
`;

/** A manifest with one line of the least one replaced. */
const refusal = (from: string | RegExp, to: string): string => {
  const text = least.replace(from, to);
  assert.notEqual(text, least);
  try {
    parseManifest(text);
    return "accepted";
  } catch (error) {
    assert.ok(error instanceof AgentError);
    return `${error.code} ${error.message}`;
  }
};

test("a manifest is read with all its parts", () => {
  const { metadata, spec } = parseManifest(bundleManifest);
  assert.equal(metadata.name, "simulated");
  assert.deepEqual(spec.kernel, { file: "data/kernel", address: "0x82000000" });
  assert.deepEqual(spec.login, { login_prompt: "login:", username: "root", password: "password", prompt: "#" });
  assert.deepEqual(spec.targets, { usd: "/sys/class/block#4fb0000", emmc: "/sys/class/block#4f80000" });
  assert.deepEqual(Object.keys(spec.dtb?.variants ?? {}), ["test-dtb", "alternate", "othercmd"]);
});

test("what a manifest leaves out has the defaults of its format, and paths are simplified", () => {
  const manifest = parseManifest(least);
  assert.equal(manifest.kind, "FlashBundleManifest");
  assert.equal(manifest.apiVersion, "jumpstarter.dev/v1alpha1");
  const { spec } = manifest;
  assert.deepEqual(spec.login, { login_prompt: "login:", username: null, password: null, prompt: "#" });
  assert.deepEqual([spec.initram, spec.dtb, spec.shelltype, spec.preflash_commands], [null, null, "busybox", []]);
  assert.equal(spec.kernel.file, "data/flasher.itb");
  assert.equal(dtbVariantOf(manifest, null), undefined);
  assert.equal(bootCommandOf(manifest, "any"), "bootm 0x58000000");
});

test("device tree variants may be file names alone, as in early bundles", () => {
  const old = `${least}  dtb: { default: a, address: "0x84000000", variants: { a: data/a.dtb, b: { file: "" } } }\n`;
  const manifest = parseManifest(old);
  assert.deepEqual(dtbVariantOf(manifest, null), { file: "data/a.dtb", bootcmd: null });
  assert.deepEqual(dtbVariantOf(manifest, "b"), { file: null, bootcmd: null });
});

test("a variant's boot command wins over the manifest's; an unknown variant is refused", () => {
  const manifest = parseManifest(bundleManifest);
  assert.equal(bootCommandOf(manifest, null), "booti 0x82000000 - 0x84000000");
  assert.equal(bootCommandOf(manifest, "alternate"), "booti 0x82000000 - 0x84000000");
  assert.equal(bootCommandOf(manifest, "othercmd"), "bootm");
  for (const name of ["noexists", "constructor", "__proto__"]) {
    assert.throws(() => bootCommandOf(manifest, name), {
      code: "E_INVALID",
      message: `DTB variant ${name} not found in the manifest.`,
    });
  }
});

test("a wrong manifest is refused with the path of the key", () => {
  assert.match(refusal("name: least", "nome: least"), /^E_INVALID manifest\.yaml .*metadata\.name: /);
  assert.match(refusal("  link: null\n", ""), /spec\.link: /);
  assert.match(refusal('"0x58000000"', "0x58000000"), /spec\.kernel\.address: must be text: put the address in quotes/);
  assert.match(refusal("emmc: /dev/mmcblk0", "emmc: 7"), /spec\.targets\.emmc: /);
  assert.match(refusal("spec:", "kind: Other\nspec:"), /kind: /);
  assert.match(refusal("spec:", "apiVersion: v2\nspec:"), /apiVersion: /);
  assert.match(refusal("spec:", "spec:\n  shelltype: bash"), /spec\.shelltype: /);
  assert.match(refusal(/^[^]*$/, "- a\n- b\n"), /document: /);
  assert.match(refusal(/^[^]*$/, "a: [b"), /^E_INVALID manifest\.yaml is not YAML: /);
});

test("files outside the bundle are refused", () => {
  for (const path of ["/etc/shadow", "../secret", "data/../../secret", "data/..", "", ".", "a\\0b", "..\\\\secret"]) {
    const shown = refusal("./data//flasher.itb", `"${path}"`);
    assert.match(shown, /spec\.kernel\.file: .* is not a path inside the bundle/, path);
  }
});

test("two boot files that TFTP could not tell apart are refused", () => {
  const initram = least.replace("  kernel:", '  initram: { file: other/flasher.itb, address: "0x1" }\n  kernel:');
  assert.throws(() => parseManifest(initram), { code: "E_INVALID", message: /spec\.initram\.file: .*same last name/ });
  const dtb = (file: string) =>
    `${least}  dtb: { default: a, address: "0x1", variants: { a: { file: a/x.dtb }, b: { file: ${file} } } }\n`;
  assert.throws(() => parseManifest(dtb("other/flasher.itb")), {
    code: "E_INVALID",
    message: /spec\.dtb\.variants\.b\.file: other\/flasher\.itb and data\/flasher\.itb have the same last name/,
  });
  for (const fine of ["data/flasher.itb", "b/x.dtb"]) parseManifest(dtb(fine));
});
