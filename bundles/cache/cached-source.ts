import { createReadStream } from "node:fs";
import { open, readFile, stat } from "node:fs/promises";
import { AgentError, isSystemError } from "../../agent/driver/errors.ts";
import type { Digest } from "../oci/digest.ts";
import { largestManifestBytes } from "../oci/image.ts";
import type { Source } from "../oci/source.ts";
import type { Places } from "./places.ts";
import type { BundleRecord } from "./records.ts";

/** A bundle that is here, as a place where images come from: nobody else is asked. */
export function cachedSource(places: Places, digest: Digest, record: BundleRecord): Source {
  return {
    resolve: async () => digest,
    tagged: async (tag) => (Object.hasOwn(record.beside, tag) ? record.beside[tag] : undefined),
    manifest: async (wanted) => {
      const path = places.blob(wanted);
      const { size } = await stat(path).catch((error: unknown) => absent(error, wanted));
      if (size > largestManifestBytes)
        throw new AgentError("E_LIMIT", `${wanted} has ${size} bytes, too many for a manifest`);
      const mediaType = record.blobs.find((blob) => blob.digest === wanted)?.mediaType;
      return { bytes: await readFile(path), mediaType };
    },
    blob: async ({ digest: wanted }, { from = 0 }) => {
      const file = await open(places.blob(wanted)).catch((error: unknown) => absent(error, wanted));
      return createReadStream("", { fd: file, start: from });
    },
    close: async () => {},
  };
}

function absent(error: unknown, digest: Digest): never {
  if (!isSystemError(error) || error.code !== "ENOENT") throw error;
  throw new AgentError("E_INVALID", `${digest} is not in the bundle cache`, { cause: error });
}
