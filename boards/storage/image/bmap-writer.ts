import { createHash, type Hash } from "node:crypto";

/** As bmaptool has it. */
const blockBytes = 4096;
const zeros = Buffer.alloc(blockBytes);

/** Makes the block map of an image while it passes: what bmaptool calls mapped is here what is not zero. */
export class BmapWriter {
  readonly #ranges: { readonly first: number; last: number; sha256: string }[] = [];
  #open: { readonly first: number; readonly hash: Hash } | undefined;
  /** Begin of a block whose rest has not come. */
  #rest: Buffer = Buffer.alloc(0);
  #blocks = 0;
  #bytes = 0;

  update(bytes: Buffer): void {
    this.#bytes += bytes.length;
    const all = this.#rest.length === 0 ? bytes : Buffer.concat([this.#rest, bytes]);
    const whole = all.length - (all.length % blockBytes);
    this.#take(all.subarray(0, whole));
    // A copy: whoever has given it may use its memory again.
    this.#rest = Buffer.from(all.subarray(whole));
  }

  /** @returns version 2.0, with SHA-256 of each range and of itself. Called once. */
  finish(): string {
    this.#take(this.#rest);
    this.#close();
    const ranges = this.#ranges.map(({ first, last, sha256 }) => {
      const words = first === last ? `${first}` : `${first}-${last}`;
      return `    <Range chksum="${sha256}">${words}</Range>\n`;
    });
    const mapped = this.#ranges.reduce((sum, { first, last }) => sum + last - first + 1, 0);
    const text = (checksum: string) =>
      `<?xml version="1.0" ?>
<bmap version="2.0">
  <ImageSize>${this.#bytes}</ImageSize>
  <BlockSize>${blockBytes}</BlockSize>
  <BlocksCount>${Math.ceil(this.#bytes / blockBytes)}</BlocksCount>
  <MappedBlocksCount>${mapped}</MappedBlocksCount>
  <ChecksumType>sha256</ChecksumType>
  <BmapFileChecksum>${checksum}</BmapFileChecksum>
  <BlockMap>
${ranges.join("")}  </BlockMap>
</bmap>
`;
    // The checksum is that of the file with zeros in its place.
    return text(
      createHash("sha256")
        .update(text("0".repeat(64)))
        .digest("hex"),
    );
  }

  /** Whole blocks, or the last one. */
  #take(bytes: Buffer): void {
    for (let start = 0; start < bytes.length;) {
      let end = start;
      const isZero = isZeroAt(bytes, start);
      while (end < bytes.length && isZeroAt(bytes, end) === isZero) end += blockBytes;
      if (isZero) {
        this.#close();
      } else {
        this.#open ??= { first: this.#blocks, hash: createHash("sha256") };
        this.#open.hash.update(bytes.subarray(start, end));
      }
      this.#blocks += (end - start) / blockBytes;
      start = end;
    }
  }

  #close(): void {
    if (this.#open === undefined) return;
    const { first, hash } = this.#open;
    this.#ranges.push({ first, last: this.#blocks - 1, sha256: hash.digest("hex") });
    this.#open = undefined;
  }
}

function isZeroAt(bytes: Buffer, start: number): boolean {
  const block = bytes.subarray(start, start + blockBytes);
  return block.equals(block.length === blockBytes ? zeros : zeros.subarray(0, block.length));
}
