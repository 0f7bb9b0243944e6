// The kernel's iSCSI target, driven by an exporter; initiators read and write what it offers.
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { existsSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { Configfs } from "../../../net/iscsi/configfs.ts";
import { iscsi } from "../../../net/iscsi/interface.ts";
import { Target } from "../../../net/iscsi/target.ts";
import { Initiator } from "../../sim/iscsi-initiator.ts";
import { exporter, python } from "./lib/exporter.ts";
import { exec, modprobe, modprobeAnew, waitFor } from "./lib/system.ts";

const type = "jumpstarter_driver_iscsi.driver.ISCSI";
const iqn = "iqn.2024-06.dev.jumpstarter:target1";
const targets = "/sys/kernel/config/target";
const mebi = 2 ** 20;

async function lab(t: TestContext, config: Record<string, unknown> = {}) {
  const root = mkdtempSync(join(tmpdir(), "iscsi-"));
  t.after(() => rmSync(root, { recursive: true, force: true }));
  const { node, socketPath } = await exporter(t, {
    disks: { type, config: { root_dir: root, host: "127.0.0.1", ...config } },
  });
  return { root, socketPath, disks: node("disks").as(iscsi) };
}

/** Backstores of the kernel. */
const backstores = () => readdirSync(`${targets}/core`).filter((name) => /^(fileio|iblock)_/.test(name));

test("LUNs have numbers of their own, and give what is in their images", async (t) => {
  const { root, disks } = await lab(t);
  await disks.start();
  const image = randomBytes(mebi);
  writeFileSync(join(root, "one.img"), image);
  await disks.add_lun("one", "one.img");
  await disks.add_lun("two", "two.img", 2);
  assert.deepEqual(
    (await disks.list_luns()).map(({ name, path, size, lun_id, is_block }) => [name, path, size, lun_id, is_block]),
    [
      ["one", join(root, "one.img"), mebi, 0, false],
      ["two", join(root, "two.img"), 2 * mebi, 1, false],
    ],
  );
  assert.match(await exec("iscsi-ls", "iscsi://127.0.0.1:3260"), new RegExp(`Target:${iqn} `));
  for (const lun of [0, 1]) assert.match(await exec("iscsi-inq", `iscsi://127.0.0.1:3260/${iqn}/${lun}`), /LIO-ORG/);

  const initiator = await Initiator.login(3260, iqn);
  assert.ok((await initiator.read(0, 0, 64)).equals(image.subarray(0, 64 * 512)));
  assert.ok((await initiator.read(0, 2040, 8)).equals(image.subarray(2040 * 512)));
  const written = randomBytes(4096);
  await initiator.write(1, 100, written);
  assert.ok((await initiator.read(1, 100, 8)).equals(written));
  await initiator.logout();

  await disks.stop();
  assert.ok(readFileSync(join(root, "two.img")).subarray(51_200, 55_296).equals(written), "it is in the file");
  assert.deepEqual(backstores(), []);
  assert.deepEqual(
    readdirSync(`${targets}/iscsi`).filter((name) => name.startsWith("iqn.")),
    [],
  );
});

test("a target is taken away from under an initiator that is logged in", async (t) => {
  const { disks } = await lab(t);
  await disks.start();
  await disks.add_lun("one", "one.img", 1);
  await Initiator.login(3260, iqn);
  await disks.stop();
  assert.equal(existsSync(`${targets}/iscsi/${iqn}`), false);
  await assert.rejects(Initiator.login(3260, iqn));
  // And again, with the same names.
  await disks.clear_all_luns();
  await disks.add_lun("one", "one.img", 1);
  const initiator = await Initiator.login(3260, iqn);
  await initiator.read(0, 0, 1);
  await initiator.logout();
});

test("a block device of the list is a LUN, and one in use is refused in words", async (t) => {
  await modprobe("sd_mod");
  await modprobeAnew("scsi_debug", "dev_size_mb=8");
  const device = await waitFor("the disk", () => {
    const name = readdirSync("/sys/block").find(
      (name) =>
        existsSync(`/sys/block/${name}/device/model`) &&
        readFileSync(`/sys/block/${name}/device/model`, "utf8").trim() === "scsi_debug" &&
        existsSync(`/dev/${name}`),
    );
    return name === undefined ? undefined : `/dev/${name}`;
  });
  const { disks } = await lab(t, { block_device_allowlist: [device] });
  await disks.start();
  await disks.add_lun("disk", device, 0, true);
  const [lun] = await disks.list_luns();
  assert.deepEqual(lun, { name: "disk", path: device, size: 8 * mebi, lun_id: 0, is_block: true });
  const initiator = await Initiator.login(3260, iqn);
  const written = randomBytes(512);
  await initiator.write(0, 7, written);
  assert.ok((await initiator.read(0, 7, 1)).equals(written));
  await initiator.logout();
  // The kernel has it for the target alone.
  await assert.rejects(
    disks.add_lun("again", device, 0, true),
    /^AgentError: Failed to add LUN: the kernel refuses to write core\/iblock_1\/again\/enable: /,
  );
  assert.deepEqual(backstores(), ["iblock_0"]);
  await disks.remove_lun("disk");
  await disks.add_lun("again", device, 0, true);
  await disks.stop();
  writeFileSync(`/sys/block/${device.slice("/dev/".length)}/device/delete`, "1");
});

test("initiators that are not named, or do not know the password, stay outside", async (t) => {
  const name = "iqn.2024-06.dev.jumpstarter:friend";
  const named = await lab(t, { initiators: [name] });
  await named.disks.start();
  await named.disks.add_lun("one", "one.img", 1);
  await assert.rejects(Initiator.login(3260, iqn), /login refused: 0202/);
  const friend = await Initiator.login(3260, iqn, name);
  const written = randomBytes(512);
  await friend.write(0, 3, written);
  assert.ok((await friend.read(0, 3, 1)).equals(written));
  await friend.logout();
  await named.disks.stop();

  const secret = await lab(t, { chap: { username: "lab", password: "correct-horse" } });
  await secret.disks.start();
  await secret.disks.add_lun("one", "one.img", 1);
  await assert.rejects(Initiator.login(3260, iqn), /login refused: 0201/);
  const read = (login: string) => exec("iscsi-inq", `iscsi://${login}@127.0.0.1:3260/${iqn}/0`);
  await assert.rejects(read("lab%wrong-horse"), /Authentication|[Ll]ogin/);
  assert.match(await read("lab%correct-horse"), /Vendor:LIO-ORG/);
});

test("what an agent that was killed has left is taken away by the next one", async (t) => {
  const { root, disks } = await lab(t);
  const left = new Target(new Configfs(targets), iqn);
  writeFileSync(join(root, "left.img"), Buffer.alloc(mebi));
  await left.start({ iqn, address: "127.0.0.1", port: 3260, initiators: [], chap: undefined });
  await left.add("left", { isBlock: false, backing: join(root, "left.img"), sizeBytes: mebi });
  assert.ok(existsSync(`${targets}/iscsi/${iqn}/tpgt_1/lun/lun_0`));
  assert.deepEqual(await disks.list_luns(), []);
  await disks.start();
  assert.deepEqual(await disks.list_luns(), []);
  assert.deepEqual(backstores(), []);
});

test("the Python client serves images, plain and compressed", async (t) => {
  const { root, socketPath, disks } = await lab(t);
  const image = randomBytes(2 * mebi);
  const folder = mkdtempSync(join(tmpdir(), "images-"));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  writeFileSync(join(folder, "disk.img"), image);
  const printed = await python(socketPath, "test/kernel/guest/iscsi.py", [folder]);
  assert.match(printed, new RegExp(`127.0.0.1:3260(\\.0)? ${iqn}`));
  const luns = (await disks.list_luns()).map(({ name, size, lun_id }) => [name, size, lun_id]);
  assert.deepEqual(luns, [
    ["packed", 2 * mebi, 0],
    ["again", 2 * mebi, 1],
  ]);
  const initiator = await Initiator.login(3260, iqn);
  for (const lun of [0, 1]) {
    assert.ok((await initiator.read(lun, 0, 64)).equals(image.subarray(0, 64 * 512)));
    assert.ok((await initiator.read(lun, 4032, 64)).equals(image.subarray(4032 * 512)));
  }
  await initiator.logout();
  assert.deepEqual(readdirSync(root).sort(), ["again.img", "disk.img", "packed.img"]);
});
