import { readFile } from "node:fs/promises";
import * as z from "zod";
import { isSystemError } from "../../agent/driver/errors.ts";
import { isDigest, type Digest } from "../oci/digest.ts";
import { confinedPath } from "../paths.ts";

const digest = z.custom<Digest>((text) => typeof text === "string" && isDigest(text), "not a digest");
const blob = z.object({ digest, size: z.int().min(0) });

/** `bundle.json`: what a bundle is made of. */
export const bundleRecord = z.object({
  /** The image's manifest; the bundle's digest, or one that its index names. */
  image: digest,
  /** All that came from elsewhere; manifests with their media types, which some do not say themselves. */
  blobs: z.array(blob.extend({ mediaType: z.string().optional() })),
  /** What was kept beside it, such as signatures, by their tags. */
  beside: z.record(z.string(), digest),
  files: z.array(blob.extend({ path: z.string().refine((path) => confinedPath(path) === path) })),
});
export type BundleRecord = z.output<typeof bundleRecord>;

/** Which digest a tag had when it was last asked for. */
export const referenceRecord = z.object({ reference: z.string(), digest, checked: z.iso.datetime() });
export type ReferenceRecord = z.output<typeof referenceRecord>;

/** What the system says of files that are not as they were written; anything else is trouble of another kind. */
export const damages: ReadonlySet<string> = new Set(["ENOENT", "ENOTDIR", "EISDIR", "ELOOP", "EIO"]);

/** A record that is there and whole. */
export async function readRecord<S extends z.ZodType>(path: string, schema: S): Promise<z.output<S> | undefined> {
  try {
    return schema.parse(JSON.parse(await readFile(path, "utf8")));
  } catch (error) {
    if (isSystemError(error) && !damages.has(error.code)) throw error;
    return undefined;
  }
}
