import { toAgentError } from "../agent/driver/errors.ts";
import { parseManifest } from "./manifest.ts";
import { verifying, type Digest, type Expected } from "./oci/digest.ts";
import { titleAnnotation, type ImageManifest } from "./oci/image.ts";
import type { Source } from "./oci/source.ts";
import { readTree } from "./oci/tree.ts";

/** What an image holds, as far as its manifests tell; `jmp-agent bundle inspect --json` prints it. */
export interface BundleDescription {
  readonly digest: Digest;
  /** One, or those of an index. */
  readonly images: readonly ImageDescription[];
}

interface ImageDescription {
  readonly digest: Digest;
  readonly mediaType: string;
  readonly artifactType: string | undefined;
  /** Of an index's entry, e.g. `linux/arm64`. */
  readonly platform: string | undefined;
  /** All layers together. */
  readonly bytes: number;
  readonly layers: readonly (Expected & { readonly title: string | undefined; readonly mediaType: string })[];
  readonly manifests: readonly FlasherDescription[];
}

/** A flasher manifest, or what is wrong with it. */
type FlasherDescription =
  | { readonly file: string; readonly problem: string }
  | {
      readonly file: string;
      readonly name: string;
      readonly manufacturer: string;
      readonly targets: readonly string[];
      readonly defaultTarget: string;
      readonly deviceTrees: readonly string[];
      readonly defaultDeviceTree: string | undefined;
    };

const longestManifestBytes = 1024 * 1024;

/** Reads the manifests of an image, those of OCI and those of flashers. @throws AgentError */
export async function describeBundle(
  source: Source,
  digest: Digest,
  { name, signal }: { name: string; signal: AbortSignal },
): Promise<BundleDescription> {
  const { manifests } = await readTree(source, digest, { name, signal });
  const images: ImageDescription[] = [];
  for (const { digest, raw, image, platform } of manifests) {
    if (image === undefined) continue;
    const layers = image.layers.map(({ mediaType, digest, size, annotations }) => {
      return { title: annotations?.[titleAnnotation], mediaType, digest, size };
    });
    const bytes = layers.reduce((sum, { size }) => sum + size, 0);
    const flashers = await describeFlashers(source, image, signal);
    images.push({
      digest,
      mediaType: raw.mediaType,
      artifactType: image.artifactType,
      platform,
      bytes,
      layers,
      manifests: flashers,
    });
  }
  return { digest, images };
}

async function describeFlashers(
  source: Source,
  image: ImageManifest,
  signal: AbortSignal,
): Promise<FlasherDescription[]> {
  const described: FlasherDescription[] = [];
  for (const { annotations, digest, size } of image.layers) {
    const file = annotations?.[titleAnnotation] ?? "";
    if (!/^[^/]+\.ya?ml$/.test(file) || size > longestManifestBytes) continue;
    try {
      const content = await source.blob({ digest, size }, { signal });
      const checked = content.on("error", (error) => checked.destroy(error)).pipe(verifying({ digest, size }, file));
      const { metadata, spec } = parseManifest(Buffer.concat(await checked.toArray()).toString("utf8"), file);
      described.push({
        file,
        name: metadata.name,
        manufacturer: spec.manufacturer,
        targets: Object.keys(spec.targets),
        defaultTarget: spec.default_target,
        deviceTrees: Object.keys(spec.dtb?.variants ?? {}),
        defaultDeviceTree: spec.dtb?.default,
      });
    } catch (error) {
      signal.throwIfAborted();
      described.push({ file, problem: toAgentError(error).message });
    }
  }
  return described;
}
