import type { BundleCache } from "../../../bundles/cache/cache.ts";
import type { Digest } from "../../../bundles/oci/digest.ts";
import { AgentError } from "../../driver/errors.ts";
import { defineCommand } from "../command.ts";
import { cacheOption, withCache } from "./cache.ts";
import { interruptible } from "./interruptible.ts";
import { formatPlace, parseSource, type CachedPlace, type Place } from "./places.ts";

const words = { usage: "REF", least: 1, most: 1 };
const options = { json: { type: "boolean", help: "print one JSON object" }, ...cacheOption } as const;
const refNote = "REF is the digest of a bundle in the cache, or a name that 'jmp-agent bundle list' shows.";

export const pin = defineCommand({
  name: "bundle pin",
  summary: "Keep a bundle in this host's cache, whatever its limit and whatever is pruned.",
  words,
  options,
  notes: `
${refNote}
What is pinned are the files that are here; a tag that moves does not take its pin along.`,
  run: async (given, [word = ""]) => await setPin(word, true, given),
});

export const unpin = defineCommand({
  name: "bundle unpin",
  summary: "Let a bundle leave this host's cache when room is needed.",
  words,
  options,
  notes: refNote,
  run: async (given, [word = ""]) => await setPin(word, false, given),
});

async function setPin(
  word: string,
  isPinned: boolean,
  given: { readonly json?: true; readonly "cache-dir"?: string },
): Promise<number> {
  const place = parseSource(word);
  return await interruptible((signal) =>
    withCache(given["cache-dir"], signal, async (cache) => {
      const digest = await digestHere(cache, place);
      await (isPinned ? cache.pin(digest) : cache.unpin(digest));
      const reference = formatPlace(place);
      const text = given.json
        ? JSON.stringify({ reference, digest, isPinned }, undefined, 2)
        : `${isPinned ? "pinned" : "unpinned"} ${digest}`;
      process.stdout.write(`${text}\n`);
      return 0;
    }),
  );
}

/** Nobody is asked what a tag is now: it is about what is here. @throws AgentError E_INVALID if it is not here */
async function digestHere(cache: BundleCache, place: Place | CachedPlace): Promise<Digest> {
  const name = formatPlace(place);
  const pinned = place.kind === "archive" ? undefined : place.digest;
  const here = (await cache.list()).find(({ digest, references }) =>
    pinned === undefined ? references.some((reference) => reference.name === name) : digest === pinned,
  );
  if (here !== undefined) return here.digest;
  const hint = place.kind === "cached" ? "'jmp-agent bundle list' shows what is" : `jmp-agent bundle pull ${name}`;
  throw new AgentError("E_INVALID", `${name} is not in the bundle cache`, { hint });
}
