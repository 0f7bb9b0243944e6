import assert from "node:assert/strict";
import { test } from "node:test";
import { checkRules, conformanceFiles, rules } from "../../sim/tftp-conformance.ts";
import { folderWith, startTftp, TftpPeer } from "../../sim/tftp.ts";

test("every rule of RFC 1350, 1123, 2347, 2348, 2349 and 7440 is kept", async (t) => {
  const root = await folderWith(t);
  await conformanceFiles(root);
  const { port } = await startTftp(t, root, {
    uploads: { folder: root, maxBytes: 1 << 20 },
    // The scripts tell an answer from a repetition by the time that it takes.
    limits: { retransmitFloorMs: 300, retransmitWindowFloorMs: 300 },
  });
  const results = await checkRules(() => TftpPeer.open(t, port));
  assert.equal(results.length, rules.length);
  for (const { rule, verdict, heard } of results) {
    assert.equal(verdict, "kept", `${rule.section}, ${rule.rule}: heard ${JSON.stringify(heard)}`);
  }
});
