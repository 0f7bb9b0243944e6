import { mkdir } from "node:fs/promises";
import { pipeline } from "node:stream/promises";
import { setTimeout as sleep } from "node:timers/promises";
import { AgentError } from "../agent/driver/errors.ts";
import type { BundleFile } from "./files.ts";
import { verify, verifying, type Digest } from "./oci/digest.ts";
import { chooseImage, planLayers, readManifest, type ImageManifest, type Layer } from "./oci/image.ts";
import type { Source } from "./oci/source.ts";
import { Unpacker } from "./unpack.ts";

export interface Pull {
  readonly source: Source;
  readonly digest: Digest;
  /** What errors call the bundle. */
  readonly name: string;
  /** A directory that does not exist yet. */
  readonly into: string;
  readonly mostBytes: number;
  /** Where a file with this digest may be found on the same disk. */
  readonly known: ReadonlyMap<Digest, string>;
  readonly signal: AbortSignal;
}

/** Waits before the second and third attempt at something that the connection broke. */
const retryDelaysMs = [500, 2_000];

/**
 * Fetches an image, every byte checked, into a directory.
 * @returns its files
 * @throws AgentError E_DIGEST, E_INVALID, E_LIMIT, E_CONNECTION, E_TIMEOUT; the directory is then in any state
 */
export async function pullBundle(pull: Pull): Promise<BundleFile[]> {
  const image = await fetchImage(pull);
  const layers = planLayers(image, pull.name, pull.mostBytes);
  await mkdir(pull.into);
  const unpacker = new Unpacker(pull.into, pull.mostBytes);
  for (const layer of layers) await fetchLayer(layer, unpacker, pull);
  return unpacker.files;
}

/** The image's manifest, through an index if there is one. */
async function fetchImage({ source, digest, name, signal }: Pull): Promise<ImageManifest> {
  let wanted = digest;
  for (let depth = 0; depth < 3; depth += 1) {
    const raw = await withRetries(() => source.manifest(wanted, signal), signal);
    verify(raw.bytes, wanted, `the manifest of ${name}`);
    const read = readManifest(raw, name);
    if ("image" in read) return read.image;
    wanted = chooseImage(read.index, hostPlatform(), name).digest;
  }
  throw new AgentError("E_INVALID", `${name} is an index of indexes of indexes`);
}

async function fetchLayer(layer: Layer, unpacker: Unpacker, { source, name, known, signal }: Pull): Promise<void> {
  const shown = `${name}: ${layer.kind === "file" ? layer.path : `archive ${layer.digest}`}`;
  const existing = layer.kind === "file" ? known.get(layer.digest) : undefined;
  if (existing !== undefined) {
    // Anything wrong with it only means that it has to be fetched.
    const linked = await unpacker.link(layer, existing).then(
      () => true,
      () => false,
    );
    if (linked) return;
  }
  await withRetries(async () => {
    const checked = verifying(layer, shown);
    const received = pipeline(await source.blob(layer, { signal }), checked, { signal });
    // The reader sees the same failure; whichever is told first, both are heard.
    received.catch(() => {});
    if (layer.kind === "file") await unpacker.file(layer, checked, signal);
    else await unpacker.archive(layer, checked, shown, signal);
    await received;
  }, signal);
}

/** Tries again when the connection broke, not when the content is wrong. */
async function withRetries<T>(attempt: () => Promise<T>, signal: AbortSignal): Promise<T> {
  for (let failures = 0; ; failures += 1) {
    try {
      return await attempt();
    } catch (error) {
      if (signal.aborted) throw signal.reason;
      const delayMs = retryDelaysMs[failures];
      if (delayMs === undefined || !isUnreachable(error)) throw error;
      await sleep(delayMs, undefined, { signal });
    }
  }
}

/** True for errors that say nothing about the bundle, only about the way to it. */
export function isUnreachable(error: unknown): error is AgentError {
  return error instanceof AgentError && (error.code === "E_CONNECTION" || error.code === "E_TIMEOUT");
}

/** This host in the words of the OCI specification. */
function hostPlatform(): string {
  const names: Partial<Record<string, string>> = { x64: "amd64", ia32: "386" };
  return `linux/${names[process.arch] ?? process.arch}`;
}
