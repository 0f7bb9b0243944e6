import { pipeline, Readable } from "node:stream";
import { createGunzip } from "node:zlib";
import { AgentError } from "../../agent/driver/errors.ts";
import { findCredential } from "../../agent/stream/registry-credentials.ts";
import { verify, type Digest, type Expected } from "../oci/digest.ts";
import { chooseImage, readManifest, titleAnnotation, type ImageManifest } from "../oci/image.ts";
import { layoutSource } from "../oci/layout.ts";
import { formatReference, parseReference } from "../oci/reference.ts";
import { openRegistry } from "../oci/registry.ts";
import type { Source } from "../oci/source.ts";
import { readTar } from "../oci/tar.ts";

/** How registries may be spoken to. */
export interface RegistryAccess {
  /** `host` or `host:port` that are spoken to without TLS. */
  readonly plainHttp: readonly string[];
}

/** A disk image in an OCI image: one of its layers, or the only file of one. */
export interface OciImage {
  readonly name: string;
  /** The layer that holds it. */
  readonly expected: Expected;
  /** The layer's bytes from an offset on. They are not checked yet. */
  openBlob(from: number, signal: AbortSignal): Promise<Readable>;
  /** The disk image in the layer's bytes. */
  content(blob: Readable): Readable;
  close(): Promise<void>;
}

/** What boards are, as a rule; an index with only one image needs no choice. */
const boardPlatform = "linux/arm64";
const archiveType = /\.tar(?:[.+]gzip)?$/;
const compressedType = /[.+]gzip$/;
const diskImageName = /\.(?:img|raw|wic|bin|simg)(?:\.(?:gz|xz|bz2|zst))?$/i;

/**
 * Finds the disk image behind `oci://HOST/NAME:TAG` or `oci-layout:DIR`.
 * @param ca PEM text of authorities that registries may use beside the usual ones
 * @throws AgentError E_INVALID, E_DIGEST, E_CONNECTION, E_TIMEOUT
 */
export async function locateOciImage(
  text: string,
  { ca, registry, signal }: { ca?: string | undefined; registry?: RegistryAccess | undefined; signal: AbortSignal },
): Promise<OciImage> {
  const reference = parseReference(text.replace(/^oci:\/\//, ""));
  const name = formatReference(reference);
  if (reference.kind === "file") throw new AgentError("E_INVALID", `${name} is no OCI image`);
  const source =
    reference.kind === "oci-layout"
      ? layoutSource(reference)
      : openRegistry(reference, {
          plainHttp: registry?.plainHttp ?? [],
          ca,
          // The user who named the registry is the one who set the variables.
          credential: await findCredential(reference.host, reference.repository, { useEnvironment: true }),
        });
  try {
    const digest = reference.digest ?? (await source.resolve(signal));
    const { layer, title } = chooseLayer(await readImage(source, digest, name, signal), name);
    const { digest: blob, size, mediaType } = layer;
    const expected = { digest: blob, size };
    return {
      name: title === undefined ? name : `${name} ${title}`,
      expected,
      openBlob: (from, during) => source.blob(expected, { signal: during, from }),
      content: (bytes) => (archiveType.test(mediaType) ? onlyFile(bytes, mediaType, name) : bytes),
      close: () => source.close(),
    };
  } catch (error) {
    await source.close();
    throw error;
  }
}

async function readImage(source: Source, digest: Digest, name: string, signal: AbortSignal): Promise<ImageManifest> {
  const raw = await source.manifest(digest, signal);
  verify(raw.bytes, digest, name);
  const read = readManifest(raw, name);
  if ("image" in read) return read.image;
  const chosen = chooseImage(read.index, boardPlatform, name);
  const inner = await source.manifest(chosen.digest, signal);
  verify(inner.bytes, chosen.digest, name);
  const nested = readManifest(inner, name);
  if ("image" in nested) return nested.image;
  throw new AgentError("E_INVALID", `${name} is an index of indexes`);
}

/** The only layer, or else the only one that is called like a disk image. */
function chooseLayer({ layers }: ImageManifest, name: string) {
  const titled = layers.map((layer) => ({ layer, title: layer.annotations?.[titleAnnotation] }));
  const images = titled.filter(({ title }) => title !== undefined && diskImageName.test(title));
  for (const candidates of [titled, images]) {
    const [only, ...others] = candidates;
    if (only !== undefined && others.length === 0) return only;
  }
  const titles = titled.map(({ title }) => title ?? "untitled").slice(0, 10);
  throw new AgentError("E_INVALID", `${name} does not tell which layer is the disk image: ${titles.join(", ")}`);
}

/** The content of an archive that holds one file, as container disks of virtual machines do. */
function onlyFile(archive: Readable, mediaType: string, name: string): Readable {
  const tar = compressedType.test(mediaType) ? pipeline(archive, createGunzip(), () => {}) : archive;
  async function* content(): AsyncGenerator<Buffer> {
    let found: string | undefined;
    for await (const entry of readTar(tar as AsyncIterable<Buffer>, name)) {
      if (entry.kind !== "file") continue;
      if (found !== undefined) {
        throw new AgentError("E_INVALID", `${name} holds several files: ${found}, ${entry.path}, …`);
      }
      found = entry.path;
      yield* entry.content;
    }
    if (found === undefined) throw new AgentError("E_INVALID", `${name} holds no file`);
    // What is behind the archive counts for its digest.
    for await (const _ of tar);
  }
  return Readable.from(content(), { objectMode: false });
}
