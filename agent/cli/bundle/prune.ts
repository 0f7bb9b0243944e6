import { formatBytes, parseBytes } from "../../../bundles/cache/bytes.ts";
import { AgentError } from "../../driver/errors.ts";
import { defineCommand } from "../command.ts";
import { cacheOption, withCache } from "./cache.ts";
import { interruptible } from "./interruptible.ts";

export const prune = defineCommand({
  name: "bundle prune",
  summary: "Remove bundles from this host's cache that nobody uses and nobody has pinned, and what belongs to none.",
  options: {
    keep: { type: "string", value: "SIZE", help: "remove no more than it takes to get down to this, e.g. 8GiB (0)" },
    unused: { type: "string", value: "DAYS", help: "only bundles that were not used for so many days (0)" },
    json: { type: "boolean", help: "print one JSON object" },
    ...cacheOption,
  },
  notes: `
The bundles not used for longest go first. What an exporter of this host uses and what is pinned stays, whatever is asked.`,

  async run(options) {
    const untilBytes = options.keep === undefined ? 0 : parseBytes(options.keep);
    if (untilBytes === undefined) throw new AgentError("E_USAGE", "--keep must be a size, such as 500MB or 8GiB");
    const days = Number(options.unused ?? "0");
    if (!/^\d{1,4}$/.test(options.unused ?? "0")) throw new AgentError("E_USAGE", "--unused must be a number of days");
    return await interruptible((signal) =>
      withCache(options["cache-dir"], signal, async (cache) => {
        const pruned = await cache.prune({ untilBytes, unusedForMs: days * 24 * 60 * 60_000, signal });
        const { removed, freedBytes } = pruned;
        const lines = [...removed, `${removed.length} bundles removed, ${formatBytes(freedBytes)} freed`];
        process.stdout.write(`${options.json ? JSON.stringify(pruned, undefined, 2) : lines.join("\n")}\n`);
        return 0;
      }),
    );
  },
});
