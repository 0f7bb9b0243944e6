import { readBundleDirectory } from "../../../bundles/build.ts";
import { artifactOf } from "../../../bundles/oci/artifact.ts";
import { AgentError } from "../../driver/errors.ts";
import { defineCommand } from "../command.ts";
import { copyShown, showCopy } from "./copy.ts";
import { interruptible } from "./interruptible.ts";
import { formatPlace, parseDestination, placesNote, registryOptions, writingTo } from "./places.ts";

export const build = defineCommand({
  name: "bundle build",
  summary: "Make a bundle of a directory, once its manifests and the files they name have been checked.",
  words: { usage: "DIR", least: 1, most: 1 },
  options: {
    output: {
      type: "string",
      value: "REF",
      help: "where the bundle goes: a registry, oci-layout:DIR or oci-archive:FILE",
    },
    json: { type: "boolean", help: "print one JSON object" },
    ...registryOptions,
  },
  notes: `
Every YAML file at the top of DIR is a manifest; the others become files of the bundle, except those whose names begin
with a dot. The same files make the same digest, on any host. The result is what 'oras push' would make.
${placesNote}

Example:
  jmp-agent bundle build my-board --output registry.example.com/boards/my-board:v1`,

  async run(options, [directory = ""]) {
    if (options.output === undefined) throw new AgentError("E_USAGE", "--output is missing: where the bundle goes");
    const place = parseDestination(options.output);
    return await interruptible(async (signal) => {
      const { files, manifests, unnamed } = await readBundleDirectory(directory);
      if (!manifests.has("manifest.yaml")) {
        const names = [...manifests.keys()].join(", ");
        process.stderr.write(`note: no manifest.yaml; flashers must name one (manifest: ${names})\n`);
      }
      if (unnamed.length > 0) process.stderr.write(`note: no manifest names ${unnamed.join(", ")}\n`);
      const built = await artifactOf(files, signal);
      const report = await writingTo(place, options, (sink, named) =>
        copyShown({ name: directory, ...built }, sink, named, signal),
      );
      return showCopy({ reference: formatPlace(place), ...report }, options.json);
    });
  },
});
