import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { backstoreOf, freeLun, lunId, removeTargetSteps, sizeOf, startSteps } from "../../../../net/iscsi/protocol.ts";

test("what the kernel says of its objects", () => {
  assert.equal(backstoreOf("../../../../../../target/core/fileio_0/one"), "core/fileio_0/one");
  assert.equal(backstoreOf("/sys/kernel/config/target/core/iblock_12/a.b"), "core/iblock_12/a.b");
  for (const link of ["", "core/fileio_0", "core/alua_0/x", "xcore/fileio_0/y", "core/fileio_0/a/b"]) {
    assert.equal(backstoreOf(link), undefined, link);
  }
  const info =
    "Status: ACTIVATED  Max Queue Depth: 0  SectorSize: 512\n  TCM FILEIO ID: 0  File: /x Size: 7  Size: 1048576  Mode: O_DSYNC";
  assert.equal(sizeOf(info), 1_048_576);
  assert.equal(sizeOf("Status: DEACTIVATED"), undefined);
  assert.deepEqual(["lun_0", "lun_17", "lun_x", "lun_", "alun_1", "lun_123456"].map(lunId), [
    0,
    17,
    ...Array<undefined>(4),
  ]);
});

test("portals of both families, and a target that was not finished", () => {
  const portal = { iqn: "iqn.x:y", port: 3260, initiators: [], chap: undefined };
  const portals = ["10.0.0.1", "fd00::1"].map((address) =>
    startSteps({ ...portal, address }).find(({ path }) => path.includes("/np/")),
  );
  assert.deepEqual(portals, [
    { do: "make", path: "iscsi/iqn.x:y/tpgt_1/np/10.0.0.1:3260" },
    { do: "make", path: "iscsi/iqn.x:y/tpgt_1/np/[fd00::1]:3260" },
  ]);
  assert.deepEqual(removeTargetSteps("iqn.x:y", { hasGroup: false, luns: [], acls: [], portals: [] }), [
    { do: "remove", path: "iscsi/iqn.x:y" },
  ]);
});

test("the first free number is the first free number", () => {
  fc.assert(
    fc.property(fc.uniqueArray(fc.nat(20)), (taken) => {
      const free = freeLun(taken.map((id) => ({ id })));
      assert.ok(!taken.includes(free));
      for (let id = 0; id < free; id += 1) assert.ok(taken.includes(id));
    }),
  );
});

test("any text of the kernel is read or not, and a link never leads out of the backstores", () => {
  fc.assert(
    fc.property(fc.string(), (text) => {
      sizeOf(text);
      lunId(text);
      const path = backstoreOf(text) ?? backstoreOf(`core/fileio_0/${text}`);
      if (path !== undefined) assert.match(path, /^core\/[a-z_]+\d+\/[^/]+$/);
    }),
  );
});
