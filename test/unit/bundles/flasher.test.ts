import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { readdir, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { shippedDrivers } from "../../../agent/driver/catalog.ts";
import type { Entry } from "../../../agent/driver/entry.ts";
import { planTree } from "../../../agent/driver/plan.ts";
import { ubootConsole } from "../../../boards/uboot/interface.ts";
import { bundleFiles, bundleManifest, temporaryDirectory, writeFiles } from "../../sim/bundle.ts";
import { power, serial, startFlasher, wires } from "../../sim/flasher.ts";
import { startFakeRegistry } from "../../sim/registry.ts";

const bundle = async (t: TestContext, files = bundleFiles) => `file:${await writeFiles(t, files)}`;

async function problems(children: Record<string, Entry>, config = {}): Promise<string[]> {
  const type = "jumpstarter_driver_flashers.driver.BaseFlasher";
  const planned = await planTree({ children: { serial, power, f: { type, config, children } } }, shippedDrivers);
  return "root" in planned ? [] : planned.problems.map(({ path, message }) => `${path.join(".")}: ${message}`);
}

test("a flasher needs power and serial, and says so in the words clients know", async () => {
  const text = (child: string) =>
    `export.f: '${child}' instance is required for BaseFlasher either via a ref ir a direct child instance`;
  assert.ok((await problems({ power: wires.power })).includes(text("serial")));
  assert.ok((await problems({ serial: wires.serial })).includes(text("power")));
  assert.deepEqual(await problems({ serial, power }), []);
});

test("a wrong flasher config is named by its key", async () => {
  const [wrong] = await problems(wires, { flasher_bundle: "https://quay.io/x" });
  assert.match(wrong ?? "", /^export\.f\.config\.flasher_bundle: .*is not a bundle reference: leave out the scheme/);
  assert.match((await problems(wires, { manifest: "../x.yaml" })).join(), /export\.f\.config\.manifest: /);
  assert.match(
    (await problems(wires, { allowed_bundles: ["Not A Ref"] })).join(),
    /export\.f\.config\.allowed_bundles\.0/,
  );
});

test("the three flashers bring their own default bundle", async () => {
  const bundles = { BaseFlasher: "test", TIJ784S4Flasher: "ti-j784s4", RCarS4Flasher: "rcar-s4" };
  for (const [name, short] of Object.entries(bundles)) {
    const driver = await shippedDrivers.load(`jumpstarter_driver_flashers.driver.${name}`);
    const config = driver?.config.parse({});
    assert.equal(config?.["flasher_bundle"], `quay.io/jumpstarter-dev/jumpstarter-flasher-${short}:latest`);
  }
});

test("boot services and U-Boot come along after the configured children, on the same power and serial", async (t) => {
  const { client, exporter } = await startFlasher(t, { flasher_bundle: await bundle(t) });
  const flasherNode = exporter.tree.root.children.get("flasher");
  assert.deepEqual([...(flasherNode?.children.keys() ?? [])], ["serial", "power", "tftp", "http", "uboot"]);
  const uuid = (path: string) => client.find(path)?.uuid;
  assert.equal(uuid("flasher.uboot.power"), uuid("power"));
  assert.equal(uuid("flasher.uboot.serial"), uuid("flasher.serial"));
  assert.ok(uuid("flasher.tftp.storage") !== undefined && uuid("flasher.http.storage") !== undefined);
  assert.equal(await client.find("flasher.uboot")?.as(ubootConsole).get_prompt(), "\n=>");
});

test("a configured boot service is kept", async (t) => {
  const root_dir = await temporaryDirectory(t);
  const tftp = { type: "jumpstarter_driver_tftp.driver.Tftp", config: { root_dir, port: 6969 } };
  const { calls } = await startFlasher(t, { flasher_bundle: await bundle(t) }, { tftp, ...wires });
  await calls.setup_flasher_bundle();
  assert.equal((await readFile(join(root_dir, "kernel"))).length, 1024);
});

test("U-Boot's console needs power and serial", async () => {
  const type = "jumpstarter_driver_uboot.driver.UbootConsole";
  const planned = await planTree({ children: { u: { type, children: { power } } } }, shippedDrivers);
  assert.ok("problems" in planned);
  assert.deepEqual(
    planned.problems.map(({ message }) => message),
    ["UbootConsole: serial driver not configured as a child"],
  );
});

test("setting up puts kernel, initramfs and device tree on the TFTP server", async (t) => {
  const { calls, staged } = await startFlasher(t, { flasher_bundle: await bundle(t) });
  await calls.setup_flasher_bundle(null);
  assert.deepEqual(await staged(await calls.get_kernel_filename()), Buffer.alloc(1024));
  assert.deepEqual(await staged((await calls.get_initram_filename()) ?? ""), Buffer.alloc(2048));
  assert.deepEqual(await staged(await calls.get_dtb_filename()), Buffer.alloc(3072));
});

test("the getters tell what the manifest says", async (t) => {
  const { calls } = await startFlasher(t, { flasher_bundle: await bundle(t), default_target: "emmc" });
  assert.equal(await calls.get_flasher_manifest_yaml(), bundleManifest);
  assert.equal(await calls.get_kernel_filename(), "kernel");
  assert.equal(await calls.get_initram_filename(), "initramfs");
  assert.equal(await calls.get_dtb_filename(), "test-dtb.dtb");
  assert.equal(await calls.get_kernel_address(), "0x82000000");
  assert.equal(await calls.get_initram_address(), "0x83000000");
  assert.equal(await calls.get_dtb_address(), "0x84000000");
  assert.equal(await calls.get_bootcmd(), "booti 0x82000000 - 0x84000000");
  assert.equal(await calls.get_default_target(), "emmc");
  assert.equal(await calls.get_cacert(), null);
});

test("a bundle without initramfs and device trees has none", async (t) => {
  const manifest = bundleManifest.replace(/ {2}initram:.*\n/, "").replace(/ {2}dtb:[^]*$/, "");
  const { calls } = await startFlasher(t, {
    flasher_bundle: await bundle(t, { "manifest.yaml": Buffer.from(manifest), "data/kernel": Buffer.alloc(1) }),
  });
  await calls.setup_flasher_bundle();
  assert.deepEqual([await calls.get_initram_filename(), await calls.get_initram_address()], [null, null]);
  assert.deepEqual([await calls.get_dtb_filename(), await calls.get_dtb_address()], ["", null]);
  await assert.rejects(calls.use_dtb_variant("x"), { code: "E_INVALID", message: /available variants are: \[\]/ });
});

test("device tree variants are switched, with their boot commands", async (t) => {
  const { calls } = await startFlasher(t, { flasher_bundle: await bundle(t) });
  const table = { "test-dtb": ["test-dtb.dtb", "booti 0x82000000 - 0x84000000"], othercmd: ["", "bootm"] };
  const expected = { ...table, alternate: ["alternate.dtb", "booti 0x82000000 - 0x84000000"] };
  for (const [variant, [file, command]] of [...Object.entries(expected), ...Object.entries(table)]) {
    await calls.use_dtb_variant(variant);
    assert.equal(await calls.get_dtb_filename(), file);
    assert.equal(await calls.get_bootcmd(), command);
  }
  for (const unknown of ["noexists", "__proto__"]) {
    await assert.rejects(calls.use_dtb_variant(unknown), {
      code: "E_INVALID",
      message: new RegExp(
        `DTB variant ${unknown} not found in the flasher bundle, ` +
          "available variants are: \\['test-dtb', 'alternate', 'othercmd'\\]",
      ),
    });
  }
});

test("a configured variant that the manifest lacks is refused when it is asked for", async (t) => {
  const { calls } = await startFlasher(t, { flasher_bundle: await bundle(t), variant: "gone" });
  await assert.rejects(calls.get_bootcmd(), {
    code: "E_INVALID",
    message: /DTB variant gone not found in the manifest\./,
  });
});

test("the variant in use is served under the name clients load: the default variant's", async (t) => {
  const { calls, staged } = await startFlasher(t, { flasher_bundle: await bundle(t), variant: "alternate" });
  await calls.setup_flasher_bundle();
  assert.deepEqual(await staged("alternate.dtb"), Buffer.alloc(3072, 1));
  assert.deepEqual(await staged("test-dtb.dtb"), Buffer.alloc(3072, 1));
  await calls.use_dtb_variant("test-dtb");
  await calls.setup_flasher_bundle();
  assert.deepEqual(await staged("test-dtb.dtb"), Buffer.alloc(3072));
  await calls.use_dtb_variant("othercmd");
  await calls.setup_flasher_bundle();
  assert.deepEqual(await staged("test-dtb.dtb"), Buffer.alloc(3072));
  assert.equal(await calls.get_flasher_manifest_yaml(), bundleManifest);
});

test("clients are told the variant in use where the default one has no file for them to load", async (t) => {
  const manifest = bundleManifest.replace("default: test-dtb", "default: othercmd # keep");
  const files = { ...bundleFiles, "manifest.yaml": Buffer.from(manifest) };
  const { calls, staged } = await startFlasher(t, { flasher_bundle: await bundle(t, files) });
  assert.equal(await calls.get_flasher_manifest_yaml(), manifest);
  await calls.use_dtb_variant("alternate");
  assert.match(await calls.get_flasher_manifest_yaml(), /default: alternate/);
  await calls.setup_flasher_bundle();
  assert.deepEqual(await staged("alternate.dtb"), Buffer.alloc(3072, 1));
});

test("calls may overlap, and what is there already is not written again", async (t) => {
  const { calls, directory } = await startFlasher(t, { flasher_bundle: await bundle(t) });
  const all = [1, 2, 3, 4].map(() => calls.setup_flasher_bundle());
  await Promise.all([...all, calls.get_kernel_filename(), calls.get_bootcmd(), calls.use_dtb_variant("alternate")]);
  const { stat } = await import("node:fs/promises");
  const before = await stat(join(directory, "tftp/kernel"), { bigint: true });
  await calls.setup_flasher_bundle();
  const after = await stat(join(directory, "tftp/kernel"), { bigint: true });
  assert.deepEqual([after.mtimeNs, after.ino], [before.mtimeNs, before.ino]);
});

test("what a lease chose ends with it: bundle, variant and files", async (t) => {
  const registry = await startFakeRegistry(t);
  const other = bundleManifest.replace("bootcmd: bootm", "bootcmd: bootm-of-the-other");
  const files = { ...bundleFiles, "manifest.yaml": Buffer.from(other) };
  registry.put(
    "v1",
    Object.entries(files).map(([title, content]) => ({ title, content })),
  );
  const { calls, exporter, directory } = await startFlasher(t, {
    flasher_bundle: await bundle(t),
    plain_http: [registry.host],
  });
  await calls.setup_flasher_bundle(`${registry.host}/ns/other:v1`);
  await calls.setup_flasher_bundle(null);
  await calls.use_dtb_variant("othercmd");
  assert.equal(await calls.get_bootcmd(), "bootm-of-the-other");
  assert.ok(existsSync(join(directory, "tftp/kernel")));

  // Within the lease the bundle stays what it was, also when the tag moves.
  registry.put("v1", [{ title: "manifest.yaml", content: Buffer.from("moved") }]);
  await calls.setup_flasher_bundle(`${registry.host}/ns/other:v1`);
  assert.equal(await calls.get_bootcmd(), "bootm-of-the-other");

  await exporter.tree.release();
  assert.equal(existsSync(join(directory, "tftp/kernel")), false);
  await exporter.tree.reset();
  assert.equal(await calls.get_bootcmd(), "booti 0x82000000 - 0x84000000");
  assert.equal(await calls.get_flasher_manifest_yaml(), bundleManifest);
});

test("clients may force bundles of registries, or only those that are listed, but no directory", async (t) => {
  const own = await bundle(t);
  const open = await startFlasher(t, { flasher_bundle: own });
  await open.calls.setup_flasher_bundle(own);
  const layout = `oci-layout:${await temporaryDirectory(t)}`;
  for (const reference of ["file:/etc", layout]) {
    await assert.rejects(open.calls.setup_flasher_bundle(reference), {
      code: "E_INVALID",
      message: /does not allow the bundle/,
    });
  }
  await assert.rejects(open.calls.setup_flasher_bundle("not a reference"), { code: "E_INVALID" });
  assert.equal(await open.calls.get_kernel_filename(), "kernel");

  const registry = await startFakeRegistry(t);
  const allowed_bundles = [`${registry.host}/lab/*`, `${registry.host}/one/repo`];
  const listed = await startFlasher(t, { flasher_bundle: own, allowed_bundles, plain_http: [registry.host] });
  const layers = Object.entries(bundleFiles).map(([title, content]) => ({ title, content }));
  for (const tag of ["latest", "v1"]) registry.put(tag, layers);
  for (const fine of ["lab/any:v1", "one/repo", "one/repo:latest"]) {
    await listed.calls.setup_flasher_bundle(`${registry.host}/${fine}`);
  }
  for (const reference of ["one/repo:v1", "labor/x", "other/x"]) {
    await assert.rejects(listed.calls.setup_flasher_bundle(`${registry.host}/${reference}`), { code: "E_INVALID" });
  }
});

test("a bundle that cannot be had fails each call with the reason, and is asked for again", async (t) => {
  const registry = await startFakeRegistry(t);
  const { calls } = await startFlasher(t, {
    flasher_bundle: `${registry.host}/ns/repo:v1`,
    plain_http: [registry.host],
  });
  await assert.rejects(calls.setup_flasher_bundle(), { code: "E_INVALID", message: /HTTP 404 MANIFEST_UNKNOWN/ });
  registry.put(
    "v1",
    Object.entries(bundleFiles).map(([title, content]) => ({ title, content })),
  );
  await calls.setup_flasher_bundle();
  assert.equal(await calls.get_kernel_filename(), "kernel");
});

test("a bundle's manifest cannot name files outside it, nor through links", async (t) => {
  const evil = bundleManifest.replace("data/kernel", "/etc/hostname");
  const { calls } = await startFlasher(t, {
    flasher_bundle: await bundle(t, { ...bundleFiles, "manifest.yaml": Buffer.from(evil) }),
  });
  await assert.rejects(calls.setup_flasher_bundle(), { code: "E_INVALID", message: /not a path inside the bundle/ });

  const linked = await writeFiles(t, bundleFiles);
  await rm(join(linked, "data/kernel"));
  await symlink("/etc/hostname", join(linked, "data/kernel"));
  const second = await startFlasher(t, { flasher_bundle: `file:${linked}` });
  await assert.rejects(second.calls.setup_flasher_bundle(), { code: "E_INVALID", message: /has no file data\/kernel/ });
  assert.equal(existsSync(join(second.directory, "tftp/kernel")), false);
});

test("another manifest of the bundle may be configured", async (t) => {
  const files = { ...bundleFiles, "manifest-ti.yaml": Buffer.from(bundleManifest.replace("usd\n", "emmc\n")) };
  const { calls } = await startFlasher(t, { flasher_bundle: await bundle(t, files), manifest: "./manifest-ti.yaml" });
  assert.match(await calls.get_flasher_manifest_yaml(), /default_target: emmc/);
});

test("the fls program is put on the HTTP server, from where it is configured", async (t) => {
  const fls_path = join(await temporaryDirectory(t), "fls-for-boards");
  const { calls, directory } = await startFlasher(t, { flasher_bundle: await bundle(t), fls_path });
  await assert.rejects(calls.setup_fls_binary(), {
    code: "E_FAILED",
    message: new RegExp(`fls binary not found at ${fls_path}`),
  });
  await writeFile(fls_path, "program");
  await calls.setup_fls_binary();
  assert.equal(await readFile(join(directory, "http/fls"), "utf8"), "program");
});

test("the CA certificate is read each time; an unreadable one is an error of the system", async (t) => {
  const cacert = join(await temporaryDirectory(t), "ca.crt");
  const { calls } = await startFlasher(t, { flasher_bundle: await bundle(t), cacert });
  await assert.rejects(calls.get_cacert(), { category: "io", message: /No such file or directory/ });
  for (const text of ["first", "second"]) {
    await writeFile(cacert, text);
    assert.equal(await calls.get_cacert(), text);
  }
});

test("a device tree of the client's own is not supported", async (t) => {
  const { client } = await startFlasher(t, { flasher_bundle: await bundle(t) });
  const node = client.find("flasher");
  await assert.rejects(async () => node?.call("set_dtb", [null]), { category: "unsupported" });
  for (const method of ["set_kernel", "set_initram", "constructor", "open"]) {
    await assert.rejects(async () => node?.call(method), { category: "no-such-method" });
  }
});

test("a variant that is chosen after setting up is the one that boards get from then on", async (t) => {
  const { calls, staged } = await startFlasher(t, { flasher_bundle: await bundle(t) });
  await calls.use_dtb_variant("alternate");
  await assert.rejects(staged("alternate.dtb"), { code: "ENOENT" });
  await calls.setup_flasher_bundle();
  await calls.use_dtb_variant("test-dtb");
  assert.deepEqual(await staged("test-dtb.dtb"), Buffer.alloc(3072));
  await Promise.all([calls.setup_flasher_bundle(), calls.use_dtb_variant("alternate")]);
  for (const name of ["test-dtb.dtb", await calls.get_dtb_filename()]) {
    assert.deepEqual(await staged(name), Buffer.alloc(3072, 1));
  }
});

test("who has read a manifest and then asks for another bundle is warned of in the log", async (t) => {
  const [own, other] = [await bundle(t), await bundle(t)];
  const { calls, exporter } = await startFlasher(t, { flasher_bundle: own, allowed_bundles: [other] });
  const warnings: string[] = [];
  exporter.logs.subscribe(({ severity, message }) => severity === "WARNING" && warnings.push(message));
  await calls.setup_flasher_bundle(other);
  await calls.get_flasher_manifest_yaml();
  await calls.setup_flasher_bundle(other);
  assert.deepEqual(warnings, []);
  await calls.setup_flasher_bundle(own);
  assert.deepEqual(warnings, [`from now on ${own} is used; a client that has read the manifest of ${other} keeps it`]);
});

test("a directory is told as the bundle that it is: without digest and signature", async (t) => {
  const flasher_bundle = await bundle(t);
  const { calls } = await startFlasher(t, { flasher_bundle });
  assert.deepEqual(await calls.get_bundle(), { reference: flasher_bundle, digest: null, signed_by: null });
});

test("nothing is staged any more once the lease has ended", async (t) => {
  const flasher_bundle = await bundle(t, { ...bundleFiles, "data/kernel": Buffer.alloc(16 * 2 ** 20) });
  const { calls, exporter, directory } = await startFlasher(t, { flasher_bundle });
  const tftp = join(directory, "tftp");
  const late = [1, 2, 3].map(() => calls.setup_flasher_bundle().catch(() => {}));
  while (!existsSync(join(tftp, "initramfs"))) await sleep(1);
  await exporter.tree.release();
  await Promise.all(late);
  assert.deepEqual(await readdir(tftp), []);
});
