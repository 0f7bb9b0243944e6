// The image of the appliance, started in a virtual machine: from jumpstarter.yaml to a client's call, with the power cut now and then.
// With APPLIANCE_LONG=1 the power is cut 50 times. APPLIANCE_ARCH=arm64 does it with the other image: in QEMU, too slow for every day.
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { closeSync, createReadStream, openSync, readSync, statSync } from "node:fs";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { stringify } from "yaml";
import { cachedImage } from "../../scripts/image.mjs";
import { missingPrograms } from "../../scripts/programs.mjs";
import { scratch } from "../sim/agent.ts";
import type { Lab } from "../sim/controller/controller.ts";
import { leasedShell } from "../sim/leased-shell.ts";
import { missingClient } from "../sim/python-client.ts";
import { ApplianceVm, missingMachine, type Architecture } from "./appliance-vm.ts";
import { startMeeting } from "./meeting.ts";

const architecture: Architecture = process.env["APPLIANCE_ARCH"] === "arm64" ? "arm64" : "amd64";
const isLong = process.env["APPLIANCE_LONG"] === "1";
const cuts = Number(process.env["APPLIANCE_CUTS"] ?? (isLong ? 50 : 2));

/** An emulated machine starts in half a minute, and in many times that on a host that has much else to do. */
const startLimitMs = 900_000;

const needed = ["mmdebstrap", "mksquashfs", "/usr/sbin/sfdisk", "mcopy", "zstd"];
if (architecture === "arm64" && process.arch !== "arm64")
  needed.push("arch-test", "qemu-aarch64-static", "update-binfmts");
const missing = missingPrograms(needed);
const skip =
  (missing.length > 0 && `needs ${missing.join(", ")}`) ||
  missingMachine(architecture) ||
  (process.getuid?.() !== 0 && "needs root, for an address of its own");

const exported = { power: { type: "jumpstarter_driver_power.driver.MockPower" } };

function hostConfig(lab: Lab, name: string): string {
  return stringify({
    hostname: "bench-7",
    timezone: "Europe/Berlin",
    exporters: { [name]: lab.exporterConfig(name, exported) },
  });
}

const digestOf = async (file: string) => {
  const hash = createHash("sha256");
  for await (const chunk of createReadStream(file)) hash.update(chunk as Buffer);
  return hash.digest("hex");
};

describe(`the appliance (${architecture})`, { skip }, () => {
  let lab: Lab;
  let close = async (): Promise<void> => {};
  let made: string;
  before(async () => {
    // Another one than that of this tree, for who looks for what is wrong.
    made = process.env["APPLIANCE_IMAGE"] ?? cachedImage(architecture);
    ({ lab, close } = await startMeeting(architecture === "amd64" ? "192.0.2.77" : "192.0.2.78"));
  });
  after(() => close());

  const offline = (name: string) =>
    lab.waitFor(() => lab.exporter(name).statusStreams === 0, { what: `${name} to be gone`, timeoutMs: 60_000 });

  test("starts to Registered from its jumpstarter.yaml, and comes back whenever its power is cut", async (t) => {
    lab.addExporter({ name: "bench-7", labels: { board: "bench-7" } });
    const vm = new ApplianceVm({
      architecture,
      image: join(made, "disk.img"),
      folder: scratch(t),
      files: { "jumpstarter.yaml": hostConfig(lab, "bench-7") },
    });
    t.after(() => vm.cut());
    const registered = async () => {
      const began = performance.now();
      await vm.start();
      const ended = vm.see(/(?!)/, startLimitMs);
      await Promise.race([lab.ready("bench-7", startLimitMs), ended]);
      ended.catch(() => {});
      return Math.round((performance.now() - began) / 1000);
    };
    t.diagnostic(`registered after ${await registered()} s`);
    const rootDigest = `head -c ${statSync(join(made, "root.squashfs")).size} $(findmnt -no SOURCE /) | sha256sum | cut -d ' ' -f 1`;
    const digest = `${await digestOf(join(made, "root.squashfs"))}\n`;
    assert.equal(await vm.must(rootDigest, startLimitMs), digest, "the root is what was made");

    await t.test("the old table of partitions, which a Raspberry Pi 3 starts by, is what was made", async () => {
      const table = Buffer.alloc(64);
      const disk = openSync(join(made, "disk.img"), "r");
      readSync(disk, table, 0, table.length, 446);
      closeSync(disk);
      const read = "dd if=/dev/vda bs=1 skip=446 count=64 status=none | base64 -w 0";
      assert.equal(await vm.must(read), table.toString("base64"));
    });

    await t.test("what jumpstarter.yaml says is in place", async () => {
      assert.equal(
        await vm.must("cat /proc/sys/kernel/hostname; readlink -f /etc/localtime"),
        "bench-7\n/usr/share/zoneinfo/Europe/Berlin\n",
      );
    });

    await t.test("the root cannot be written, what is in RAM can, and logs stay there", async () => {
      assert.match(await vm.must("findmnt -no FSTYPE,OPTIONS /"), /^squashfs ro/);
      for (const path of ["/x", "/usr/x", "/usr/lib/jumpstarter-agent/x"]) {
        const { code, text } = await vm.run(`touch ${path}`);
        assert.equal(code, 1, path);
        assert.match(text, /Read-only file system/);
      }
      assert.notEqual((await vm.run("mount -o remount,rw / && touch /x")).code, 0);
      assert.match(await vm.must("findmnt -no FSTYPE,OPTIONS /boot"), /^vfat ro/);
      await vm.must(
        "touch /etc/x /var/x && journalctl --header | grep -q 'File path: /run/log/journal' && test ! -e /var/log/journal",
      );
      assert.match(await vm.must("findmnt -no FSTYPE /state"), /ext4/);
    });

    await t.test("a Python client leases it and calls it", { skip: missingClient("0.9.0") }, async (t) => {
      const { code, text } = await leasedShell(t, lab, ["--selector", "board=bench-7"]);
      assert.equal(code, 0, text);
      await lab.ready("bench-7", 120_000);
    });

    const identity =
      "cat /etc/machine-id /state/ssh/ssh_host_ed25519_key.pub; blkid -p -o value -s PART_ENTRY_UUID $(findmnt -no SOURCE /state)";
    const before = await vm.must(
      `for i in $(seq 200); do [ -e /state/ssh/ssh_host_ed25519_key ] && break; sleep 1; done; ${identity}`,
      300_000,
    );
    const seconds: number[] = [];
    let interrupted = 0;
    for (let cut = 1; cut <= cuts; cut += 1) {
      // Now it works on its state; every second time it is not even up yet when the power goes again.
      await vm.must(`nohup sh -c '${work}' > /dev/null 2>&1 &`, startLimitMs);
      await sleep(Math.random() * 5_000);
      await vm.cut();
      if (cut % 2 === 0) {
        await offline("bench-7");
        await vm.start();
        await sleep(Math.random() * 30_000);
        await vm.cut();
        interrupted += 1;
      }
      await offline("bench-7");
      seconds.push(await registered());
      const { text, code } = await vm.run(`${checkWork}; test ! -e /run/state-in-ram`, startLimitMs);
      assert.equal(code, 0, `after cut ${cut}: ${text}\n${vm.console}`);
      assert.equal(await vm.must(identity), before, `after cut ${cut}`);
    }
    t.diagnostic(
      `${cuts} cuts while it worked and ${interrupted} while it started: registered after ${seconds.join(", ")} s`,
    );
    assert.equal(await vm.must(rootDigest), digest, "the root is what it was");
  });
});

/** Files of 1 MiB that are whole once they have their name, over and over. */
const work =
  "n=0; while :; do n=$((n + 1)); f=/var/lib/jumpstarter-agent/work-$((n % 8)); head -c 1M /dev/urandom > $f.new; " +
  "sha256sum < $f.new > $f.sum.new; sync $f.new $f.sum.new; mv $f.new $f.$n; mv $f.sum.new $f.$n.sum; sync /var/lib/jumpstarter-agent; " +
  "echo $n > /var/cache/jumpstarter-agent/last; done";

const checkWork =
  "for s in /var/lib/jumpstarter-agent/work-*.sum; do [ -e $s ] || continue; f=${s%.sum}; " +
  "sha256sum < $f | cmp - $s || exit 1; rm $f $s; done";
