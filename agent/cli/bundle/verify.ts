import { formatBytes } from "../../../bundles/cache/bytes.ts";
import type { Digest } from "../../../bundles/oci/digest.ts";
import { verifyImage, type Verdict } from "../../../bundles/oci/verify.ts";
import { defineCommand } from "../command.ts";
import { cacheOption, withCache } from "./cache.ts";
import { interruptible } from "./interruptible.ts";
import { parseSource, placesNote, readingFrom, sourceOptions } from "./places.ts";

export const verify = defineCommand({
  name: "bundle verify",
  summary: "Read every byte of a bundle and compare it with its digests.",
  words: { usage: "REF", least: 1, most: 1 },
  options: { json: { type: "boolean", help: "print one JSON object" }, ...cacheOption, ...sourceOptions },
  notes: `
Prints a line for each manifest and file, and names each digest that does not match. Exit code 1 if there is any.
${placesNote}`,

  async run(options, [word = ""]) {
    const place = parseSource(word);
    if (place.kind === "cached") return await interruptible((signal) => verifyCached(place.digest, options, signal));
    return await interruptible((signal) =>
      readingFrom(place, options, signal, async ({ name, source, digest }) => {
        const verdicts: Verdict[] = [];
        await verifyImage(source, digest, {
          name,
          signal,
          onVerdict: (verdict) => {
            verdicts.push(verdict);
            if (!options.json) process.stdout.write(line(verdict));
          },
        });
        const bad = verdicts.filter(({ error }) => error !== undefined);
        if (options.json) {
          const contents = verdicts.map(({ error, ...rest }) => ({
            ...rest,
            ok: error === undefined,
            problem: error?.message,
          }));
          process.stdout.write(
            JSON.stringify({ reference: name, digest, ok: bad.length === 0, contents }, undefined, 2) + "\n",
          );
        } else {
          const verdict =
            bad.length === 0 ? "is whole" : `is damaged: ${bad.length} of ${verdicts.length} do not match`;
          process.stdout.write(`${name} (${digest}) ${verdict}\n`);
        }
        return bad.length === 0 ? 0 : 1;
      }),
    );
  },
});

/** Of a bundle in the cache, the files that were made of it are read, too. */
async function verifyCached(
  digest: Digest,
  { json, "cache-dir": directory }: { json?: true; "cache-dir"?: string },
  signal: AbortSignal,
): Promise<number> {
  const damages = await withCache(directory, signal, (cache) => cache.verify(digest));
  const ok = damages.length === 0;
  const problems = damages.map(({ name, error }) => ({ name, problem: error.message }));
  const lines = problems.map(({ name, problem }) => `BAD  ${name}  ${problem}\n`);
  const text = `${lines.join("")}${digest} ${ok ? "is whole" : "is damaged"}\n`;
  process.stdout.write(json ? JSON.stringify({ reference: digest, digest, ok, problems }, undefined, 2) + "\n" : text);
  return ok ? 0 : 1;
}

function line({ digest, name, bytes, error }: Verdict): string {
  const what = error === undefined ? formatBytes(bytes ?? 0) : error.message;
  return `${error === undefined ? "ok " : "BAD"}  ${digest}  ${name}  ${what}\n`;
}
