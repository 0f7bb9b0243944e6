import { AgentError, toAgentError } from "../../agent/driver/errors.ts";
import { verify, type Digest } from "./digest.ts";
import { readManifest, titleAnnotation, type ImageManifest, type TypedManifest } from "./image.ts";
import { withRetries } from "./retry.ts";
import type { Source } from "./source.ts";

/** A manifest or index, and what it says. */
export interface TreeManifest {
  readonly digest: Digest;
  readonly raw: TypedManifest;
  /** Undefined for an index. */
  readonly image: ImageManifest | undefined;
  /** `linux/arm64`, where an index says so. */
  readonly platform: string | undefined;
}

export interface TreeBlob {
  readonly digest: Digest;
  readonly size: number;
  /** Its title, or what it is. */
  readonly name: string;
}

/** All that belongs to an image. */
export interface ImageTree {
  /** What an index names comes before the index. */
  readonly manifests: readonly TreeManifest[];
  /** Each once. */
  readonly blobs: readonly TreeBlob[];
}

/** An index of everything is no bundle. */
const mostManifests = 100;
const deepestIndex = 3;

/**
 * Reads the manifests of an image, for all platforms if it is an index.
 * @param options.refuse told of a manifest that cannot be read or is not what it should be; by default it throws
 * @throws AgentError E_DIGEST, E_INVALID, E_LIMIT, E_CONNECTION, E_TIMEOUT
 */
export async function readTree(
  source: Pick<Source, "manifest">,
  digest: Digest,
  options: { name: string; signal: AbortSignal; refuse?: (what: Digest, error: AgentError) => void },
): Promise<ImageTree> {
  const { name, signal, refuse } = options;
  const manifests: TreeManifest[] = [];
  const blobs = new Map<Digest, TreeBlob>();
  const seen = new Set<Digest>();

  const read = async (wanted: Digest, platform: string | undefined, depth: number): Promise<void> => {
    if (seen.has(wanted)) return;
    seen.add(wanted);
    if (seen.size > mostManifests) throw new AgentError("E_LIMIT", `${name} has more than ${mostManifests} manifests`);
    if (depth > deepestIndex) throw new AgentError("E_INVALID", `${name} is an index of indexes of indexes`);
    const raw = await withRetries(() => source.manifest(wanted, signal), { signal });
    verify(raw.bytes, wanted, `the manifest of ${name}`);
    const content = readManifest(raw, name);
    if ("index" in content) {
      for (const entry of content.index.manifests) {
        const { os, architecture } = entry.platform ?? {};
        await attempt(entry.digest, os === undefined ? undefined : `${os}/${architecture}`, depth + 1);
      }
    } else {
      const { config, layers } = content.image;
      if (config !== undefined) blobs.set(config.digest, { digest: config.digest, size: config.size, name: "config" });
      for (const { digest, size, annotations } of layers) {
        blobs.set(digest, { digest, size, name: annotations?.[titleAnnotation] ?? digest });
      }
    }
    const image = "image" in content ? content.image : undefined;
    manifests.push({ digest: wanted, raw: { bytes: raw.bytes, mediaType: content.mediaType }, image, platform });
  };
  const attempt = async (...wanted: Parameters<typeof read>): Promise<void> => {
    try {
      await read(...wanted);
    } catch (error) {
      if (refuse === undefined || signal.aborted) throw error;
      refuse(wanted[0], toAgentError(error));
    }
  };
  await attempt(digest, undefined, 1);
  return { manifests, blobs: [...blobs.values()] };
}
