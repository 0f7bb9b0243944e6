export interface ImageParts {
  /** The root, as squashfs. */
  readonly root: string;
  readonly vmlinuz: string;
  readonly initrd: string;
  /** The kernel's version. */
  readonly kernel: string;
}
/** Makes the disk image `output`. `keep`: a folder for the parts that updates are made of. */
export function makeImage(options: {
  readonly architecture: "amd64" | "arm64";
  readonly output: string;
  readonly keep?: string;
  readonly offline?: boolean;
  readonly version?: string;
}): ImageParts;
/** The image of what is in the tree now, made once. @returns the folder with `disk.img`, `root.squashfs`, `vmlinuz`, `initrd` */
export function cachedImage(architecture: "amd64" | "arm64"): string;
