import { createHash, timingSafeEqual } from "node:crypto";
import { AgentError } from "../../../agent/driver/errors.ts";
import type { ByteRange } from "../../../agent/driver/receipt.ts";
import { parseXml, type XmlElement } from "./xml.ts";

/** The part of an image that a block map tells to write. */
export interface MappedRange extends ByteRange {
  /** In hex; undefined where the map has none. */
  readonly checksum: string | undefined;
}

/** Which parts of an image hold anything: what `bmaptool create` writes beside it. */
export interface Bmap {
  /** `2.0` */
  readonly version: string;
  readonly imageBytes: number;
  readonly blockBytes: number;
  readonly mappedBytes: number;
  /** For `createHash`; undefined before version 1.3. */
  readonly checksumType: ChecksumType | undefined;
  /** In ascending order, apart from each other. */
  readonly ranges: readonly MappedRange[];
}

/** What bmaptool offers and is still in use. */
const checksumTypes = ["sha1", "sha224", "sha256", "sha384", "sha512"] as const;
type ChecksumType = (typeof checksumTypes)[number];

/** Of the file: more than 100,000 ranges, of which images have a few thousand. */
export const maxBmapBytes = 16 * 1024 * 1024;
const maxBlockBytes = 64 * 1024 * 1024;

/**
 * Reads a block map, versions 1.0 to 2.0, and checks all that it says of itself.
 * @throws AgentError E_INVALID for what is none, E_DIGEST when it does not match its own checksum
 */
export function parseBmap(file: Uint8Array): Bmap {
  if (file.length > maxBmapBytes) throw invalid(`it is larger than ${maxBmapBytes} bytes`);
  const root = rootOf(file);
  const version = root.attributes.get("version") ?? "";
  const [, major, minor] = /^(\d{1,3})\.(\d{1,3})$/.exec(version)?.map(Number) ?? [];
  if (root.name !== "bmap" || major === undefined || minor === undefined) throw invalid("it has no version");
  if (major < 1 || major > 2) throw invalid(`version ${version} is not supported`);
  // 1.4 is 2.0, published under the wrong number.
  const isTyped = major === 2 || minor >= 4;
  const hasChecksums = isTyped || minor === 3;
  const checksumType = hasChecksums ? checksumTypeOf(isTyped ? textIn(root, "ChecksumType") : "sha1") : undefined;
  if (checksumType !== undefined) {
    checkItself(file, textIn(root, isTyped ? "BmapFileChecksum" : "BmapFileSHA1"), checksumType);
  }
  const imageBytes = numberIn(root, "ImageSize");
  const blockBytes = numberIn(root, "BlockSize");
  if (blockBytes === 0 || blockBytes > maxBlockBytes) throw invalid(`its blocks have ${blockBytes} bytes`);
  const blocks = numberIn(root, "BlocksCount");
  if (blocks !== Math.ceil(imageBytes / blockBytes)) {
    throw invalid(`${blocks} blocks of ${blockBytes} bytes are not the ${imageBytes} bytes of its image`);
  }
  const ranges = rangesOf(only(root, "BlockMap"), {
    imageBytes,
    blockBytes,
    checksumName: isTyped ? "chksum" : "sha1",
    checksumType,
  });
  const mappedBlocks = ranges.reduce((sum, { start, end }) => sum + Math.ceil((end - start) / blockBytes), 0);
  const promised = numberIn(root, "MappedBlocksCount");
  if (mappedBlocks !== promised) throw invalid(`it maps ${mappedBlocks} blocks, and says ${promised}`);
  const mappedBytes = ranges.reduce((sum, { start, end }) => sum + end - start, 0);
  return { version, imageBytes, blockBytes, mappedBytes, checksumType, ranges };
}

function rootOf(file: Uint8Array): XmlElement {
  try {
    return parseXml(new TextDecoder("utf-8", { fatal: true }).decode(file));
  } catch (error) {
    if (error instanceof SyntaxError) throw invalid(error.message);
    throw invalid(error instanceof TypeError ? "it is not UTF-8" : "it is too large to be read");
  }
}

function rangesOf(
  map: XmlElement,
  {
    imageBytes,
    blockBytes,
    checksumName,
    checksumType,
  }: Pick<Bmap, "imageBytes" | "blockBytes" | "checksumType"> & {
    readonly checksumName: string;
  },
): MappedRange[] {
  const digits = checksumType === undefined ? 0 : hexDigits(checksumType);
  let end = 0;
  return map.children.map((element) => {
    const words = element.text.trim();
    const [, first, last = first] = /^(\d{1,15})(?:\s*-\s*(\d{1,15}))?$/.exec(words)?.map(optionalNumber) ?? [];
    if (element.name !== "Range" || first === undefined || last === undefined || last < first) {
      throw invalid(`“${words.slice(0, 40)}” is no range of blocks`);
    }
    const start = first * blockBytes;
    if (start < end) throw invalid(`the range ${words} is not behind the one before it`);
    if (last * blockBytes >= imageBytes) throw invalid(`the range ${words} is behind the end of the image`);
    end = Math.min((last + 1) * blockBytes, imageBytes);
    const checksum = element.attributes.get(checksumName)?.toLowerCase();
    if (checksum !== undefined && (!/^[0-9a-f]+$/.test(checksum) || checksum.length !== digits)) {
      throw invalid(`the checksum of the range ${words} is no ${checksumType ?? "checksum of this version"}`);
    }
    return { start, end, checksum };
  });
}

const optionalNumber = (digits: string | undefined) => (digits === undefined ? undefined : Number(digits));

/** A map's checksum is that of the file with zeros in its place. */
function checkItself(file: Uint8Array, given: string, type: ChecksumType): void {
  const promised = given.toLowerCase();
  if (!/^[0-9a-f]+$/.test(promised) || promised.length !== hexDigits(type)) throw invalid(`its checksum is no ${type}`);
  const bytes = Buffer.from(file);
  bytes.fill("0", bytes.indexOf(given), bytes.indexOf(given) + given.length);
  const actual = createHash(type).update(bytes).digest();
  if (!timingSafeEqual(actual, Buffer.from(promised, "hex"))) {
    throw new AgentError("E_DIGEST", "the block map does not match its own checksum: it was changed or damaged");
  }
}

function checksumTypeOf(word: string): ChecksumType {
  const type = checksumTypes.find((known) => known === word.toLowerCase());
  if (type === undefined) throw invalid(`its checksums are of the type “${word.slice(0, 40)}”`);
  return type;
}

const hexDigits = (type: ChecksumType) => (type === "sha1" ? 40 : Number(type.slice(3)) / 4);

function only(parent: XmlElement, name: string): XmlElement {
  const [element, second] = parent.children.filter((child) => child.name === name);
  if (element === undefined || second !== undefined) {
    throw invalid(`it has ${element === undefined ? "no" : "more than one"} ${name}`);
  }
  return element;
}

function textIn(parent: XmlElement, name: string): string {
  return only(parent, name).text.trim();
}

function numberIn(parent: XmlElement, name: string): number {
  const text = textIn(parent, name);
  const number = Number(text);
  if (!/^\d{1,16}$/.test(text) || !Number.isSafeInteger(number)) throw invalid(`its ${name} is no number`);
  return number;
}

function invalid(reason: string): AgentError {
  return new AgentError("E_INVALID", `not a block map that can be used: ${reason}`);
}
