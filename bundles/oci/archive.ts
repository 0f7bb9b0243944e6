import { open, type FileHandle } from "node:fs/promises";
import { Readable } from "node:stream";
import { AgentError, isSystemError } from "../../agent/driver/errors.ts";
import { checkManifestSize, sourceOfLayout, type LayoutFiles, type LayoutSource } from "./layout.ts";
import { readTarHeader, tarBlockBytes } from "./tar-header.ts";

/** A layout has one file for each blob; more is no bundle. */
const mostEntries = 20_000;

interface Place {
  readonly start: number;
  readonly size: number;
}

/**
 * Reads a tar archive of an OCI image layout where it lies, as `skopeo copy … oci-archive:FILE` and `podman save --format
 * oci-archive` write it.
 * @param tag undefined means: the only image, or else `latest`
 * @throws AgentError E_INVALID if it is none, or packed with gzip
 */
export async function archiveSource(path: string, tag: string | undefined): Promise<LayoutSource> {
  const file = await open(path).catch((error: unknown) => {
    if (isSystemError(error) && error.code === "ENOENT") throw new AgentError("E_INVALID", `there is no file ${path}`);
    throw error;
  });
  try {
    return sourceOfLayout(archiveFiles(file, path, await readPlaces(file, path)), tag);
  } catch (error) {
    await file.close();
    throw error;
  }
}

function archiveFiles(file: FileHandle, name: string, places: ReadonlyMap<string, Place>): LayoutFiles {
  const placeOf = (path: string): Place => {
    const place = places.get(path);
    if (place === undefined) throw new AgentError("E_INVALID", `${name} has no ${path}`);
    return place;
  };
  return {
    name,
    read: async (path) => {
      const { start, size } = placeOf(path);
      checkManifestSize(size, `${path} of ${name}`);
      return await readAt(file, start, size);
    },
    stream: (path, from) => {
      const { start, size } = placeOf(path);
      // A range of no bytes cannot be said with a first and a last one.
      if (from >= size) return Promise.resolve(Readable.from([]));
      const range = { start: start + from, end: start + size - 1 };
      return Promise.resolve(file.createReadStream({ ...range, autoClose: false }));
    },
    close: () => file.close(),
  };
}

/** Where the files of an archive lie. Their content is jumped over: an index of 4 GB is read in no time. */
async function readPlaces(file: FileHandle, name: string): Promise<Map<string, Place>> {
  const places = new Map<string, Place>();
  const { size: archiveBytes } = await file.stat();
  for (let at = 0, entries = 0; at + tarBlockBytes <= archiveBytes; entries += 1) {
    const block = await readAt(file, at, tarBlockBytes);
    if (block.every((byte) => byte === 0)) return places;
    const header = readTarHeader(block);
    if (header === undefined || entries === mostEntries) break;
    at += tarBlockBytes;
    if (header.isFile) places.set(header.path, { start: at, size: header.size });
    at += Math.ceil(header.size / tarBlockBytes) * tarBlockBytes;
    if (at > archiveBytes) throw new AgentError("E_INVALID", `${name} ends in the middle of ${header.path}`);
  }
  if (places.size > 0) return places;
  throw new AgentError("E_INVALID", `${name} is no tar archive of an OCI image layout`, {
    hint: "packed archives are unpacked first (gzip -d)",
  });
}

async function readAt(file: FileHandle, position: number, length: number): Promise<Buffer> {
  const buffer = Buffer.alloc(length);
  const { bytesRead } = await file.read(buffer, 0, length, position);
  return buffer.subarray(0, bytesRead);
}
