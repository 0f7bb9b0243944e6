import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { test } from "node:test";
import fc from "fast-check";
import { AgentError } from "../../agent/driver/errors.ts";
import { readBootState, writeBootState } from "../../appliance/slots/boot-state.ts";
import { readEnvironment, writeEnvironment } from "../../appliance/slots/grubenv.ts";
import { readUpdate, updateArtifactType } from "../../appliance/update/artifact.ts";
import { compareVersions } from "../../appliance/update/version.ts";
import { MemoryRepository } from "../sim/signing.ts";

const numRuns = 5_000;
const slot = fc.constantFrom("a" as const, "b" as const);
const maybeSlot = fc.option(slot, { nil: undefined });

test("variables come through a block as they were", () => {
  const name = fc.stringMatching(/^[A-Za-z_][A-Za-z0-9_]{0,10}$/);
  const value = fc.string({
    unit: fc.integer({ min: 0, max: 255 }).map((code) => String.fromCharCode(code)),
    maxLength: 40,
  });
  fc.assert(
    fc.property(fc.array(fc.tuple(name, value), { maxLength: 10 }), (entries) => {
      const variables = new Map(entries);
      assert.deepEqual(readEnvironment(writeEnvironment(variables)), variables);
    }),
    { numRuns },
  );
});

test("a state comes through, and a damaged one is damaged or another state, never an error", () => {
  const state = fc.record({ slot, trial: maybeSlot, tries: fc.nat(3), invalid: maybeSlot }, { noNullPrototype: true });
  const damage = fc.array(fc.tuple(fc.nat(1023), fc.nat(255)), { maxLength: 4 });
  fc.assert(
    fc.property(state, damage, fc.nat(1024), (given, changes, length) => {
      const bytes = writeBootState(given);
      assert.deepEqual(readBootState(bytes), given.trial === undefined ? { ...given, tries: 0 } : given);
      for (const [at, byte] of changes) bytes[at] = byte;
      const read = readBootState(bytes);
      assert.ok(read === undefined || ["a", "b"].includes(read.slot));
      if (length < 1024) assert.equal(readBootState(bytes.subarray(0, length)), undefined);
    }),
    { numRuns },
  );
});

test("any bytes are a block or refused", () => {
  fc.assert(
    fc.property(fc.uint8Array({ minLength: 0, maxLength: 1030 }), fc.boolean(), (bytes, isMarked) => {
      const block = Buffer.alloc(isMarked ? 1024 : bytes.length, "#");
      block.set(bytes.subarray(0, block.length));
      if (isMarked) block.write("# GRUB Environment Block\n");
      try {
        readEnvironment(block);
      } catch (error) {
        assert.ok(!isMarked && error instanceof AgentError && error.code === "E_INVALID");
      }
    }),
    { numRuns },
  );
});

test("the order of versions is an order", () => {
  const version = fc.stringMatching(/^[0-9a-c.~^+-]{0,8}$/);
  fc.assert(
    fc.property(version, version, version, (a, b, c) => {
      assert.equal(compareVersions(a, a), 0);
      assert.equal(Math.sign(compareVersions(a, b)), -Math.sign(compareVersions(b, a)) + 0);
      if (compareVersions(a, b) < 0 && compareVersions(b, c) < 0)
        assert.ok(compareVersions(a, c) < 0, `${a} ${b} ${c}`);
    }),
    { numRuns },
  );
});

test("an update that says anything of itself is understood or refused", async () => {
  const signal = AbortSignal.timeout(60_000);
  const text = fc.oneof(fc.constantFrom("1.0", "amd64", "tiny", "root.squashfs", "vmlinuz", "initrd"), fc.string());
  const layer = fc.record({ title: text, size: fc.oneof(fc.nat(), fc.integer()) });
  const config = fc.oneof(
    fc.record({ version: text, architecture: text, imageId: text }),
    fc.json().map((json) => JSON.parse(json) as unknown),
  );
  await fc.assert(
    fc.asyncProperty(config, fc.array(layer, { maxLength: 5 }), fc.boolean(), async (described, layers, isUpdate) => {
      const repository = new MemoryRepository();
      const bytes = Buffer.from(JSON.stringify(described) ?? "");
      const digest = `sha256:${createHash("sha256").update(bytes).digest("hex")}` as const;
      repository.contents.set(digest, bytes);
      const image = repository.putImage("latest", {
        artifactType: isUpdate ? updateArtifactType : "application/x",
        config: { mediaType: "application/vnd.jumpstarter.agent.update.config.v1+json", digest, size: bytes.length },
        layers: layers.map(({ title, size }) => ({
          mediaType: "application/octet-stream",
          digest,
          size,
          annotations: { "org.opencontainers.image.title": title },
        })),
      });
      try {
        const { version, root } = await readUpdate(repository, image, { name: "update", signal });
        assert.ok(isUpdate && version !== "" && root.size >= 0);
      } catch (error) {
        assert.ok(error instanceof AgentError && error.code === "E_INVALID", String(error));
      }
    }),
    { numRuns: 1_000 },
  );
});
