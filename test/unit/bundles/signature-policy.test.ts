import assert from "node:assert/strict";
import { execFileSync, spawnSync } from "node:child_process";
import { existsSync, readdirSync } from "node:fs";
import { cp, readdir, readFile, rm, stat, writeFile } from "node:fs/promises";
import { delimiter, join } from "node:path";
import { test, type TestContext } from "node:test";
import { shippedDrivers } from "../../../agent/driver/catalog.ts";
import { bundleFiles, temporaryDirectory, writeFiles } from "../../sim/bundle.ts";
import { startFlasher } from "../../sim/flasher.ts";
import { noRealRegistry, sha256, startRealRegistry } from "../../sim/registry.ts";

const skip = noRealRegistry;

/** `jmp-agent bundle …`, as it is built. */
function bundleCommand(words: readonly string[], env: Record<string, string> = {}) {
  const { status, stdout, stderr } = spawnSync(process.execPath, ["dist/jmp-agent.js", "bundle", ...words], {
    encoding: "utf8",
    env: { ...process.env, ...env },
    timeout: 60_000,
  });
  return { status, stdout, stderr };
}

function succeed(words: readonly string[], env?: Record<string, string>): string {
  const { status, stdout, stderr } = bundleCommand(words, env);
  assert.equal(status, 0, stderr);
  return stdout;
}

/** A bundle in a real registry, and two pairs of keys. */
async function prepare(t: TestContext) {
  const { host, stop } = await startRealRegistry(t);
  const directory = await temporaryDirectory(t);
  const files = await writeFiles(t, bundleFiles);
  const reference = `${host}/lab/board:v1`;
  const plain = ["--plain-http", host];
  succeed(["build", files, "--output", reference, ...plain]);
  const [own, other] = [join(directory, "lab"), join(directory, "other")];
  const fingerprint = /lab\.pub (sha256:\w{64})/.exec(succeed(["keygen", own]))?.[1];
  succeed(["keygen", other, "--type", "ed25519"]);
  const settings = { flasher_bundle: reference, plain_http: [host], signature_keys: [`${own}.pub`] };
  const sign = (key: string, more: string[] = []) =>
    succeed(["sign", reference, "--key", `${key}.key`, ...plain, ...more]);
  return { host, stop, directory, files, reference, plain, own, other, fingerprint, settings, sign };
}

const isEmpty = (directory: string) => !existsSync(directory) || readdirSync(directory).length === 0;

test("an exporter with keys uses a bundle only when one of them has signed it", { skip }, async (t) => {
  const { settings, sign, own, other, fingerprint, reference } = await prepare(t);
  const { calls, directory } = await startFlasher(t, settings);
  const refused = (message: RegExp) => assert.rejects(calls.setup_flasher_bundle(), { message });
  await refused(/lab\/board:v1 has no signature that counts: there is no sha256-[0-9a-f]{64}\.sig beside it$/);
  sign(other);
  await refused(/a signature is not of a trusted key$/);
  assert.ok(isEmpty(join(directory, "tftp")) && isEmpty(join(directory, "cache/bundles")));
  sign(own);
  await calls.setup_flasher_bundle();
  const { digest, ...told } = await calls.get_bundle();
  assert.deepEqual(told, { reference, signed_by: fingerprint });
  assert.match(digest ?? "", /^sha256:[0-9a-f]{64}$/);
});

test("what a client forces has to be signed, too, and for the repositories that are named", { skip }, async (t) => {
  const { settings, sign, own, host, plain } = await prepare(t);
  const other = `${host}/lab/other:v1`;
  const files = await writeFiles(t, { ...bundleFiles, "data/kernel": "another kernel" });
  succeed(["build", files, "--output", other, ...plain]);
  sign(own);
  const { calls } = await startFlasher(t, { ...settings, signature_repositories: [`${host}/lab/board`] });
  await calls.setup_flasher_bundle();
  await assert.rejects(calls.setup_flasher_bundle(other), { message: /lab\/other:v1 has no sig/ });
  succeed(["sign", other, "--key", `${own}.key`, ...plain]);
  await assert.rejects(calls.setup_flasher_bundle(other), {
    message: /a signature of .*lab\.pub was made for the repository ".*\/lab\/other"$/,
  });
  const wider = await startFlasher(t, { ...settings, signature_repositories: [`${host}/lab/*`] });
  await wider.calls.setup_flasher_bundle(other);
});

test(
  "a signature that was pulled is good without a registry, and what has none here is refused",
  { skip },
  async (t) => {
    const { settings, sign, own, other, fingerprint, stop } = await prepare(t);
    sign(own);
    const careful = { ...settings, cache_dir: await temporaryDirectory(t) };
    const careless = { ...settings, cache_dir: await temporaryDirectory(t), signature_keys: [] };
    for (const config of [careful, careless]) {
      const { calls, exporter } = await startFlasher(t, config);
      await calls.setup_flasher_bundle();
      await exporter.close();
    }
    await stop();
    const offline = await startFlasher(t, careful);
    await offline.calls.setup_flasher_bundle();
    assert.equal((await offline.calls.get_bundle()).signed_by, fingerprint);
    for (const [config, message] of [
      [{ ...careless, signature_keys: [`${own}.pub`] }, /there is no sha256-\w+\.sig beside it$/],
      [{ ...careful, signature_keys: [`${other}.pub`] }, /a signature is not of a trusted key$/],
    ] as const) {
      const { calls, directory } = await startFlasher(t, config);
      await assert.rejects(calls.setup_flasher_bundle(), { message });
      assert.ok(isEmpty(join(directory, "tftp")));
    }
  },
);

test("a bundle that is here and was signed since is used once its signature is fetched", { skip }, async (t) => {
  const { settings, sign, own, stop } = await prepare(t);
  const config = { ...settings, cache_dir: await temporaryDirectory(t) };
  const before = await startFlasher(t, { ...config, signature_keys: [] });
  await before.calls.setup_flasher_bundle();
  const { digest } = await before.calls.get_bundle();
  await before.exporter.close();
  const flasher_bundle = `${settings.flasher_bundle}@${digest}`;
  const { calls, exporter } = await startFlasher(t, { ...config, flasher_bundle });
  await assert.rejects(calls.setup_flasher_bundle(), { message: /there is no sha256-\w+\.sig beside it$/ });
  sign(own);
  await calls.setup_flasher_bundle();
  await exporter.close();
  await stop();
  const offline = await startFlasher(t, { ...config, flasher_bundle });
  await offline.calls.setup_flasher_bundle();
});

test("a signature that is damaged in the cache is fetched again, or missed", { skip }, async (t) => {
  const { settings, sign, own, stop } = await prepare(t);
  sign(own);
  const cache_dir = await temporaryDirectory(t);
  const start = () => startFlasher(t, { ...settings, cache_dir });
  const damage = async () => {
    const blobs = join(cache_dir, "blobs/sha256");
    const texts = await Promise.all((await readdir(blobs)).map((name) => readFile(join(blobs, name), "latin1")));
    const payload = texts.find((text) => text.includes("cosign container image signature"));
    assert.ok(payload !== undefined);
    const path = join(blobs, sha256(payload).slice("sha256:".length));
    await rm(path);
    await writeFile(path, payload.replace("cosign", "design"));
  };
  const first = await start();
  await first.calls.setup_flasher_bundle();
  await first.exporter.close();
  await damage();
  const second = await start();
  await second.calls.setup_flasher_bundle();
  await second.exporter.close();
  await damage();
  await stop();
  const offline = await start();
  await assert.rejects(offline.calls.setup_flasher_bundle());
  assert.ok(isEmpty(join(offline.directory, "tftp")));
});

test(
  "where signatures are not required, bundles without one are used, and nobody is said to vouch",
  { skip },
  async (t) => {
    const { settings } = await prepare(t);
    const { calls, exporter } = await startFlasher(t, { ...settings, require_signature: false });
    const warnings: string[] = [];
    exporter.logs.subscribe(({ severity, message }) => severity === "WARNING" && warnings.push(message));
    await calls.setup_flasher_bundle();
    assert.equal((await calls.get_bundle()).signed_by, null);
    assert.match(
      warnings.join("\n"),
      /has no signature that counts: .*; it is used all the same, as require_signature is false$/,
    );
  },
);

test(
  "a key that is withdrawn is trusted no longer, and one that is no key is a mistake in the config",
  { skip },
  async (t) => {
    const { settings, sign, own, other } = await prepare(t);
    sign(own);
    const { calls, exporter } = await startFlasher(t, settings);
    await calls.setup_flasher_bundle();
    for (const [content, expected] of [
      [await readFile(`${other}.pub`), { message: /not of a trusted key/ }],
      [await readFile(`${own}.key`), { message: /^signature_keys: .*lab\.pub holds a private key/ }],
      [Buffer.from("?"), { message: /^signature_keys: .* is not one public key in PEM/ }],
    ] as const) {
      await writeFile(`${own}.pub`, content);
      await exporter.tree.release();
      await exporter.tree.reset();
      await assert.rejects(calls.setup_flasher_bundle(), expected);
    }
  },
);

test("a layout carries a bundle with its signature", { skip }, async (t) => {
  const { settings, files, own, fingerprint } = await prepare(t);
  const layout = `oci-layout:${join(await temporaryDirectory(t), "stick")}`;
  succeed(["build", files, "--output", `${layout}:v1`]);
  const first = await startFlasher(t, { ...settings, flasher_bundle: `${layout}:v1` });
  await assert.rejects(first.calls.setup_flasher_bundle(), { message: /there is no sha256-\w+\.sig beside it/ });
  const signed = JSON.parse(
    succeed(["sign", `${layout}:v1`, "--key", `${own}.key`, "--as", "lab/board", "--json"]),
  ) as {
    repository: string;
    isNew: boolean;
  };
  assert.deepEqual([signed.repository, signed.isNew], ["lab/board", true]);
  await first.calls.setup_flasher_bundle();
  assert.equal((await first.calls.get_bundle()).signed_by, fingerprint);
  // A byte of it changes on the way to the lab.
  const broken = join(await temporaryDirectory(t), "broken");
  await cp(layout.slice("oci-layout:".length), broken, { recursive: true });
  const { digest } = await first.calls.get_bundle();
  const path = join(broken, "blobs", ...(digest ?? "").split(":"));
  const bytes = await readFile(path);
  await writeFile(path, bytes.toString().replace("octet-stream", "octet-scream"));
  const second = await startFlasher(t, { ...settings, flasher_bundle: `oci-layout:${broken}:v1` });
  await assert.rejects(second.calls.setup_flasher_bundle(), { message: /is not what its digest says/ });
});

test("a config whose signatures cannot work is refused before anything starts", async () => {
  const driver = await shippedDrivers.load("jumpstarter_driver_flashers.driver.BaseFlasher");
  const problems = (config: object) =>
    driver?.config.safeParse(config).error?.issues.map(({ path, message }) => `${path.join(".")}: ${message}`) ?? [];
  assert.deepEqual(problems({ require_signature: true }), ["require_signature: there are no signature_keys"]);
  assert.deepEqual(problems({ signature_keys: ["k"], flasher_bundle: "file:/srv" }), [
    "flasher_bundle: a directory has no signature, and signatures are required",
  ]);
  assert.deepEqual(problems({ signature_keys: ["k"], flasher_bundle: "file:/srv", require_signature: false }), []);
  for (const pattern of ["*", "quay.io*", "*/lab", "quay.io/*/x"]) {
    assert.match(problems({ signature_repositories: [pattern] }).join(), /^signature_repositories\.0: must be host/);
  }
});

test("a directory that is allowed has no signature either", async (t) => {
  const files = await writeFiles(t, bundleFiles);
  const layout = `oci-layout:${await temporaryDirectory(t)}`;
  const settings = { flasher_bundle: layout, allowed_bundles: [`file:${files}`], signature_keys: ["/dev/null"] };
  const { calls } = await startFlasher(t, settings);
  await assert.rejects(calls.setup_flasher_bundle(`file:${files}`), {
    message: /is a directory, which has no signature$/,
  });
});

test("keys are made for their owner alone, encrypted where there is a passphrase, and never written over", async (t) => {
  const directory = await temporaryDirectory(t);
  const layout = `oci-layout:${join(directory, "layout")}`;
  succeed(["build", await writeFiles(t, bundleFiles), "--output", layout]);
  const [name, passphrase] = [join(directory, "k"), join(directory, "passphrase")];
  await writeFile(passphrase, "open sesame\nanother line\n");
  for (const type of ["ecdsa-p256", "ecdsa-p384", "ed25519"]) {
    const made = succeed(["keygen", name, "--type", type, "--passphrase-file", passphrase]);
    assert.doesNotMatch(made, /not encrypted|sesame/);
    assert.equal((await stat(`${name}.key`)).mode & 0o777, 0o600);
    assert.match(await readFile(`${name}.key`, "utf8"), /BEGIN ENCRYPTED PRIVATE KEY/);
    const again = bundleCommand(["keygen", name]);
    assert.deepEqual([again.status, again.stderr], [1, `Error: ${name}.key is there already\n`]);

    const words = ["sign", layout, "--key", `${name}.key`];
    const missing = bundleCommand(words);
    assert.match(missing.stderr, /^Error: .*k\.key is encrypted, and there is no passphrase$/m);
    const wrong = bundleCommand(words, { JMP_KEY_PASSPHRASE: "open barley" });
    assert.match(wrong.stderr, /^Error: .*k\.key holds no key that can be read, or the passphrase is wrong$/m);
    assert.doesNotMatch(missing.stderr + wrong.stderr, /sesame|barley/);
    assert.deepEqual([missing.status, wrong.status], [1, 1]);
    assert.equal(bundleCommand(words, { JMP_KEY_PASSPHRASE: "" }).status, 2);
    assert.match(succeed(words, { JMP_KEY_PASSPHRASE: "open sesame" }), /^signed oci-layout:.* under the tag sha256-/);
    assert.match(succeed([...words, "--passphrase-file", passphrase]), /has been signed with this key already$/m);
    for (const end of [".key", ".pub"]) await rm(name + end);
  }
});

test("wrong words for signing are told with what would be right", async (t) => {
  const directory = await temporaryDirectory(t);
  const cases: [string[], number, RegExp][] = [
    [["sign"], 2, /missing REF/],
    [["sign", "lab/x"], 2, /--key is missing/],
    [["sign", "oci-archive:x.tar", "--key", "k"], 2, /an archive cannot be signed; push it to a layout first/],
    [["sign", "lab/x", "--key", join(directory, "none")], 1, /none/],
    [["sign", `oci-layout:${directory}`, "--key", "/dev/null"], 1, /holds no key that can be read/],
    [["keygen"], 2, /missing NAME/],
    [["keygen", "x", "--type", "rsa"], 2, /--type must be one of ecdsa-p256, ecdsa-p384, ed25519/],
    [["keygen", join(directory, "no/such/k")], 1, /no such file or directory/i],
  ];
  for (const [words, status, message] of cases) {
    const told = bundleCommand(words);
    assert.match(told.stderr, message, words.join(" "));
    assert.equal(told.status, status, told.stderr);
  }
});

const cosign = (process.env["PATH"] ?? "").split(delimiter).find((directory) => existsSync(join(directory, "cosign")));
// cosign is in no Debian; what it makes is recorded in sim/cosign-signatures.ts.
if (cosign !== undefined) {
  test("cosign verifies what we sign, and we what it signs", { skip }, async (t) => {
    const { host, reference, settings, own, directory, plain } = await prepare(t);
    const run = (...words: string[]) =>
      execFileSync("cosign", words, { cwd: directory, env: { ...process.env, COSIGN_PASSWORD: "x" }, stdio: "pipe" });
    const insecure = ["--allow-insecure-registry", "--allow-http-registry"];
    const verify = ["verify", "--insecure-ignore-tlog", ...insecure];
    assert.throws(() => run(...verify, "--key", `${own}.pub`, reference), /no signatures found/);
    for (const type of ["ecdsa-p256", "ecdsa-p384", "ed25519"]) {
      const key = join(directory, type);
      succeed(["keygen", key, "--type", type]);
      succeed(["sign", reference, "--key", `${key}.key`, ...plain]);
      run(...verify, "--key", `${key}.pub`, reference);
      assert.throws(() => run(...verify, "--key", `${own}.pub`, reference), /invalid signature|no matching signatures/);

      run("import-key-pair", "--key", `${key}.key`, "--output-key-prefix", `cosign-${type}`, "-y");
      const other = `${host}/lab/${type}:v1`;
      succeed(["push", reference, other, ...plain]);
      run("sign", "--tlog-upload=false", "-y", ...insecure, "--key", `cosign-${type}.key`, other);
      const keys = [join(directory, `cosign-${type}.pub`)];
      const { calls } = await startFlasher(t, { ...settings, flasher_bundle: other, signature_keys: keys });
      await calls.setup_flasher_bundle();
      const before = await calls.get_bundle();
      assert.match(before.signed_by ?? "", /^sha256:/);
    }
  });
}
