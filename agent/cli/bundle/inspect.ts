import { formatBytes } from "../../../bundles/cache/bytes.ts";
import { describeBundle, type BundleDescription } from "../../../bundles/inspect.ts";
import { defineCommand } from "../command.ts";
import { cacheOption } from "./cache.ts";
import { interruptible } from "./interruptible.ts";
import { parseSource, placesNote, readingFrom, sourceOptions } from "./places.ts";

export const inspect = defineCommand({
  name: "bundle inspect",
  summary: "Show what a bundle holds. Only its manifests are read.",
  words: { usage: "REF", least: 1, most: 1 },
  options: { json: { type: "boolean", help: "print one JSON object" }, ...cacheOption, ...sourceOptions },
  notes: placesNote,

  async run(options, [word = ""]) {
    const place = parseSource(word);
    return await interruptible((signal) =>
      readingFrom(place, options, signal, async ({ name, source, digest }) => {
        const description = await describeBundle(source, digest, { name, signal });
        const text = options.json
          ? JSON.stringify({ reference: name, ...description }, undefined, 2)
          : show(name, description);
        process.stdout.write(`${text}\n`);
        return 0;
      }),
    );
  },
});

function show(name: string, { digest, images }: BundleDescription): string {
  const lines = [name, digest];
  for (const { digest: image, artifactType, mediaType, platform, bytes, layers, manifests } of images) {
    lines.push(
      "",
      `${artifactType ?? mediaType}${platform === undefined ? "" : ` for ${platform}`}, ${formatBytes(bytes)}`,
    );
    if (image !== digest) lines.push(image);
    for (const { title, mediaType, digest, size } of layers) {
      lines.push(`  ${formatBytes(size).padStart(9)}  ${digest.slice(0, 19)}  ${title ?? mediaType}`);
    }
    for (const manifest of manifests) {
      if ("problem" in manifest) {
        lines.push(manifest.problem);
        continue;
      }
      lines.push(`${manifest.file}: ${manifest.name} by ${manifest.manufacturer}`);
      lines.push(`  targets: ${marked(manifest.targets, manifest.defaultTarget)}`);
      if (manifest.deviceTrees.length > 0) {
        lines.push(`  device trees: ${marked(manifest.deviceTrees, manifest.defaultDeviceTree)}`);
      }
    }
  }
  return lines.map(printable).join("\n");
}

const marked = (names: readonly string[], byDefault: string | undefined) =>
  names.map((name) => (name === byDefault ? `${name} (default)` : name)).join(", ");

/** What others wrote may not move the cursor. */
const printable = (text: string) => text.replace(/[^\x20-\x7e\u00a0-\uffff]/gu, "?");
