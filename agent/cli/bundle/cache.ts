import { BundleCache, type CachedBundle } from "../../../bundles/cache/cache.ts";
import { cacheDirectory } from "../../../bundles/cache-directory.ts";
import { signatureTagOf, type Digest } from "../../../bundles/oci/digest.ts";
import type { Source } from "../../../bundles/oci/source.ts";
import { LogBus, severities } from "../../driver/log.ts";
import type { Options } from "../command.ts";

export const cacheOption = {
  "cache-dir": {
    type: "string",
    value: "DIR",
    help: "where bundles are kept, as cache_dir in a flasher's config (the flasher's default)",
  },
} as const satisfies Options;

/** Opens the cache that the flashers of this host use, and closes it after use, or when the signal comes. */
export async function withCache<T>(
  configured: string | undefined,
  signal: AbortSignal,
  use: (cache: BundleCache) => Promise<T>,
): Promise<T> {
  const directory = await cacheDirectory(configured);
  const logs = new LogBus();
  const least = severities.indexOf("WARNING");
  logs.subscribe(({ severity, message }) => {
    if (severities.indexOf(severity) >= least) process.stderr.write(`warning: ${message}\n`);
  });
  const cache = new BundleCache({ directory, log: logs.logger({ source: "system", logger: "bundles" }) });
  const close = () => void cache.close();
  signal.addEventListener("abort", close, { once: true });
  try {
    return await use(cache);
  } finally {
    signal.removeEventListener("abort", close);
    await cache.close();
  }
}

/**
 * Takes a bundle into the cache, with its signature: a flasher that asks for one finds it without network, too.
 * @param name complete reference, as flashers use it
 */
export async function takeIntoCache(
  cache: BundleCache,
  wanted: { name: string; digest: Digest | undefined; open: () => Promise<Source> },
): Promise<CachedBundle> {
  return await cache.get({
    ...wanted,
    alsoKeep: async (source, digest, signal) => {
      const tag = signatureTagOf(digest);
      const signature = await source.tagged(tag, signal);
      return signature === undefined ? [] : [{ tag, digest: signature }];
    },
  });
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
