import assert from "node:assert/strict";
import { closeSync, openSync, readFileSync } from "node:fs";
import { basename } from "node:path";
import { test } from "node:test";
import { loadBlockCalls, POSIX_FADV_DONTNEED, requests } from "../../../agent/sys/block.ts";
import { layout, SG_IO } from "../../../agent/sys/sg-io.ts";
import { cValues, layoutExpressions, noCompiler } from "../../sim/c-values.ts";
import { loopDisk, missingLoops } from "../../sim/loop.ts";

test("numbers and structures for disks are those of the kernel's headers", { skip: noCompiler }, (t) => {
  const names = Object.keys(requests);
  const { bytes, ...members } = layout;
  const sg = layoutExpressions("struct sg_io_hdr", {
    interfaceId: "interface_id",
    direction: "dxfer_direction",
    commandLength: "cmd_len",
    senseLimit: "mx_sb_len",
    dataLength: "dxfer_len",
    data: "dxferp",
    command: "cmdp",
    sense: "sbp",
    timeout: "timeout",
    status: "status",
    senseLength: "sb_len_wr",
    hostStatus: "host_status",
    driverStatus: "driver_status",
    residue: "resid",
  });
  const values = cValues(
    t,
    ["linux/fs.h", "linux/fadvise.h", "scsi/sg.h"],
    // Headers before Linux 5.15 do not have the last one.
    [...names.map((name) => (name === "BLKGETDISKSEQ" ? "_IOR(0x12, 128, unsigned long long)" : name)), ...sg],
  );
  assert.deepEqual(values, [...Object.values(requests), bytes, ...Object.values(members)]);
  assert.deepEqual(cValues(t, ["linux/fadvise.h", "scsi/sg.h"], ["POSIX_FADV_DONTNEED", "SG_IO"]), [
    POSIX_FADV_DONTNEED,
    SG_IO,
  ]);
});

test("memory for direct reads and writes begins where it must", async () => {
  const calls = await loadBlockCalls();
  const { default: koffi } = await import("koffi");
  for (const alignment of [512, 4096, 65_536]) {
    const buffers = [1, 511, 4096, 1_000_000].map((bytes) => calls.alignedBuffer(bytes, { alignmentBytes: alignment }));
    for (const buffer of buffers) assert.equal(koffi.address(buffer) % BigInt(alignment), 0n);
    assert.deepEqual(
      buffers.map(({ length }) => length),
      [1, 511, 4096, 1_000_000],
    );
  }
});

test("a disk tells its size, its blocks and its number in the sequence", { skip: missingLoops }, async (t) => {
  const calls = await loadBlockCalls();
  const { path } = loopDisk(t, { sizeBytes: 3 * 2 ** 20 });
  const fd = openSync(path, "r");
  t.after(() => closeSync(fd));
  const { diskSequence, ...rest } = calls.geometry(fd);
  assert.deepEqual(rest, { sizeBytes: 3 * 2 ** 20, logicalBlockBytes: 512, physicalBlockBytes: 512, readOnly: false });
  const told = readFileSync(`/sys/block/${basename(path)}/diskseq`, "utf8").trim();
  assert.equal(String(diskSequence), told);
  const file = openSync("/etc/hostname", "r");
  t.after(() => closeSync(file));
  assert.throws(() => calls.geometry(file), { code: "ENOTTY" });
});
