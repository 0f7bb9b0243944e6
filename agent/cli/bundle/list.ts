import { formatBytes } from "../../../bundles/cache/bytes.ts";
import type { ListedBundle } from "../../../bundles/cache/list.ts";
import { defineCommand } from "../command.ts";
import { cacheOption, withCache } from "./cache.ts";
import { interruptible } from "./interruptible.ts";

export const list = defineCommand({
  name: "bundle list",
  summary: "Show the bundles in this host's cache, the one used last first.",
  options: { json: { type: "boolean", help: "print one JSON array" }, ...cacheOption },
  notes: `
The digest can be used wherever a REF can: jmp-agent bundle export sha256:… bundle.tar`,

  async run(options) {
    return await interruptible((signal) =>
      withCache(options["cache-dir"], signal, async (cache) => {
        const bundles = await cache.list();
        const nowMs = Date.now();
        const text = options.json
          ? JSON.stringify(bundles, undefined, 2)
          : bundles.map((bundle) => show(bundle, nowMs)).join("\n") || "no bundles";
        process.stdout.write(`${text}\n`);
        return 0;
      }),
    );
  },
});

function show({ digest, sizeBytes, usedAt, isPinned, isInUse, references }: ListedBundle, nowMs: number): string {
  const state = [isInUse ? "in use" : `used ${ago(nowMs - usedAt.getTime())}`, ...(isPinned ? ["pinned"] : [])];
  const names = references.map(({ name, checkedAt }) => `  ${name}, as of ${ago(nowMs - checkedAt.getTime())}\n`);
  return `${digest}  ${formatBytes(sizeBytes)}, ${state.join(", ")}\n${names.join("")}`.trimEnd();
}

function ago(ageMs: number): string {
  const minutes = Math.max(0, Math.round(ageMs / 60_000));
  if (minutes < 120) return `${minutes} min ago`;
  return minutes < 48 * 60 ? `${Math.round(minutes / 60)} h ago` : `${Math.round(minutes / (24 * 60))} days ago`;
}
