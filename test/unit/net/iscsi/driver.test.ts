import assert from "node:assert/strict";
import { createHash, randomBytes } from "node:crypto";
import { mkdirSync, readFileSync, readdirSync, realpathSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { bzip2, gzip, xz } from "../../../sim/packed.ts";
import { createCatalog, shippedDrivers } from "../../../../agent/driver/catalog.ts";
import type { AnyDriver } from "../../../../agent/driver/driver.ts";
import { createExporter } from "../../../../agent/session/exporter.ts";
import { iscsiDriver } from "../../../../net/iscsi/driver.ts";
import { iscsi } from "../../../../net/iscsi/interface.ts";
import { Target } from "../../../../net/iscsi/target.ts";
import { scratch } from "../../../sim/agent.ts";
import { FakeConfigfs } from "../../../sim/lio.ts";

const type = "jumpstarter_driver_iscsi.driver.ISCSI";
// A name that no other agent of this host has.
const target_name = `test-${process.pid}`;
const iqn = `iqn.2024-06.dev.jumpstarter:${target_name}`;
const group = `iscsi/${iqn}/tpgt_1`;
const mebi = 2 ** 20;

async function lab(t: TestContext, config: Record<string, unknown> = {}, names: readonly string[] = ["disks"]) {
  const directory = realpathSync(scratch(t));
  const root = join(directory, "images");
  const configfs = new FakeConfigfs(directory);
  const state: { missing: string | undefined } = { missing: undefined };
  const driver = iscsiDriver({ configfs, load: () => Promise.resolve(state.missing) });
  const catalog = createCatalog(
    new Map(
      shippedDrivers
        .types()
        .map((name) => [
          name,
          () =>
            name === type
              ? Promise.resolve(driver as unknown as AnyDriver)
              : (shippedDrivers.load(name) as Promise<AnyDriver>),
        ]),
    ),
  );
  const entry = { type, config: { root_dir: root, host: "127.0.0.1", target_name, ...config } };
  const exporter = await createExporter({
    name: "test",
    export: Object.fromEntries(names.map((name) => [name, entry])),
    catalog,
  });
  t.after(() => exporter.close());
  const log: string[] = [];
  exporter.logs.subscribe(({ message }) => log.push(message));
  return { root, directory, configfs, state, exporter, log, disks: exporter.calls("disks", iscsi) };
}

const failed = (message: string | RegExp) => ({ code: "E_FAILED", message });

test("a target is started, gets LUNs with numbers of their own, and is taken away", async (t) => {
  const { root, configfs, exporter, disks } = await lab(t);
  assert.deepEqual(configfs.steps, [], "nothing is touched before it is asked for");
  await disks.start();
  assert.deepEqual(configfs.names(`${group}/np`), ["127.0.0.1:3260"]);
  for (const [attribute, value] of [
    ["attrib/authentication", "0"],
    ["attrib/generate_node_acls", "1"],
    ["attrib/demo_mode_write_protect", "0"],
    ["enable", "1"],
  ] as const) {
    assert.equal(configfs.attribute(`${group}/${attribute}`), value, attribute);
  }
  assert.deepEqual(
    [await disks.get_host(), await disks.get_port(), await disks.get_target_iqn()],
    ["127.0.0.1", 3260, iqn],
  );

  assert.equal(await disks.add_lun("one", "one.img", 4), "one");
  assert.equal(await disks.add_lun("two", "below/two.img", 1), "two");
  assert.equal(statSync(join(root, "below/two.img")).size, mebi);
  const lun = (name: string, path: string, size: number, lun_id: number) => ({
    ...{ name, path: join(root, path), size, lun_id },
    is_block: false,
  });
  const two = lun("two", "below/two.img", mebi, 1);
  assert.deepEqual(await disks.list_luns(), [lun("one", "one.img", 4 * mebi, 0), two]);
  const control = configfs.attribute("core/fileio_0/one/control");
  assert.equal(control, `fd_dev_name=${root}/one.img,fd_dev_size=${4 * mebi},fd_buffered_io=1`);
  const serials = ["core/fileio_0/one", "core/fileio_1/two"].map((at) =>
    configfs.attribute(`${at}/wwn/vpd_unit_serial`),
  );
  assert.notEqual(serials[0], serials[1]);

  // The first number that is free again.
  await disks.remove_lun("one");
  assert.deepEqual(await disks.list_luns(), [two]);
  await disks.add_lun("three", "one.img");
  assert.deepEqual(await disks.list_luns(), [lun("three", "one.img", 4 * mebi, 0), two]);
  await assert.rejects(disks.remove_lun("one"), failed("LUN with name one does not exist"));

  await disks.start();
  assert.equal((await disks.list_luns()).length, 2, "started already");
  await disks.stop();
  await disks.stop();
  assert.deepEqual([...configfs.made.keys()], ["iscsi"]);
  assert.deepEqual(await disks.list_luns(), []);
  assert.equal(statSync(join(root, "one.img")).size, 4 * mebi, "images stay");

  await disks.start();
  await disks.add_lun("one", "one.img");
  await exporter.tree.release();
  assert.deepEqual([...configfs.made.keys()], ["iscsi"], "the lease's end takes it away");
});

test("sizes: of the file, larger, smaller", async (t) => {
  const { root, disks, log } = await lab(t);
  await disks.start();
  await assert.rejects(
    disks.add_lun("none", "none.img"),
    failed("Failed to add LUN: size_mb must be > 0 for new file-backed LUNs"),
  );
  assert.deepEqual(readdirSync(root), [], "nothing was made");
  writeFileSync(join(root, "some.img"), Buffer.alloc(1000));
  await disks.add_lun("some", "some.img");
  await disks.add_lun("more", "some.img", 2);
  await disks.add_lun("less", "some.img", 1);
  const sizes = (await disks.list_luns()).map(({ size }) => size);
  assert.deepEqual(sizes, [1000, 2 * mebi, mebi]);
  assert.equal(statSync(join(root, "some.img")).size, 2 * mebi);
  assert.ok(log.some((line) => line.includes(`the LUN shows the first ${mebi}`)));
  // A name that is taken is replaced.
  await disks.add_lun("some", "some.img", 3);
  assert.deepEqual(
    (await disks.list_luns()).map(({ name, size, lun_id }) => [name, size, lun_id]),
    [
      ["some", 3 * mebi, 0],
      ["more", 2 * mebi, 1],
      ["less", mebi, 2],
    ],
  );
});

test("paths stay below the root", async (t) => {
  const { root, directory, disks } = await lab(t);
  await disks.start();
  for (const path of ["../x", "a/../../x", "/etc/passwd", "", ".", "a/", "x,fd_dev_size=1", "x\ny", "a\0b"]) {
    await assert.rejects(disks.add_lun("x", path, 1), failed(`Invalid file path: ${path}`), JSON.stringify(path));
  }
  mkdirSync(join(directory, "outside"));
  writeFileSync(join(directory, "outside/secret"), "secret");
  symlinkSync(join(directory, "outside"), join(root, "out"));
  symlinkSync(join(directory, "outside/secret"), join(root, "file"));
  symlinkSync(join(directory, "outside/new"), join(root, "nowhere"));
  for (const path of ["out/secret", "out/sub/x", "file", "nowhere"]) {
    await assert.rejects(disks.add_lun("x", path, 1), failed(`Path traversal attempt detected: ${path}`), path);
  }
  assert.deepEqual(readdirSync(join(directory, "outside")), ["secret"]);
  // A link inside of the root is nobody's business.
  mkdirSync(join(root, "real"));
  symlinkSync("real", join(root, "alias"));
  await disks.add_lun("x", "alias/x.img", 1);
  assert.equal((await disks.list_luns())[0]?.path, join(root, "real/x.img"));
  mkdirSync(join(root, "folder"));
  await assert.rejects(disks.add_lun("y", "folder", 1), failed(/^Failed to add LUN: /));
});

test("names that would be other directories are refused, and none is taken for an option", async (t) => {
  const { disks, configfs } = await lab(t);
  await disks.start();
  for (const name of ["", ".", "..", "a/b", "a b", "a\n", "x".repeat(201)]) {
    await assert.rejects(disks.add_lun(name, "x.img", 1), failed(`Invalid LUN name: ${name}`));
  }
  for (const args of [
    [1, "x.img"],
    ["x", "x.img", 1.5],
    ["x", "x.img", 1, "yes"],
  ]) {
    const wrong = disks.add_lun as (...args: unknown[]) => Promise<unknown>;
    await assert.rejects(wrong(...args), { code: "E_INVALID" });
  }
  assert.equal(configfs.names("core").length, 0);
});

test("block devices are those of the list, and nothing else", async (t) => {
  const directory = scratch(t);
  symlinkSync("/dev/null", join(directory, "link"));
  const list = ["/dev/null", join(directory, "missing")];
  const { disks } = await lab(t, { block_device_allowlist: list });
  await disks.start();
  await assert.rejects(
    disks.add_lun("x", "dev/sda", 0, true),
    failed("For block devices, file_path must be an absolute path"),
  );
  await assert.rejects(
    disks.add_lun("x", "/dev/zero", 0, true),
    failed("Block device path '/dev/zero' is not in the configured allowlist"),
  );
  const missing = join(directory, "missing");
  await assert.rejects(
    disks.add_lun("x", missing, 0, true),
    failed(`Failed to add LUN: Block device ${missing} does not exist`),
  );
  // Links are followed on both sides; this one leads to what is no block device.
  const link = join(directory, "link");
  await assert.rejects(disks.add_lun("x", link, 0, true), failed("Failed to add LUN: /dev/null is not a block device"));

  const strict = await lab(t);
  const empty = "block_device_allowlist is empty; configure allowed block device paths to use is_block=True";
  await assert.rejects(strict.disks.add_lun("x", "/dev/sda", 0, true), failed(empty));
});

test("initiators and their password are opt-in, and the password is in no text", async (t) => {
  const initiators = ["iqn.1993-08.org.debian:01:abc", "iqn.1993-08.org.debian:01:def"];
  const chap = { username: "lab", password: "correct horse" };
  const { disks, configfs, log } = await lab(t, { initiators, chap });
  await disks.start();
  await disks.add_lun("one", "one.img", 1);
  assert.equal(configfs.attribute(`${group}/attrib/authentication`), "1");
  assert.equal(configfs.attribute(`${group}/attrib/generate_node_acls`), "0");
  assert.deepEqual(configfs.names(`${group}/acls`), initiators);
  for (const initiator of initiators) {
    assert.equal(configfs.attribute(`${group}/acls/${initiator}/auth/password`), "correct horse");
    assert.equal(configfs.made.get(`${group}/acls/${initiator}/lun_0/lun`), `${group}/lun/lun_0`);
    assert.equal(configfs.attribute(`${group}/acls/${initiator}/lun_0/write_protect`), "0");
  }
  await disks.remove_lun("one");
  await disks.add_lun("one", "one.img", 1);
  await disks.stop();
  assert.deepEqual([...configfs.made.keys()], ["iscsi"]);

  configfs.failures.set(`write ${group}/auth/password`, "EINVAL");
  const message = `Failed to start iSCSI target server: the kernel refuses to write ${group}/auth/password: EINVAL`;
  await assert.rejects(disks.start(), failed(message));
  assert.ok(!log.join().includes("horse"), log.join());
});

test("what the kernel refuses is told, and leaves nothing half made", async (t) => {
  const { disks, configfs, exporter } = await lab(t);
  await assert.rejects(
    disks.add_lun("x", "x.img", 1),
    failed("Failed to add LUN: iSCSI target not started, call start() first"),
  );
  await assert.rejects(disks.remove_lun("x"), failed("iSCSI target not started, call start() first"));

  configfs.failures.set(`make ${group}/np/127.0.0.1:3260`, "EADDRNOTAVAIL");
  await assert.rejects(disks.start(), failed(/^Failed to start iSCSI target server: .*EADDRNOTAVAIL/));
  await disks.start();
  const before = [...configfs.made.keys()];
  for (const step of ["write core/fileio_0/x/enable", `make ${group}/lun/lun_0`, `link ${group}/lun/lun_0/backstore`]) {
    configfs.failures.set(step, "EINVAL");
    await assert.rejects(
      disks.add_lun("x", "x.img", 1),
      failed(`Failed to add LUN: the kernel refuses to ${step}: EINVAL`),
    );
    assert.deepEqual([...configfs.made.keys()], before, step);
  }
  await disks.add_lun("x", "x.img", 1);
  // One LUN that does not go keeps the others from nothing.
  await disks.add_lun("y", "y.img", 1);
  configfs.failures.set(`unlink ${group}/lun/lun_0/backstore`, "EBUSY");
  await assert.rejects(disks.stop(), failed(/^Failed to stop iSCSI target: .*EBUSY/));
  assert.deepEqual(configfs.names(`${group}/lun`), ["lun_0"]);
  await disks.stop();
  assert.deepEqual([...configfs.made.keys()], ["iscsi"]);

  // What the kernel keeps at the end of a lease is not there in the next one.
  await disks.start();
  configfs.failures.set(`remove ${group}`, "EBUSY");
  await exporter.tree.release();
  assert.ok(configfs.made.has(group));
  await exporter.tree.reset();
  assert.deepEqual([...configfs.made.keys()], ["iscsi"]);
});

test("what an agent that was killed has left is taken away before the next start", async (t) => {
  const { disks, configfs, directory, log } = await lab(t);
  const left = new Target(configfs, iqn);
  await left.start({ iqn, address: "127.0.0.1", port: 3260, initiators: ["iqn.x:a"], chap: undefined });
  await left.add("old", { isBlock: false, backing: join(directory, "old.img"), sizeBytes: mebi });
  assert.deepEqual(await disks.list_luns(), []);
  await disks.stop();
  assert.ok(configfs.made.has(group), "not its own");
  configfs.failures.set(`remove ${group}`, "EBUSY");
  await assert.rejects(disks.start(), failed(/^Failed to start iSCSI target server: .*EBUSY/));
  await disks.start();
  assert.ok(log.some((line) => line.includes("that somebody left")));
  assert.deepEqual(await disks.list_luns(), []);
  assert.deepEqual(configfs.names("core"), []);
  assert.deepEqual(configfs.names(`${group}/acls`), []);
});

test("clear_all_luns starts the target, and removes the backstores of the root that others left", async (t) => {
  const { disks, configfs, root, directory } = await lab(t);
  const foreign = async (adapter: string, path: string) => {
    await configfs.makeNew(adapter);
    await configfs.take([
      { do: "make", path: `${adapter}/x` },
      { do: "write", path: `${adapter}/x/udev_path`, text: `${path}\n` },
    ]);
  };
  await foreign("core/fileio_0", join(root, "left.img"));
  await foreign("core/fileio_1", join(directory, "elsewhere.img"));
  await foreign("core/fileio_2", `${root}-other/x.img`);
  await disks.clear_all_luns();
  assert.ok(configfs.made.has(`${group}/np/127.0.0.1:3260`));
  assert.deepEqual(configfs.names("core"), ["fileio_1", "fileio_2"]);
  await disks.add_lun("a", "a.img", 1);
  await disks.add_lun("b", "b.img", 1);
  assert.deepEqual(configfs.names("core"), ["fileio_0", "fileio_1", "fileio_2", "fileio_3"]);
  await disks.clear_all_luns();
  assert.deepEqual(await disks.list_luns(), []);
  assert.deepEqual(configfs.names("core"), ["fileio_1", "fileio_2"]);
});

test("a target has one exporter at a time", async (t) => {
  const { disks, exporter } = await lab(t, {}, ["disks", "others"]);
  const others = exporter.calls("others", iscsi);
  await disks.start();
  await assert.rejects(others.start(), failed(/another exporter of this host has the target/));
  await others.stop();
  await assert.rejects(others.add_lun("x", "x.img", 1), failed(/call start\(\) first/));
  await disks.stop();
  await others.start();
});

test("a kernel without iSCSI is a reason, and the files can still be used", async (t) => {
  const { disks, state, root } = await lab(t);
  state.missing = "the kernel has no iSCSI target: modprobe: FATAL: Module target_core_mod not found";
  const message = `Failed to start iSCSI target server: ${state.missing}`;
  await assert.rejects(disks.start(), { code: "E_DEVICE_OFFLINE", message });
  writeFileSync(join(root, "x.img.gz"), await gzip(Buffer.from("x")));
  await disks.decompress("x.img.gz", "x.img", "gz");
  assert.equal(readFileSync(join(root, "x.img"), "utf8"), "x");
  state.missing = undefined;
  await disks.start();
});

test("images are decompressed whole or not at all", async (t) => {
  const { root, directory, disks } = await lab(t, { max_decompressed_mb: 1 });
  const image = randomBytes(mebi);
  const digest = (data: Buffer) => createHash("sha256").update(data).digest("hex");
  for (const [algorithm, pack] of [
    ["gz", gzip],
    ["xz", xz],
    ["bz2", bzip2],
  ] as const) {
    const packed = await pack(image);
    writeFileSync(join(root, "x.packed"), packed);
    await disks.decompress("x.packed", `sub/x.${algorithm}.img`, algorithm);
    assert.equal(digest(readFileSync(join(root, `sub/x.${algorithm}.img`))), digest(image), algorithm);
    // Cut off, damaged, or more than is allowed: the file that was there stays.
    for (const bad of [
      packed.subarray(0, packed.length / 2),
      Buffer.from("no archive"),
      await pack(Buffer.alloc(mebi + 1)),
    ]) {
      writeFileSync(join(root, "bad"), bad);
      await assert.rejects(
        disks.decompress("bad", `sub/x.${algorithm}.img`, algorithm),
        /^AgentError: Decompression failed: /,
      );
    }
    assert.equal(digest(readFileSync(join(root, `sub/x.${algorithm}.img`))), digest(image), algorithm);
  }
  assert.deepEqual(readdirSync(join(root, "sub")).sort(), ["x.bz2.img", "x.gz.img", "x.xz.img"]);
  await assert.rejects(disks.decompress("bad", "y", "gz"), { code: "E_FAILED" });
  writeFileSync(join(root, "bomb"), await gzip(Buffer.alloc(8 * mebi)));
  await assert.rejects(disks.decompress("bomb", "y", "gz"), { code: "E_LIMIT", message: /max_decompressed_mb/ });

  await assert.rejects(
    disks.decompress("bad", "y", "zip"),
    failed("Decompression failed: Unsupported compression algo: zip"),
  );
  await assert.rejects(disks.decompress("missing", "y", "gz"), failed(/^Decompression failed: \[Errno 2\]/));
  for (const [from, to] of [
    ["../x", "y"],
    ["x", "../y"],
    ["/x", "y"],
  ] as const) {
    await assert.rejects(disks.decompress(from, to, "gz"), failed(/^Invalid path: /));
  }
  writeFileSync(join(directory, "outside"), "mine");
  symlinkSync(join(directory, "outside"), join(root, "link"));
  symlinkSync(join(root, "sub"), join(root, "folder"));
  writeFileSync(join(root, "good"), await gzip(Buffer.from("good")));
  for (const [to, what] of [
    ["link", "link"],
    ["folder/y", "folder"],
  ] as const) {
    await assert.rejects(
      disks.decompress("good", to, "gz"),
      failed(`Destination path contains symlink: ${join(root, what)}`),
    );
  }
  await assert.rejects(disks.decompress("link", "y", "gz"), failed("Path traversal attempt detected: link"));
  assert.equal(readFileSync(join(directory, "outside"), "utf8"), "mine");
});

test("configurations that cannot work are refused", async () => {
  const refused = (config: Record<string, unknown>, message: RegExp) =>
    assert.rejects(createExporter({ name: "test", export: { disks: { type, config } } }), message);
  await refused(
    { block_device_allowlist: ["dev/sda"] },
    /block_device_allowlist entry 'dev\/sda' is not an absolute path/,
  );
  await refused({ target_name: "a/b" }, /does not make a valid name/);
  await refused({ initiators: ["a b"] }, /initiators/);
  await refused({ chap: { username: "x" } }, /chap\.password/);
  await refused({ root_dir: "/a,b" }, /comma/);
  await refused({ port: 0 }, /port/);
});
