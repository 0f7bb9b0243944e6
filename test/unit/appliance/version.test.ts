import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { test } from "node:test";
import { compareVersions } from "../../../appliance/update/version.ts";
import { findProgram } from "../../../agent/sys/program.ts";

/** From old to new; those of one line are the same. */
const ordered = [
  ["0.9"],
  ["1.0~rc1", "1.0~rc01"],
  ["1.0~rc2"],
  ["1.0~rc2+20260101"],
  ["1.0", "1.00", "01.0", "+1.0"],
  ["1.0-1"],
  ["1.0^1"],
  ["1.0.1"],
  ["1.0.10"],
  ["1.0.10a"],
  ["1.1"],
  ["9"],
  ["10"],
  ["100000000000000000000000"],
  ["100000000000000000000001"],
];

const pairs = ordered.flatMap((left, i) =>
  ordered.flatMap((right, j) => left.flatMap((a) => right.map((b) => [a, b, Math.sign(i - j)] as const))),
);

test("versions are compared", () => {
  for (const [a, b, verdict] of pairs) assert.equal(Math.sign(compareVersions(a, b)), verdict, `${a} and ${b}`);
});

test("systemd compares them the same way", (t) => {
  if (findProgram("systemd-analyze") === undefined) return t.skip("it needs systemd-analyze");
  const codes = new Map([
    [12, -1],
    [0, 0],
    [11, 1],
  ]);
  // Neighbours, both ways round; a process for each pair takes its time.
  for (const [a, b] of pairs.filter(([, , verdict], index) => verdict === 0 || index % 7 === 0)) {
    const { status } = spawnSync("systemd-analyze", ["compare-versions", a, b]);
    assert.equal(codes.get(status ?? NaN), Math.sign(compareVersions(a, b)), `${a} and ${b}`);
  }
});
