import { stat } from "node:fs/promises";
import { resolve } from "node:path";
import { parsePlace, type ArchivePlace, type Place } from "./places.ts";
import type { LayoutReference } from "../../../bundles/oci/reference.ts";

/** A layout or an archive: what is carried to a lab without network. */
export type CarriedPlace = LayoutReference | ArchivePlace;

/**
 * Reads `DIR` or `FILE.tar`, or either written as a place is.
 * @throws AgentError E_USAGE
 */
export async function parseCarried(word: string): Promise<CarriedPlace> {
  if (word.startsWith("oci-layout:") || word.startsWith("oci-archive:")) {
    const place = parsePlace(word);
    if (isCarried(place)) return place;
  }
  const path = resolve(word);
  const isDirectory = await stat(path).then(
    (found) => found.isDirectory(),
    () => false,
  );
  if (word.endsWith(".tar") && !isDirectory) return { kind: "archive", path, tag: undefined };
  return { kind: "oci-layout", directory: path, tag: undefined, digest: undefined };
}

const isCarried = (place: Place): place is CarriedPlace => place.kind !== "registry";
