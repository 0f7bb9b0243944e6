import assert from "node:assert/strict";
import { test } from "node:test";
import { parseReference } from "../../../bundles/oci/reference.ts";
import { compileReferencePattern } from "../../../bundles/reference-pattern.ts";

const a = `sha256:${"a".repeat(64)}`;
const b = `sha256:${"b".repeat(64)}`;

/** What each pattern allows, and what it must not. */
const patterns: Record<string, { allows: string[]; refuses: string[] }> = {
  "quay.io/lab/*": {
    allows: ["quay.io/lab/x", "quay.io/lab/x:v1", "quay.io/lab/x/y:v1", `quay.io/lab/x@${a}`],
    refuses: ["quay.io/labor/x", "quay.io/other/lab/x", "quay.io.evil.org/lab/x", "quay.io:443/lab/x", "lab/x"],
  },
  "quay.io/lab/x:*": {
    allows: ["quay.io/lab/x", "quay.io/lab/x:v1", `quay.io/lab/x:v1@${a}`],
    refuses: ["quay.io/lab/xy", "quay.io/lab/x/y:v1", "quay.io/lab/y"],
  },
  "quay.io/*": { allows: ["quay.io/lab/x"], refuses: ["quay.io.evil.org/x/y", "quay.iox/x", "docker.io/quay/x"] },
  "localhost:5000/*": { allows: ["localhost:5000/lab/x"], refuses: ["localhost:50001/lab/x", "localhost/lab/x"] },
  "lab/*": {
    allows: ["lab/x", "docker.io/lab/x:v1"],
    refuses: ["quay.io/lab/x", "file:lab/x", "oci-layout:lab/x", "docker.io/laboratory/x"],
  },
  "quay.io/lab/x": {
    allows: ["quay.io/lab/x", "quay.io/lab/x:latest"],
    refuses: ["quay.io/lab/x:v1", "quay.io/lab/xy", `quay.io/lab/x@${a}`, `quay.io/lab/x:latest@${a}`],
  },
  [`quay.io/lab/x@${a}`]: {
    allows: [`quay.io/lab/x@${a}`, `quay.io/lab/x:v9@${a}`],
    refuses: ["quay.io/lab/x", `quay.io/lab/x@${b}`, `quay.io/lab/y@${a}`, `quay.io:443/lab/x@${a}`],
  },
  "oci-layout:/srv/bundles/*": {
    allows: ["oci-layout:/srv/bundles/x", "oci-layout:/srv/bundles/x:v1", "oci-layout:/srv/bundles/x/../y"],
    refuses: [
      "oci-layout:/srv/bundles",
      "oci-layout:/srv/bundles/../secret",
      "oci-layout:/srv/bundles-of-others/x",
      "file:/srv/bundles/x",
    ],
  },
  "oci-layout:/srv/stick:*": {
    allows: ["oci-layout:/srv/stick:v1"],
    refuses: ["oci-layout:/srv/stick", "oci-layout:/srv/sticky:v1", "oci-layout:/srv/stick/x:v1"],
  },
  "file:/srv/bundles/*": {
    allows: ["file:/srv/bundles/x", "file:/srv/bundles/./x"],
    refuses: ["file:/srv/bundles/../../etc", "file:/etc", "file:/srv/bundles", "oci-layout:/srv/bundles/x"],
  },
  "file:/srv/x": { allows: ["file:/srv/x", "file:/srv/y/../x"], refuses: ["file:/srv/x/y", "oci-layout:/srv/x"] },
};

for (const [pattern, { allows, refuses }] of Object.entries(patterns)) {
  test(`${pattern} allows what it says, and nothing that only begins alike`, () => {
    const matches = compileReferencePattern(pattern);
    for (const text of allows) assert.equal(matches(parseReference(text)), true, text);
    for (const text of refuses) assert.equal(matches(parseReference(text)), false, text);
  });
}

test("patterns that could match by accident are refused", () => {
  const refused = ["*", "quay.io*", "quay.io/lab*", "quay.io/*/x", "**", "/*", ":*", "file:*", "oci-layout:*"];
  refused.push(
    "quay.io//*",
    "quay.io/Lab/*",
    "quay.io/lab/**",
    "https://quay.io/*",
    "quay.io/lab/x:v*",
    "Not A Ref",
    "",
  );
  for (const pattern of refused) {
    assert.throws(() => compileReferencePattern(pattern), { code: "E_INVALID" }, pattern);
  }
});
