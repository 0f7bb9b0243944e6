import { defineCommand } from "../command.ts";
import { copyShown, showCopy } from "./copy.ts";
import { cacheOption } from "./cache.ts";
import { interruptible } from "./interruptible.ts";
import {
  formatPlace,
  parseDestination,
  parseSource,
  placesNote,
  readingFrom,
  sourceOptions,
  writingTo,
} from "./places.ts";

export const push = defineCommand({
  name: "bundle push",
  summary: "Copy a bundle from one place to another as it is, every byte checked.",
  words: { usage: "SOURCE DESTINATION", least: 2, most: 2 },
  options: { json: { type: "boolean", help: "print one JSON object" }, ...cacheOption, ...sourceOptions },
  notes: `
Both are a REF. The digest stays the same, and what the destination has is not sent again.
${placesNote}

Examples:
  jmp-agent bundle push oci-layout:out registry.example.com/boards/my-board:v1
  jmp-agent bundle push quay.io/boards/a:v1 registry.example.com/boards/a:v1`,

  async run(options, [source = "", destination = ""]) {
    const [from, to] = [parseSource(source), parseDestination(destination)];
    const withoutEnvironment = to.kind === "registry" && from.kind === "registry" && from.host !== to.host;
    return await interruptible((signal) =>
      readingFrom(from, { ...options, withoutEnvironment }, signal, (opened) =>
        writingTo(to, { ...options, from }, async (sink, named) => {
          const report = await copyShown(opened, sink, named, signal);
          return showCopy({ reference: formatPlace(to), ...report }, options.json);
        }),
      ),
    );
  },
});
