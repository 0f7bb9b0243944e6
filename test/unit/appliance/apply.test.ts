import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, test, type TestContext } from "node:test";
import { LogBus } from "../../../agent/driver/log.ts";
import { bootStateIn } from "../../../appliance/slots/boot-state.ts";
import { applyUpdate, rollBack, type UpdateRequest } from "../../../appliance/update/apply.ts";
import type { ExporterNow } from "../../../appliance/update/exporters.ts";
import { UpdateRecords } from "../../../appliance/update/records.ts";
import { archiveSource } from "../../../bundles/oci/archive.ts";
import type { Source } from "../../../bundles/oci/source.ts";
import { scratch } from "../../sim/agent.ts";
import { loopDisk, missingLoops } from "../../sim/loop.ts";
import { keyPair } from "../../sim/signing.ts";
import {
  description,
  grubChoice,
  holds,
  otherArchive,
  systemFiles,
  updateArchive,
  updateLab,
} from "../../sim/update-lab.ts";

const signal = AbortSignal.timeout(120_000);
const idle: ExporterNow = { exporter: "bench", pid: 1, online: true, lease: null, offline: [] };
const key = keyPair("P-256");

test("an update is written to the other slot, and tried at the next start", { skip: missingLoops }, async (t) => {
  const lab = await setUp(t);
  const record = await lab.apply();
  assert.equal(record.state, "trial");
  assert.deepEqual(grubChoice(lab.boot), { slot: "b", as: "trial" });
  assert.ok(holds(lab.boot, "b", lab.fresh, lab.disk.backing));
  assert.ok(holds(lab.boot, "a", lab.old, undefined));
  const kept = await lab.records.last();
  assert.deepEqual(kept, record);
  assert.deepEqual(record.before, [{ exporter: "bench", online: true, offlineDrivers: [] }]);
  assert.equal(record.source?.signedBy?.fingerprint, key.trusted.fingerprint);
  assert.deepEqual(record.to, { slot: "b", version: "2" });
});

describe("an update is refused, and nothing is touched", { skip: missingLoops }, () => {
  const refusals: Record<string, [Parameters<typeof setUp>[1], Partial<UpdateRequest>, string, RegExp]> = {
    "a stranger's signature": [{}, { keys: [keyPair("P-256").trusted] }, "E_SIGNATURE", /not of a trusted key/],
    "another architecture": [
      { described: { ...description, architecture: "arm64" } },
      {},
      "E_INCOMPATIBLE",
      /for arm64/,
    ],
    "another image": [{ described: { ...description, imageId: "desk" } }, {}, "E_INCOMPATIBLE", /for the image desk/],
    "an older version": [{ described: { ...description, version: "1~rc1" } }, {}, "E_INCOMPATIBLE", /older than 1/],
    "a root that does not fit": [{ rootBytes: 9 * 2 ** 20 }, {}, "E_INCOMPATIBLE", /larger than its partition/],
    "a lease": [{ exporters: [{ ...idle, lease: "l1" }] }, {}, "E_NOT_READY", /bench is leased/],
    "an artifact that is none": [{ isOther: true }, {}, "E_INVALID", /is no update/],
  };
  for (const [name, [options, request, code, message]] of Object.entries(refusals)) {
    test(name, async (t) => {
      const lab = await setUp(t, options);
      const before = lab.everything();
      await assert.rejects(lab.apply(request), { code, message });
      assert.equal(lab.everything(), before);
      const last = await lab.records.last();
      assert.deepEqual([last?.state, last?.code], ["refused", code]);
      assert.match(last?.reason ?? "", message);
    });
  }

  test("the system that runs is on trial itself", async (t) => {
    const lab = await setUp(t);
    await bootStateIn(lab.boot).write({ slot: "b", trial: "a", tries: 2, invalid: undefined });
    await assert.rejects(lab.apply(), { code: "E_NOT_READY", message: /is on trial/ });
    await assert.rejects(lab.back(), { code: "E_NOT_READY", message: /is on trial/ });
  });
});

test("a downgrade and a lease are accepted by whoever asks for it", { skip: missingLoops }, async (t) => {
  const lab = await setUp(t, { described: { ...description, version: "0.1" }, exporters: [{ ...idle, lease: "l1" }] });
  assert.equal((await lab.apply({ allowDowngrade: true, leases: "ignore" })).to?.version, "0.1");
});

for (const part of ["root", "kernel", "initrd"] as const) {
  test(`a ${part} that is not what was signed is noticed; the old system stays`, { skip: missingLoops }, async (t) => {
    const lab = await setUp(t);
    const { length } = readFileSync(lab.fresh[part]);
    const damaged: Source["blob"] = async (expected, options) => {
      const content = await lab.source.blob(expected, options);
      if (expected.size !== length) return content;
      return content.map((chunk: Buffer) => (chunk.fill(0, 100, 101), chunk));
    };
    await assert.rejects(lab.apply({ source: { ...lab.source, blob: damaged } }), { code: "E_DIGEST" });
    assert.deepEqual(grubChoice(lab.boot), { slot: "a", as: "confirmed" });
    assert.equal((await bootStateIn(lab.boot).read()).state?.invalid, "b");
    assert.deepEqual([(await lab.records.last())?.state, (await lab.records.last())?.code], ["failed", "E_DIGEST"]);
    // What is lost is not gone back to.
    await assert.rejects(lab.back(), { code: "E_NOT_READY", message: /no whole system/ });
    assert.equal((await lab.apply()).state, "trial");
  });
}

test("the system before is gone back to, on trial", { skip: missingLoops }, async (t) => {
  const lab = await setUp(t);
  await assert.rejects(lab.back(), { code: "E_NOT_READY" });
  await lab.apply();
  await bootStateIn(lab.boot).write({ slot: "b", trial: undefined, tries: 0, invalid: undefined });
  const { kind, to } = await lab.back({ slot: "b", version: "2" });
  assert.deepEqual([kind, to], ["rollback", { slot: "a", version: "1" }]);
  assert.deepEqual(grubChoice(lab.boot), { slot: "a", as: "trial" });
});

async function setUp(
  t: TestContext,
  { described = description, rootBytes = 300_000, exporters = [idle] as readonly ExporterNow[], isOther = false } = {},
) {
  const folder = scratch(t);
  const disk = loopDisk(t, { sizeBytes: 8 * 2 ** 20 });
  const [old, fresh] = [systemFiles(join(folder, "old"), 1_000), systemFiles(join(folder, "new"), rootBytes)];
  const path = join(folder, "update.tar");
  const archive = isOther
    ? await otherArchive(path, fresh.root, key)
    : await updateArchive(path, fresh, key, described);
  const lab = updateLab(folder, old, { path: disk.path, sizeBytes: 8 * 2 ** 20 });
  const records = new UpdateRecords(join(folder, "updates"));
  const source = await archiveSource(archive, "latest");
  t.after(() => source.close());
  const digest = await source.resolve(signal);
  const host = {
    ...lab,
    records,
    askExporters: () => Promise.resolve(exporters),
    log: new LogBus().logger({ source: "system", logger: "update" }),
  };
  const usual = {
    source,
    digest,
    name: "update",
    keys: [key.trusted],
    allowDowngrade: false,
    leases: "refuse",
    signal,
  } as const;
  writeFileSync(join(lab.boot, "slots/b/vmlinuz"), "from before");
  return {
    ...{ ...lab, disk, old, fresh, source, records },
    apply: (request: Partial<UpdateRequest> = {}) => applyUpdate({ ...usual, ...request }, host),
    back: (running: { slot: "a" | "b"; version: string } = { slot: "a", version: "1" }) =>
      rollBack(usual, { ...host, system: { ...lab.system, ...running } }),
    /** All that an update may change. */
    everything: () =>
      [disk.backing, ...["grub/grubenv", "grub/grubenv.safe", "slots/b/vmlinuz"].map((file) => join(lab.boot, file))]
        .map((file) => readFileSync(file).toString("base64"))
        .join(),
  };
}
