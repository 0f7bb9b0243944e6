import { BundleCache } from "../../../bundles/cache/cache.ts";
import { cacheDirectory } from "../../../bundles/cache-directory.ts";
import type { Digest } from "../../../bundles/oci/digest.ts";
import { LogBus, severities } from "../../driver/log.ts";
import type { Options } from "../command.ts";

export const cacheOption = {
  "cache-dir": {
    type: "string",
    value: "DIR",
    help: "where bundles are kept, as cache_dir in a flasher's config (the flasher's default)",
  },
} as const satisfies Options;

/** The cache that the flashers of this host use. */
export async function openCache(configured: string | undefined): Promise<BundleCache> {
  const directory = await cacheDirectory(configured);
  const logs = new LogBus();
  const least = severities.indexOf("WARNING");
  logs.subscribe(({ severity, message }) => {
    if (severities.indexOf(severity) >= least) process.stderr.write(`warning: ${message}\n`);
  });
  return new BundleCache({ directory, log: logs.logger({ source: "system", logger: "bundles" }) });
}

/** What a command prints of a bundle that is in the cache now. */
export function showCached(
  bundle: { reference: string; digest: Digest; directory: string },
  json: true | undefined,
): number {
  const { reference, digest, directory } = bundle;
  const text = `${reference}\n${digest}\n${directory}\n`;
  process.stdout.write(json ? JSON.stringify({ reference, digest, directory }, undefined, 2) + "\n" : text);
  return 0;
}
