import { AgentError } from "../../driver/errors.ts";
import { defineCommand } from "../command.ts";
import { cacheOption, showCached, takeIntoCache, withCache } from "./cache.ts";
import { interruptible } from "./interruptible.ts";
import { formatPlace, openSource, parsePlace, placesNote, sourceOptions } from "./places.ts";

export const pull = defineCommand({
  name: "bundle pull",
  summary: "Fetch a bundle into this host's cache, so that a flash does not have to.",
  words: { usage: "REF", least: 1, most: 1 },
  options: { json: { type: "boolean", help: "print one JSON object" }, ...cacheOption, ...sourceOptions },
  notes: `
Prints the reference, the digest and where the files are. What is in the cache already is only looked up.
${placesNote}`,

  async run(options, [word = ""]) {
    const place = parsePlace(word);
    if (place.kind === "archive") {
      throw new AgentError("E_USAGE", "flashers know no archives", { hint: "jmp-agent bundle import FILE.tar REF" });
    }
    return await interruptible((signal) =>
      withCache(options["cache-dir"], signal, async (cache) => {
        const name = formatPlace(place);
        const open = () => openSource(place, options);
        const bundle = await takeIntoCache(cache, { name, digest: place.digest, open });
        return showCached({ reference: name, ...bundle }, options.json);
      }),
    );
  },
});
