import assert from "node:assert/strict";
import { join, resolve } from "node:path";
import { test } from "node:test";
import fc from "fast-check";
import { stringify } from "yaml";
import { AgentError } from "../../agent/driver/errors.ts";
import { bootCommandOf, dtbVariantOf, parseManifest, type FlasherManifest } from "../../bundles/manifest.ts";
import { planLayers, readManifest } from "../../bundles/oci/image.ts";
import { formatReference, parseReference } from "../../bundles/oci/reference.ts";
import { readTar } from "../../bundles/oci/tar.ts";
import { confinedPath } from "../../bundles/paths.ts";
import { bundleManifest } from "../sim/bundle.ts";
import { imageType } from "../sim/registry.ts";
import { tarOf } from "../sim/tar.ts";

const runs = { numRuns: 1000 };

/** The manifest, or undefined if it is refused with a code. */
function readIfValid(text: string): FlasherManifest | undefined {
  try {
    return parseManifest(text);
  } catch (error) {
    return coded(error);
  }
}

/** Anything but an AgentError is a bug. */
function coded(error: unknown): undefined {
  assert.ok(error instanceof AgentError, `not a coded error: ${String(error)}`);
  return undefined;
}

const segment = fc.oneof(fc.constantFrom("..", ".", "", "data", "\0", "\\", "-", "~"), fc.string({ unit: "binary" }));
const path = fc.array(segment, { maxLength: 6 }).map((segments) => segments.join("/"));

test("a confined path stays below any directory, and is its own simplest form", () => {
  fc.assert(
    fc.property(path, (text) => {
      const confined = confinedPath(text);
      if (confined === undefined) return;
      assert.ok(resolve("/bundle", confined).startsWith("/bundle/"));
      assert.equal(join("/bundle", text).replace(/\/$/, ""), join("/bundle", confined));
      assert.equal(confinedPath(confined), confined);
    }),
    { numRuns: 5000 },
  );
});

const file = fc.record({ file: path, address: fc.string() });
const manifest = fc.record({
  metadata: fc.record({ name: fc.string(), extra: fc.json() }),
  spec: fc.record(
    {
      manufacturer: fc.string(),
      link: fc.option(fc.string()),
      bootcmd: fc.string(),
      default_target: fc.string(),
      targets: fc.dictionary(fc.string(), fc.string()),
      kernel: file,
      initram: fc.option(file),
      dtb: fc.option(
        fc.record({
          default: fc.string(),
          address: fc.string(),
          variants: fc.dictionary(
            fc.string(),
            fc.oneof(path, fc.record({ file: fc.option(path), bootcmd: fc.option(fc.string()) })),
          ),
        }),
      ),
      preflash_commands: fc.array(fc.string()),
      unknown: fc.jsonValue(),
    },
    { requiredKeys: ["manufacturer", "link", "bootcmd", "default_target", "targets", "kernel"] },
  ),
});

test("a manifest is read as it was meant, or refused with a code", () => {
  fc.assert(
    fc.property(manifest, (meant) => {
      const read = readIfValid(stringify(meant));
      if (read === undefined) {
        const variants = Object.values(meant.spec.dtb?.variants ?? {}).map((one) =>
          typeof one === "string" ? one : one.file,
        );
        const paths = [meant.spec.kernel.file, meant.spec.initram?.file, ...variants].filter(
          (one) => typeof one === "string",
        );
        const lastName = (of: string) => confinedPath(of)?.split("/").at(-1);
        const boot = [meant.spec.kernel.file, meant.spec.initram?.file].filter((one) => typeof one === "string");
        const meet = boot.some((one) =>
          paths.some((other) => confinedPath(other) !== confinedPath(one) && lastName(other) === lastName(one)),
        );
        assert.ok(meet || paths.some((one) => one === "" || confinedPath(one) === undefined));
        return;
      }
      assert.equal(read.spec.kernel.file, confinedPath(meant.spec.kernel.file));
      assert.equal(read.spec.bootcmd, meant.spec.bootcmd);
      assert.deepEqual({ ...read.spec.targets }, { ...meant.spec.targets });
      for (const variant of Object.keys(read.spec.dtb?.variants ?? {})) {
        const file = dtbVariantOf(read, variant)?.file;
        if (file) assert.ok(confinedPath(file) === file);
        assert.equal(typeof bootCommandOf(read, variant), "string");
      }
    }),
    runs,
  );
});

test("no text crashes the manifest's reader", () => {
  const damaged = fc.tuple(fc.nat(bundleManifest.length), fc.nat(20), fc.string({ unit: "binary" }));
  const text = damaged.map(
    ([at, length, put]) => bundleManifest.slice(0, at) + put + bundleManifest.slice(at + length),
  );
  fc.assert(
    fc.property(fc.oneof(text, fc.string({ unit: "binary" }), fc.json()), (any) => {
      readIfValid(any);
    }),
    runs,
  );
});

test("a reference that is accepted means the same when it is written in full", () => {
  const part = fc.oneof(
    fc.constantFrom(
      "quay.io",
      "localhost",
      "[::1]",
      ":5000",
      "/",
      ":",
      "@",
      "ns",
      "repo",
      "tag",
      "oci-layout:",
      "file:",
      `sha256:${"a".repeat(64)}`,
    ),
    fc.string(),
  );
  fc.assert(
    fc.property(fc.array(part, { maxLength: 8 }), (parts) => {
      let reference;
      try {
        reference = parseReference(parts.join(""));
      } catch (error) {
        return coded(error);
      }
      const full = formatReference(reference);
      assert.deepEqual(parseReference(full), reference);
      if (reference.kind !== "registry") return undefined;
      const url = new URL(`https://${reference.host}/v2/${reference.repository}/manifests/${reference.tag}`);
      assert.equal(url.pathname, `/v2/${reference.repository}/manifests/${reference.tag}`);
      return undefined;
    }),
    { numRuns: 5000, examples: [[["A.0/", "quay.io"]]] },
  );
});

test("no image manifest crashes its reader or plans a file outside the bundle", () => {
  const layer = fc.record({
    mediaType: fc.oneof(fc.constant("application/vnd.oci.image.layer.v1.tar+gzip"), fc.string()),
    digest: fc.oneof(fc.constant(`sha256:${"a".repeat(64)}`), fc.string()),
    size: fc.oneof(fc.nat(), fc.double()),
    annotations: fc.record({ "org.opencontainers.image.title": fc.oneof(path, fc.string()) }, { requiredKeys: [] }),
  });
  const document = fc.oneof(
    fc.record({ schemaVersion: fc.constantFrom(1, 2), layers: fc.array(layer) }),
    fc.jsonValue(),
  );
  fc.assert(
    fc.property(document, fc.constantFrom(undefined, imageType, "text/html"), (any, mediaType) => {
      try {
        const read = readManifest({ bytes: Buffer.from(JSON.stringify(any)), mediaType }, "x");
        if (!("image" in read)) return;
        for (const { kind, path: planned } of planLayers(read.image, "x", 2 ** 40)) {
          if (kind === "file" || planned !== "") assert.equal(confinedPath(planned), planned);
        }
      } catch (error) {
        if (error instanceof assert.AssertionError) throw error;
        coded(error);
      }
    }),
    runs,
  );
});

test("no damaged archive crashes the reader, however its bytes are cut into chunks", async () => {
  const archive = tarOf([
    { name: "./", type: "5" },
    { name: "data/kernel", content: "k".repeat(700) },
    { name: "short", pax: { path: "data/pax", size: "3" }, content: "pax" },
    { name: "short", longName: "data/long", content: "long" },
  ]);
  const damage = fc.array(fc.tuple(fc.nat(archive.length - 1), fc.nat(255)), { maxLength: 4 });
  await fc.assert(
    fc.asyncProperty(
      damage,
      fc.array(fc.integer({ min: 1, max: 900 })),
      fc.nat(archive.length),
      async (bytes, cuts, end) => {
        const damaged = Buffer.from(archive);
        for (const [at, byte] of bytes) damaged[at] = byte;
        const whole = bytes.length > 0 ? damaged.subarray(0, end) : damaged;
        const names: string[] = [];
        try {
          for await (const entry of readTar(inChunks(whole, cuts), "x")) {
            assert.equal(confinedPath(entry.path), entry.path);
            names.push(entry.path);
          }
        } catch (error) {
          if (error instanceof assert.AssertionError) throw error;
          return coded(error);
        }
        if (bytes.length === 0) assert.deepEqual(names, ["data/kernel", "data/pax", "data/long"]);
        return undefined;
      },
    ),
    runs,
  );
});

async function* inChunks(bytes: Buffer, sizes: readonly number[]): AsyncGenerator<Buffer> {
  let at = 0;
  for (const size of sizes) {
    yield bytes.subarray(at, at + size);
    at += size;
  }
  yield bytes.subarray(at);
}
