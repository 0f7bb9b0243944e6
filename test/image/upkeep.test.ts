// The life of an appliance in a virtual machine, from the card that the agent writes: SSH, updates good and bad, what it writes when it has
// nothing to do, a damaged state. With APPLIANCE_LONG=1 also updates whose agent does not come up, and power cuts; APPLIANCE_CUTS says how many.
import assert from "node:assert/strict";
import { execFileSync, spawnSync } from "node:child_process";
import { mkdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { stringify } from "yaml";
import { cachedImage } from "../../scripts/image.mjs";
import { missingPrograms } from "../../scripts/programs.mjs";
import { freePort, scratch } from "../sim/agent.ts";
import type { Lab } from "../sim/controller/controller.ts";
import { loopDisk, missingLoops } from "../sim/loop.ts";
import { ApplianceVm, missingMachine } from "./appliance-vm.ts";
import { startMeeting } from "./meeting.ts";
import { makeUpdateStick, stickPrograms, versionOf, type UpdateKind } from "./update-stick.ts";

const isLong = process.env["APPLIANCE_LONG"] === "1";
const cuts = Number(process.env["APPLIANCE_CUTS"] ?? 6);
const idleMinutes = isLong ? 10 : 1;

/** An emulated machine starts in half a minute, and in many times that on a host that has much else to do. */
const limitMs = 900_000;

const missing = missingPrograms(["mmdebstrap", "zstd", "ssh", "ssh-keygen", ...stickPrograms]);
const skip = (missing.length > 0 && `needs ${missing.join(", ")}`) || missingMachine("amd64") || missingLoops;

const mib = 2 ** 20;
/** Of the image: scripts/image/disk.mjs. */
const stateAt = 1540 * mib;
const diskBytes = 4096 * mib;
/** Of an ext4 with blocks of 4 KiB: each group may begin with a copy of the superblock and the descriptors. */
const groupBytes = 128 * mib;
const superblock = [0, 8192] as const;

describe("an appliance", { skip }, () => {
  const name = "bench-8";
  let lab: Lab;
  let close = async (): Promise<void> => {};
  let made: string;
  before(async () => {
    made = process.env["APPLIANCE_IMAGE"] ?? cachedImage("amd64");
    ({ lab, close } = await startMeeting("192.0.2.79"));
  });
  after(() => close());

  test("is flashed by the agent, updated, and comes back from what goes wrong", async (t) => {
    const folder = scratch(t);
    const { stick, key } = makeUpdateStick(made, join(folder, "updates"), [
      ...(["good", "forged", "crash"] as const),
      ...(isLong ? (["mute", "absent"] as const) : []),
    ]);
    let card = "";
    await t.test("the agent writes the image to a card", (t) => {
      card = join(folder, "card");
      mkdirSync(card);
      const { path, backing } = loopDisk(t, { folder: card, sizeBytes: 2048 * mib });
      const packed = join(folder, "image.zst");
      execFileSync("zstd", ["-q", "-1", join(made, "disk.img"), "-o", packed]);
      const words = ["--import", "tsx", "test/sim/flash-storage-process.ts", path, packed, join(folder, "receipts")];
      execFileSync(process.execPath, words, { stdio: "pipe" });
      const { size } = statSync(join(made, "disk.img"));
      execFileSync("cmp", ["-n", String(size), backing, join(made, "disk.img")]);
      // The card goes with the loop device.
      execFileSync("cp", ["--sparse=always", backing, join(folder, "card.img")]);
    });

    for (const one of ["me", "stranger"]) {
      execFileSync("ssh-keygen", ["-q", "-t", "ed25519", "-N", "", "-f", join(folder, one)]);
    }
    const sshPort = await freePort();
    lab.addExporter({ name, labels: { board: name } });
    const power = { type: "jumpstarter_driver_power.driver.MockPower" };
    const config = stringify({
      hostname: name,
      ssh: { authorized_keys: [readFileSync(join(folder, "me.pub"), "utf8").trim()] },
      update_keys: { lab: key },
      exporters: { [name]: lab.exporterConfig(name, { power }) },
    });
    const vm = new ApplianceVm({
      ...{ image: join(folder, "card.img"), folder: join(folder, "vm"), diskBytes },
      files: { "jumpstarter.yaml": config },
      ports: { 22: sshPort },
      words: [
        ...["-device", "qemu-xhci", "-drive", `if=none,id=stick,format=raw,readonly=on,file=${stick}`],
        ...["-device", "usb-storage,drive=stick,removable=on"],
      ],
    });
    t.after(() => vm.cut());

    /** Waits for something in the lab, but not when the machine has ended. */
    const whileItRuns = async <T>(work: Promise<T>): Promise<T> => {
      const ended = vm.see(/(?!)/, limitMs + 60_000);
      ended.catch(() => {});
      return (await Promise.race([work, ended])) as T;
    };
    const registered = () => whileItRuns(lab.ready(name, limitMs));
    const gone = () =>
      lab.waitFor(() => lab.exporter(name).statusStreams === 0, { what: `${name} to be gone`, timeoutMs: limitMs });
    /** Turns it on, or lets it start anew, until it is registered. @returns what GRUB has started, one after the other, and how long that took from the first of them */
    const comesBack = async (starts = 1) => {
      const seen: string[] = [];
      let began = 0;
      while (seen.length < starts) {
        const { slot, as } = await vm.systemStarted(limitMs);
        began ||= performance.now();
        seen.push(`${slot} ${as}`);
      }
      await registered();
      return { seen, seconds: Math.round((performance.now() - began) / 1000) };
    };
    const update = (kind: UpdateKind, words = "") =>
      `mountpoint -q /mnt || mount -o ro /dev/sda /mnt; jmp-agent update /mnt/${kind}.tar ${words} 2>&1`;
    const status = async () =>
      JSON.parse(await vm.must("jmp-agent update status --json", limitMs)) as {
        slots: Record<string, { version: string; role: string; runs: boolean }>;
        bootState: object;
        last: { state: string; reason?: string; steps: { name: string; durationMs: number }[] } | null;
      };
    const version = async () => await vm.must(". /usr/lib/os-release; printf %s $IMAGE_VERSION", limitMs);
    const confirmed = async () => {
      await vm.must("systemctl start jumpstarter-agent-confirm.service", limitMs);
      return await status();
    };

    await vm.start();
    const first = await comesBack();
    t.diagnostic(`registered ${first.seconds} s after GRUB`);
    assert.deepEqual(first.seen, ["a confirmed"]);
    const old = await version();

    /** How long an update took to be written. */
    let writingS = 0;

    await t.test("a key from jumpstarter.yaml logs in over SSH, nothing else does", async () => {
      await vm.must("systemctl start ssh.service; systemctl is-active ssh.service", limitMs);
      const hostKey = await vm.must("cat /state/ssh/ssh_host_ed25519_key.pub");
      const login = (...words: string[]) => {
        const options = ["UserKnownHostsFile=/dev/null", "StrictHostKeyChecking=no", "ConnectTimeout=120"];
        const all = [...options, ...words].flatMap((word) => ["-o", word]);
        const more = ["-F", "/dev/null", "-p", String(sshPort), "-n", "root@127.0.0.1"];
        return spawnSync("ssh", [...all, ...more, "hostname; cat /state/ssh/ssh_host_ed25519_key.pub"], {
          ...{ encoding: "utf8", timeout: 300_000 },
          // Who asks for a password gets one.
          env: { PATH: process.env["PATH"], SSH_ASKPASS: "/bin/true", SSH_ASKPASS_REQUIRE: "force" },
        });
      };
      const withKey = (one: string) => [`IdentityFile=${join(folder, one)}`, "IdentitiesOnly=yes"];
      const mine = login(...withKey("me"), "BatchMode=yes");
      assert.equal(mine.status, 0, mine.stderr);
      assert.equal(mine.stdout, `${name}\n${hostKey}`);
      for (const words of [withKey("stranger"), ["PubkeyAuthentication=no"]]) {
        const refused = login(...words);
        assert.equal(refused.status, 255, refused.stderr);
        // In parentheses is what the server would take.
        assert.match(refused.stderr, /Permission denied \(publickey\)/);
      }
    });

    await t.test("a stranger's update, and one during a lease, are refused and change nothing", async () => {
      const look =
        "sha256sum /boot/grub/*; find /boot/slots -type f; head -c 8M /dev/disk/by-partlabel/root-b | sha256sum";
      const before = await vm.must(look, limitMs);
      const forged = await vm.run(update("forged"), limitMs);
      assert.equal(forged.code, 1, forged.text);
      assert.match(forged.text, /has no signature that counts: a signature is not of a trusted key/);
      lab.createLease({ client: "ann", selector: `board=${name}`, name: "busy" });
      await lab.waitFor(() => lab.records.statuses.at(-1)?.name === "LEASE_READY", {
        what: "the lease",
        timeoutMs: limitMs,
      });
      const leased = await vm.run(update("good"), limitMs);
      assert.equal(leased.code, 1, leased.text);
      assert.match(leased.text, /bench-8 is leased, and an update ends with a new start of the host/);
      assert.equal(await vm.must(look, limitMs), before);
      assert.equal((await status()).last?.state, "refused");
    });

    await t.test(
      "a good update waits for the end of the lease, is tried, and confirmed when all is registered again",
      async (t) => {
        await vm.must(`nohup sh -c '${update("good", "--when-free")}' > /run/update.log 2>&1 &`);
        await vm.must("until grep -q 'waiting for the end' /run/update.log; do sleep 1; done", limitMs);
        lab.deleteLease("busy");
        const { seen, seconds } = await comesBack();
        assert.deepEqual(seen, ["b trial"]);
        assert.equal(await version(), versionOf("good"));
        const { slots, last } = await confirmed();
        assert.equal(last?.state, "confirmed");
        assert.deepEqual(
          [slots["a"], slots["b"]].map((slot) => [slot?.version, slot?.role, slot?.runs]),
          [
            [old, "spare", false],
            [versionOf("good"), "confirmed", true],
          ],
        );
        writingS = last.steps.reduce((sum, { durationMs }) => sum + durationMs, 0) / 1_000;
        const steps = last.steps.map(({ name, durationMs }) => `${name} ${(durationMs / 1000).toFixed(1)} s`);
        t.diagnostic(`${steps.join(", ")}; registered ${seconds} s after GRUB`);
      },
    );

    await t.test("with nothing to do it writes nearly nothing, and is small", async (t) => {
      const unit = "jumpstarter-agent.service";
      const look = async () => {
        const memory = `for pid in $(cat /sys/fs/cgroup/system.slice/${unit}/cgroup.procs); do cat /proc/$pid/smaps_rollup; done`;
        const text = await vm.must(
          `cat /sys/block/vda/stat; systemctl show -P CPUUsageNSec ${unit}; ${memory}`,
          limitMs,
        );
        const [disk = "", cpu] = text.split("\n");
        const megabytes = (field: string) =>
          [...text.matchAll(new RegExp(`^${field}: +(\\d+) kB`, "gm"))].reduce(
            (sum, [, kb]) => sum + Number(kb) / 1e3,
            0,
          );
        // The seventh field, in sectors of 512 bytes: Documentation/block/stat.rst of Linux.
        const written = Number(disk.trim().split(/ +/)[6]) * 512;
        return {
          atMs: performance.now(),
          written,
          cpuS: Number(cpu) / 1e9,
          rss: megabytes("Rss"),
          pss: megabytes("Pss"),
        };
      };
      // A new file system is still being laid out in the background.
      await vm.must(
        "for i in $(seq 600); do pgrep -x ext4lazyinit > /dev/null || exit 0; sleep 1; done; exit 1",
        limitMs,
      );
      const first = await look();
      let [now, hours, bytes] = [first, 0, 0];
      // What it writes now and then evens out in time, and what it writes all the time does not.
      for (let minute = 1; minute <= idleMinutes || (bytes / hours > 1e6 && minute <= 10); minute += 1) {
        await sleep(60_000);
        now = await look();
        hours = (now.atMs - first.atMs) / 3_600_000;
        bytes = now.written - first.written;
      }
      const cpu = ((now.cpuS - first.cpuS) / (hours * 3_600)) * 100;
      t.diagnostic(
        `idle for ${Math.round(hours * 3_600)} s: ${bytes} bytes written, ${cpu.toFixed(1)} % of an emulated core, ` +
          `RSS ${now.rss.toFixed(0)} MB, PSS ${now.pss.toFixed(0)} MB`,
      );
      assert.ok(bytes / hours <= 1e6, `${Math.round(bytes / hours)} bytes an hour`);
      assert.ok(now.rss <= 120, `${now.rss} MB`);
    });

    /** Puts an update on trial, and lets the host start with it. */
    const tryOut = async (kind: UpdateKind) => {
      await vm.must(update(kind, "--allow-downgrade --no-reboot"), limitMs);
      await vm.must("systemctl reboot", limitMs);
    };

    await t.test("a system that does not come up is given up after three starts", async (t) => {
      await tryOut("crash");
      const { seen, seconds } = await comesBack(4);
      assert.deepEqual(seen, ["a trial", "a trial", "a trial", "b confirmed"]);
      assert.equal(await version(), versionOf("good"));
      const { last } = await confirmed();
      assert.equal(last?.state, "rolled-back");
      t.diagnostic(`registered ${seconds} s after the first try`);
    });

    /** Turns it on again with a disk that has been damaged. */
    const afterDamage = async (places: (readonly [number, number])[]) => {
      await vm.cut();
      await gone();
      vm.spoil(places.map(([offset, length]) => [stateAt + offset, length]));
      await vm.start();
      const { seconds } = await comesBack();
      await vm.must("findmnt -no FSTYPE /state | grep -qx ext4; test ! -e /run/state-in-ram", limitMs);
      const said = [...vm.console.matchAll(/appliance: (.*)/g)].map(([, words = ""]) => words);
      return { seconds, said, identity: await vm.must(identity) };
    };
    const identity = "cat /etc/machine-id /state/ssh/ssh_host_ed25519_key.pub";

    await t.test("a state whose superblock is lost is repaired, and keeps what it holds", async (t) => {
      const before = await vm.must(identity, limitMs);
      const { seconds, said, identity: now } = await afterDamage([superblock]);
      t.diagnostic(`registered after ${seconds} s: ${said.join("; ")}`);
      assert.equal(now, before);
    });

    if (!isLong) return;

    await t.test("a state that cannot be repaired is made anew", async (t) => {
      const copies = Array.from({ length: Math.ceil((diskBytes - stateAt) / groupBytes) - 1 }, (_, group) => {
        return [(group + 1) * groupBytes, 64 * 1024] as const;
      });
      const before = await vm.must(identity, limitMs);
      const { seconds, said, identity: now } = await afterDamage([superblock, ...copies]);
      t.diagnostic(`registered after ${seconds} s: ${said.join("; ")}`);
      assert.notEqual(now, before, "it is another host");
    });

    await t.test("a state with damaged tables comes back", async (t) => {
      for (let time = 0; time < 2; time += 1) {
        // Descriptors, bitmaps and tables of inodes are in front.
        const places = Array.from(
          { length: 12 },
          () => [4096 * Math.floor(Math.random() * 12_000), 64 * 1024] as const,
        );
        const { seconds, said } = await afterDamage(places);
        t.diagnostic(`registered after ${seconds} s: ${said.join("; ")}`);
      }
    });

    await t.test("a system whose agent does not work at all is given up after three starts", async (t) => {
      await tryOut("mute");
      const { seen, seconds } = await comesBack(4);
      assert.deepEqual(seen, ["a trial", "a trial", "a trial", "b confirmed"]);
      assert.equal((await confirmed()).last?.state, "rolled-back");
      t.diagnostic(`registered ${seconds} s after the first try`);
    });

    await t.test("a system whose exporters do not come up is given up when their time is over", async (t) => {
      await tryOut("absent");
      const { seen, seconds } = await comesBack(2);
      assert.deepEqual(seen, ["a trial", "b confirmed"]);
      const { last } = await confirmed();
      assert.equal(last?.state, "rolled-back");
      assert.match(last.reason ?? "", /not confirmed within 90 s: bench-8 does not run/);
      t.diagnostic(`registered ${seconds} s after the first try`);
    });

    await t.test(`the power is cut while an update is written, or tried (${cuts})`, async (t) => {
      const seen: string[] = [];
      for (let cut = 1; cut <= cuts; cut += 1) {
        const words = update("good", "--allow-downgrade --no-reboot");
        if (cut % 2 === 1) {
          await vm.must(`nohup sh -c '${words}' > /run/update.log 2>&1 &`);
          await sleep(Math.random() * writingS * 1_500);
        } else {
          await vm.must(words, limitMs);
          await vm.must("systemctl reboot", limitMs);
          await vm.systemStarted(limitMs);
          await sleep(Math.random() * 60_000);
        }
        await vm.cut();
        await gone();
        await vm.start();
        const { seen: started, seconds } = await comesBack();
        const { last, slots } = await confirmed();
        assert.match(last?.state ?? "", /^(failed|confirmed)$/);
        assert.ok(Object.values(slots).some(({ role, runs }) => role === "confirmed" && runs));
        seen.push(`${cut % 2 === 1 ? "written" : "tried"}: ${started[0]}, ${last?.state}, ${seconds} s`);
      }
      t.diagnostic(seen.join("; "));
    });
  });
});
