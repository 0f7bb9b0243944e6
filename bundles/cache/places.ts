import { readdir, stat } from "node:fs/promises";
import { join } from "node:path";
import { algorithmOf, digestOf, isDigest, type Digest } from "../oci/digest.ts";

/**
 * What lies where in a cache directory:
 *
 *     blobs/sha256/…             what came from registries, checked, manifests too
 *     bundles/sha256-…/          bundle.json (what it is made of), files/ (the bundle), checked (when it was last read)
 *     references/….json          which digest a tag had when it was last asked for
 *     pins/sha256-…              bundles that stay
 *     incoming/…                 what is not complete yet, and what is being removed
 *     locks/…                    who uses, makes or removes what
 */
export class Places {
  readonly root: string;

  constructor(root: string) {
    this.root = root;
  }

  blob(digest: Digest): string {
    return join(this.blobs(algorithmOf(digest)), digest.slice(digest.indexOf(":") + 1));
  }

  blobs(algorithm: "sha256" | "sha512"): string {
    return join(this.root, "blobs", algorithm);
  }

  get bundles(): string {
    return join(this.root, "bundles");
  }

  bundle(digest: Digest): string {
    return join(this.bundles, nameOf(digest));
  }

  get references(): string {
    return join(this.root, "references");
  }

  reference(name: string): string {
    return join(this.references, `${digestOf(Buffer.from(name)).slice("sha256:".length)}.json`);
  }

  get pins(): string {
    return join(this.root, "pins");
  }

  pin(digest: Digest): string {
    return join(this.pins, nameOf(digest));
  }

  get incoming(): string {
    return join(this.root, "incoming");
  }

  get locks(): string {
    return join(this.root, "locks");
  }
}

/** A digest as a file name. */
export function nameOf(digest: Digest): string {
  return digest.replace(":", "-");
}

/** What the locks of a cache are called. */
export const lockNames = {
  /** Shared by those who put blobs into the store; exclusive for who removes what nobody names. */
  store: "store",
  /** Exclusive for who fetches a blob. */
  blob: (digest: Digest) => `blob-${nameOf(digest)}`,
  /** Exclusive for who makes a bundle, or removes a damaged one. */
  make: (digest: Digest) => `make-${nameOf(digest)}`,
  /** Shared by those who use a bundle; exclusive for who removes it. */
  use: (digest: Digest) => `use-${nameOf(digest)}`,
} as const;

/** The digests that a directory's names are. */
export async function digestsIn(directory: string): Promise<Digest[]> {
  const digests = (await namesIn(directory)).map((name) => name.replace("-", ":"));
  return digests.filter(isDigest);
}

/** Empty for a directory that is not there. */
export async function namesIn(directory: string): Promise<string[]> {
  return await readdir(directory).catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT") return [];
    throw error;
  });
}

/** Time of the last change; 0 if it is not there. */
export async function changedMs(path: string): Promise<number> {
  return await stat(path).then(
    ({ mtimeMs }) => Math.max(1, mtimeMs),
    () => 0,
  );
}

export async function exists(path: string): Promise<boolean> {
  return (await changedMs(path)) > 0;
}
