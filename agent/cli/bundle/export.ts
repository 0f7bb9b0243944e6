import { defineCommand } from "../command.ts";
import { parseCarried } from "./carried.ts";
import { copyShown, showCopy } from "./copy.ts";
import { cacheOption } from "./cache.ts";
import { interruptible } from "./interruptible.ts";
import { formatPlace, parseSource, placesNote, readingFrom, sourceOptions, writingTo } from "./places.ts";

export const exportBundle = defineCommand({
  name: "bundle export",
  summary: "Write a bundle to a directory or a tar archive, to be carried to a lab without network.",
  words: { usage: "REF DIR|FILE.tar", least: 2, most: 2 },
  options: { json: { type: "boolean", help: "print one JSON object" }, ...cacheOption, ...sourceOptions },
  notes: `
The result is an OCI image layout, which oras, skopeo and podman read too. A directory may take several bundles; it remembers
what each is called, for 'jmp-agent bundle import'.
${placesNote}

Example:
  jmp-agent bundle export registry.example.com/boards/my-board:v1 /media/usb/bundles`,

  async run(options, [word = "", target = ""]) {
    const from = parseSource(word);
    const to = await parseCarried(target);
    const place = { ...to, tag: to.tag ?? ("tag" in from ? from.tag : undefined) };
    const called = from.kind === "registry" ? formatPlace({ ...from, digest: undefined }) : undefined;
    return await interruptible((signal) =>
      readingFrom(from, options, signal, (opened) =>
        writingTo(place, options, async (sink, { tag }) => {
          const reference = called ?? (await opened.referenceOf());
          const report = await copyShown(opened, sink, { tag, reference }, signal);
          return showCopy({ reference: formatPlace(place), ...report }, options.json);
        }),
      ),
    );
  },
});
