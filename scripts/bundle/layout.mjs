// Writes a bundle's files as an OCI image layout, for machines without a registry.
// usage: node scripts/bundle/layout.mjs BUNDLE LAYOUT
import { createHash } from "node:crypto";
import { mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";

const manifestType = "application/vnd.oci.image.manifest.v1+json";

const [bundle, layout] = process.argv.slice(2);
if (layout === undefined) throw new Error("usage: node scripts/bundle/layout.mjs BUNDLE LAYOUT");
const blobs = join(layout, "blobs/sha256");
mkdirSync(blobs, { recursive: true });

function put(bytes, mediaType) {
  const digest = createHash("sha256").update(bytes).digest("hex");
  writeFileSync(join(blobs, digest), bytes);
  return { mediaType, digest: `sha256:${digest}`, size: bytes.length };
}

const titles = readdirSync(bundle, { recursive: true }).filter((title) => statSync(join(bundle, title)).isFile());
const layers = titles.sort().map((title) => ({
  ...put(readFileSync(join(bundle, title)), title.endsWith(".yaml") ? "application/yaml" : "application/octet-stream"),
  annotations: { "org.opencontainers.image.title": title },
}));
const config = put(Buffer.from("{}"), "application/vnd.oci.empty.v1+json");
const artifactType = "application/vnd.oci.bundle.v1";
const manifest = { schemaVersion: 2, mediaType: manifestType, artifactType, config, layers };
const entry = {
  ...put(Buffer.from(JSON.stringify(manifest)), manifestType),
  annotations: { "org.opencontainers.image.ref.name": "latest" },
};
writeFileSync(join(layout, "index.json"), JSON.stringify({ schemaVersion: 2, manifests: [entry] }));
writeFileSync(join(layout, "oci-layout"), JSON.stringify({ imageLayoutVersion: "1.0.0" }));
