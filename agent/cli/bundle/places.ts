import { resolve } from "node:path";
import { archiveSource } from "../../../bundles/oci/archive.ts";
import { openArchiveSink } from "../../../bundles/oci/archive-sink.ts";
import { isDigest, type Digest } from "../../../bundles/oci/digest.ts";
import { layoutSource, type LayoutSource } from "../../../bundles/oci/layout.ts";
import { openLayoutSink } from "../../../bundles/oci/layout-sink.ts";
import { formatReference, parseReference, type Reference } from "../../../bundles/oci/reference.ts";
import { openRegistrySink } from "../../../bundles/oci/registry-sink.ts";
import type { ImageName, Sink } from "../../../bundles/oci/sink.ts";
import type { Source } from "../../../bundles/oci/source.ts";
import {
  openRepository,
  parseMirrors,
  registryOptionsOf,
  type RegistryAccess,
} from "../../../bundles/registry-settings.ts";
import { AgentError } from "../../driver/errors.ts";
import type { Given, Options } from "../command.ts";
import { withCache, type cacheOption } from "./cache.ts";

const group = "Registries";

export const registryOptions = {
  "plain-http": {
    type: "string",
    value: "HOST",
    multiple: true,
    help: "registry (host or host:port) that is spoken to without TLS",
    group,
  },
  "registry-ca": { type: "string", value: "FILE", help: "PEM file of a certificate authority to trust as well", group },
} as const satisfies Options;

/** For commands that read from registries. */
export const sourceOptions = {
  ...registryOptions,
  mirror: {
    type: "string",
    value: "NAME=MIRROR",
    multiple: true,
    help: "where else content is had, asked first, as mirrors in a flasher's config: quay.io=mirror.lab:5000/quay",
    group,
  },
} as const satisfies Options;

/** For the help of every command that takes a place. */
export const placesNote = `
REF is an image in a registry ([HOST[:PORT]/]NAMESPACE/NAME[:TAG][@DIGEST]), in an image layout (oci-layout:DIR[:TAG]) or in
a tar archive of one (oci-archive:FILE[:TAG]). Where one is read, it may also be the digest of a bundle in this host's cache.
Logins are those of docker and podman, or OCI_USERNAME and OCI_PASSWORD.`;

/** A tar archive of an image layout. */
export interface ArchivePlace {
  readonly kind: "archive";
  readonly path: string;
  readonly tag: string | undefined;
}

/** Where an image is, or is to be. */
export type Place = Exclude<Reference, { kind: "file" }> | ArchivePlace;

/** A bundle in this host's cache. */
export interface CachedPlace {
  readonly kind: "cached";
  readonly digest: Digest;
}

export interface PlaceOptions extends Given<typeof sourceOptions & Partial<typeof cacheOption>> {
  /** OCI_USERNAME and OCI_PASSWORD name no registry; of two, only the one that is written to gets them. */
  readonly withoutEnvironment?: boolean;
}

/** Reads where an image is. @throws AgentError E_USAGE */
export function parseSource(text: string): Place | CachedPlace {
  return isDigest(text) ? { kind: "cached", digest: text } : parsePlace(text);
}

/** @throws AgentError E_USAGE */
export function parsePlace(text: string): Place {
  if (isDigest(text)) throw new AgentError("E_USAGE", `${text} is a digest, and names no place`);
  if (text.startsWith("oci-archive:")) {
    const [, path = "", tag] = /^(.*?)(?::(\w[\w.-]{0,127}))?$/.exec(text.slice("oci-archive:".length)) ?? [];
    if (path === "") throw new AgentError("E_USAGE", `${JSON.stringify(text)} names no file`);
    return { kind: "archive", path: resolve(path), tag };
  }
  const reference = readReference(text);
  if (reference.kind !== "file") return reference;
  throw new AgentError("E_USAGE", `${text} is a plain directory, no image`, {
    hint: "'jmp-agent bundle build DIR --output REF' makes a bundle of a directory",
  });
}

/** Reads where something goes. @throws AgentError E_USAGE */
export function parseDestination(text: string): Place {
  const place = parsePlace(text);
  if (place.kind === "archive" || place.digest === undefined) return place;
  throw new AgentError("E_USAGE", `${text}: what is written is named by a tag; its digest follows from what it is`);
}

/** What is wrong with a word of the command line is a usage error. */
function readReference(text: string): Reference {
  try {
    return parseReference(text);
  } catch (error) {
    if (!(error instanceof AgentError)) throw error;
    throw new AgentError("E_USAGE", error.message, { hint: error.hint, cause: error });
  }
}

export function formatPlace(place: Place | CachedPlace): string {
  if (place.kind === "cached") return place.digest;
  if (place.kind !== "archive") return formatReference(place);
  return `oci-archive:${place.path}${place.tag === undefined ? "" : `:${place.tag}`}`;
}

/** An image that can be read. */
export interface OpenedPlace {
  readonly name: string;
  readonly source: Source;
  readonly digest: Digest;
  /** What the image was called where it came from, if it is carried in a layout or an archive that tells. */
  referenceOf(): Promise<string | undefined>;
}

/** Opens the place of an image for reading, and closes it after use. @throws AgentError */
export async function readingFrom<T>(
  place: Place | CachedPlace,
  options: PlaceOptions,
  signal: AbortSignal,
  use: (opened: OpenedPlace) => Promise<T>,
): Promise<T> {
  if (place.kind === "cached") {
    return await withCache(options["cache-dir"], signal, async (cache) => {
      const source = await cache.source(place.digest);
      const referenceOf = async () => {
        const here = (await cache.list()).find(({ digest }) => digest === place.digest);
        return here?.references[0]?.name;
      };
      return await use({ name: place.digest, source, digest: place.digest, referenceOf });
    });
  }
  const source = await openSource(place, options);
  try {
    const pin = place.kind === "archive" ? undefined : place.digest;
    const digest = pin ?? (await source.resolve(signal));
    const referenceOf = async () => ("referenceOf" in source ? await source.referenceOf(digest) : undefined);
    return await use({ name: formatPlace(place), source, digest, referenceOf });
  } finally {
    await source.close();
  }
}

/**
 * Opens a place for writing, and closes it after use.
 * @param from where the blobs come from: what is in the same registry need not travel
 * @throws AgentError
 */
export async function writingTo<T>(
  place: Place,
  options: PlaceOptions & { from?: Place | CachedPlace },
  use: (sink: Sink, named: ImageName) => Promise<T>,
): Promise<T> {
  const sink = await openSink(place, options);
  try {
    return await use(sink, { tag: place.tag ?? "latest" });
  } finally {
    await sink.close();
  }
}

/** @throws AgentError if there is nothing at a place on disk; a registry is not asked yet */
export async function openSource(place: Place, options: PlaceOptions): Promise<Source | LayoutSource> {
  if (place.kind === "archive") return await archiveSource(place.path, place.tag);
  if (place.kind === "oci-layout") return layoutSource(place);
  return await openRepository(place, registryAccess(place.host, options));
}

async function openSink(place: Place, options: PlaceOptions & { from?: Place | CachedPlace }): Promise<Sink> {
  if (place.kind === "archive") return await openArchiveSink(place.path);
  if (place.kind === "oci-layout") return await openLayoutSink(place);
  const { from } = options;
  const isNear = from?.kind === "registry" && from.host === place.host && from.repository !== place.repository;
  return openRegistrySink(place, {
    ...(await registryOptionsOf(place, registryAccess(place.host, options))),
    mountFrom: isNear ? from.repository : undefined,
  });
}

function registryAccess(host: string, options: PlaceOptions): RegistryAccess {
  return {
    plainHttp: options["plain-http"] ?? [],
    registryCa: options["registry-ca"],
    environmentCredentialsFor: options.withoutEnvironment === true ? undefined : host,
    mirrors: parseMirrors(options.mirror ?? []),
    onMirrorFailure: (mirror, { message }) =>
      process.stderr.write(`warning: the mirror ${mirror} is not used: ${message}\n`),
  };
}
