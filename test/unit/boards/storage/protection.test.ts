import assert from "node:assert/strict";
import { test } from "node:test";
import { readFacts } from "../../../../boards/storage/block/facts.ts";
import { refuseToRead, refuseToWrite, usesOf } from "../../../../boards/storage/block/protection.ts";
import { fakeKernel, mountLine, type FakeDisk } from "../../../sim/fake-disks.ts";

const card: FakeDisk = { number: "8:0", model: "SD Reader", diskSequence: 7, partitions: { sda1: "8:1", sda2: "8:2" } };

const cases: readonly {
  name: string;
  disks: Record<string, FakeDisk>;
  mounts?: string[];
  swaps?: string[];
  number?: string;
  imageBytes?: number;
  writing: RegExp | undefined;
  reading?: RegExp;
}[] = [
  {
    name: "a disk that nobody uses",
    disks: { sda: card },
    mounts: [mountLine("8:16", "/", "/dev/sdb")],
    writing: undefined,
  },
  {
    name: "a disk that is mounted itself",
    disks: { sda: card },
    mounts: [mountLine("8:0", "/media/card", "/dev/sda")],
    writing: /^\/dev\/sda \(SD Reader, 1\.0 MB\) is not written: \/dev\/sda is mounted at \/media\/card$/,
  },
  {
    name: "a disk with a mounted partition, at a folder with a space",
    disks: { sda: card },
    mounts: [mountLine("8:2", "/media/my\\040card", "/dev/sda2")],
    writing: /\/dev\/sda2 is mounted at \/media\/my card/,
  },
  {
    name: "the disk of the root file system",
    disks: { sda: card },
    mounts: [mountLine("8:1", "/", "/dev/sda1")],
    writing: /\/dev\/sda1 is mounted at \//,
    reading: /is not read: \/dev\/sda1 is mounted at \//,
  },
  {
    name: "the disk of the boot partition",
    disks: { sda: card },
    mounts: [mountLine("8:1", "/boot/efi", "/dev/sda1", "vfat")],
    writing: /\/dev\/sda1 is mounted at \/boot\/efi/,
    reading: /mounted at \/boot\/efi/,
  },
  {
    name: "a file system of its own number, by where it was mounted from",
    disks: { sda: card },
    mounts: [mountLine("0:42", "/data", "/dev/sda2", "btrfs")],
    writing: /\/dev\/sda2 is mounted at \/data/,
  },
  {
    name: "a disk below a logical volume that holds the root",
    disks: {
      sda: { ...card, heldBy: { sda2: ["dm-0"] } },
      "dm-0": { number: "253:0", volume: "vg-root", heldBy: {} },
    },
    mounts: [mountLine("253:0", "/", "/dev/mapper/vg-root")],
    writing: /\/dev\/sda2 is part of dm-0 \(vg-root\), \/dev\/dm-0, which is built on \/dev\/sda2, is mounted at \//,
    reading: /mounted at \//,
  },
  {
    name: "a disk below an encrypted volume in an array that is not mounted",
    disks: {
      sda: { ...card, heldBy: { sda1: ["md0"] } },
      md0: { number: "9:0", heldBy: { md0: ["dm-3"] } },
      "dm-3": { number: "253:3", volume: "luks" },
    },
    writing: /\/dev\/sda1 is part of md0, .*md0.* is part of dm-3 \(luks\)/,
  },
  {
    name: "swap space",
    disks: { sda: card },
    swaps: ["/dev/sda2                               partition 1048572 0 -2"],
    writing: /\/dev\/sda2 is swap space/,
    reading: /\/dev\/sda2 is swap space/,
  },
  { name: "a partition", disks: { sda: card }, number: "8:1", writing: /sda1 .*is not written: it is a partition/ },
  { name: "a read-only disk", disks: { sda: { ...card, readOnly: true } }, writing: /it is read-only/ },
  {
    name: "a disk that is too small",
    disks: { sda: card },
    imageBytes: 1_048_577,
    writing: /the image of 1\.0 MB is larger than it \(1048577 > 1048576 bytes\)/,
  },
  { name: "an image that just fits", disks: { sda: card }, imageBytes: 1_048_576, writing: undefined },
];

for (const { name, disks, mounts = [], swaps = [], number = "8:0", imageBytes, writing, reading } of cases) {
  test(`${name}: ${writing === undefined ? "written" : "refused"}`, async (t) => {
    const roots = fakeKernel(t, disks, { mounts, swaps });
    const facts = await readFacts(number, roots);
    assert.ok(facts);
    const path = `/dev/${facts.name}`;
    const write = refuseToWrite(path, facts, { sizeBytes: imageBytes }, roots);
    if (writing === undefined) await write;
    else await assert.rejects(write, { code: "E_TARGET", message: writing });
    const read = refuseToRead(path, facts, roots);
    if (reading === undefined) await read;
    else await assert.rejects(read, { code: "E_TARGET", message: reading });
  });
}

test("the disk of this very host is in use", async () => {
  const { stat } = await import("node:fs/promises");
  const { dev } = await stat("/");
  const facts = await readFacts(`${(dev >> 8) & 0xfff}:${dev & 0xff}`);
  // The root of a container is on no disk.
  if (facts === undefined) return;
  const uses = await usesOf(facts, { sys: "/sys", proc: "/proc" });
  assert.ok(uses.some(({ text, isSystem }) => isSystem && text.endsWith("is mounted at /")));
});
