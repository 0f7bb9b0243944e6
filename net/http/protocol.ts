/** The parts of HTTP that a server of static files needs beside Node's parser: RFC 9110 sections 13 and 14. */

/** The file as a request's conditions see it. */
export interface Representation {
  readonly sizeBytes: number;
  /** With its quotes; a strong validator. */
  readonly etag: string;
  readonly modified: Date;
}

export type Headers = Readonly<Record<string, string | string[] | undefined>>;

/** Both ends inclusive. */
export interface ByteRange {
  readonly first: number;
  readonly last: number;
}

/** What to answer: the whole, one part or several, or a status without content. */
export type Selection =
  | { readonly status: 200 }
  | { readonly status: 206; readonly ranges: readonly ByteRange[] }
  | { readonly status: 304 | 412 | 416 };

/** Evaluates conditions and range in the order of RFC 9110 section 13.2.2. */
export function select(method: "GET" | "HEAD", headers: Headers, file: Representation): Selection {
  const ifMatch = text(headers["if-match"]);
  const ifUnmodified = date(headers["if-unmodified-since"]);
  if (ifMatch !== undefined) {
    if (!listMatches(ifMatch, file.etag, "strong")) return { status: 412 };
  } else if (ifUnmodified !== undefined && seconds(file.modified) > ifUnmodified) return { status: 412 };

  const ifNone = text(headers["if-none-match"]);
  const ifModified = date(headers["if-modified-since"]);
  if (ifNone !== undefined) {
    if (listMatches(ifNone, file.etag, "weak")) return { status: 304 };
  } else if (ifModified !== undefined && seconds(file.modified) <= ifModified) return { status: 304 };

  const range = text(headers["range"]);
  // Range means something for GET only (RFC 9110 section 14.2).
  if (range === undefined || method !== "GET" || !rangeApplies(text(headers["if-range"]), file)) return { status: 200 };
  return selectRange(range, file.sizeBytes);
}

/** More are answered by the whole: nobody needs them, and each costs a read. */
const mostRanges = 32;

/**
 * A set of byte ranges (RFC 9110 section 14.1.2). Other units and nonsense are answered by the whole, as a server may.
 * Ranges that overlap or touch are joined, so that no byte is sent twice (section 15.3.7).
 */
function selectRange(header: string, sizeBytes: number): Selection {
  const set =
    /^bytes=(.*)$/i
      .exec(header)?.[1]
      ?.split(",")
      .map((spec) => spec.trim()) ?? [];
  const specs = set.filter((spec) => spec !== "");
  if (specs.length === 0 || specs.length > mostRanges) return { status: 200 };
  const ranges: ByteRange[] = [];
  for (const spec of specs) {
    const [, first = "", last = ""] = /^(\d*)-(\d*)$/.exec(spec) ?? [];
    if (first + last === "" || (first !== "" && last !== "" && Number(last) < Number(first))) return { status: 200 };
    const range =
      first === ""
        ? { first: Math.max(sizeBytes - Number(last), 0), last: sizeBytes - 1 }
        : { first: Number(first), last: last === "" ? sizeBytes - 1 : Math.min(Number(last), sizeBytes - 1) };
    // What cannot be satisfied is left out, as long as something can.
    if (range.first <= range.last) ranges.push(range);
  }
  return ranges.length === 0 ? { status: 416 } : { status: 206, ranges: join(ranges) };
}

/** In the order that was asked for, unless some of them have to be joined. */
function join(ranges: readonly ByteRange[]): readonly ByteRange[] {
  const joined: ByteRange[] = [];
  for (const range of [...ranges].sort((one, other) => one.first - other.first)) {
    const before = joined.at(-1);
    if (before === undefined || range.first > before.last + 1) joined.push(range);
    else joined[joined.length - 1] = { first: before.first, last: Math.max(before.last, range.last) };
  }
  return joined.length === ranges.length ? ranges : joined;
}

/** What lies before each part of a multipart/byteranges body (RFC 9110 section 14.6). */
export function multipartHead(boundary: string, type: string, { first, last }: ByteRange, sizeBytes: number): string {
  return `\r\n--${boundary}\r\nContent-Type: ${type}\r\nContent-Range: bytes ${first}-${last}/${sizeBytes}\r\n\r\n`;
}

export function multipartTail(boundary: string): string {
  return `\r\n--${boundary}--\r\n`;
}

function rangeApplies(ifRange: string | undefined, file: Representation): boolean {
  if (ifRange === undefined) return true;
  if (ifRange.startsWith('"') || ifRange.startsWith("W/")) return ifRange === file.etag;
  return date(ifRange) === seconds(file.modified);
}

function listMatches(list: string, etag: string, comparison: "strong" | "weak"): boolean {
  if (list.trim() === "*") return true;
  const tags = list.match(/(?:W\/)?"[^"]*"/g) ?? [];
  return tags.some((tag) => (comparison === "weak" ? tag.replace(/^W\//, "") : tag) === etag);
}

function text(header: string | string[] | undefined): string | undefined {
  return typeof header === "string" ? header.trim() : undefined;
}

/** HTTP dates know seconds only. @returns undefined for what is no date: such a condition does not count. */
function date(header: string | string[] | undefined): number | undefined {
  const ms = typeof header === "string" ? Date.parse(header) : NaN;
  return Number.isNaN(ms) ? undefined : Math.floor(ms / 1000);
}

function seconds(moment: Date): number {
  return Math.floor(moment.getTime() / 1000);
}

/**
 * The path that a request target names, percent-decoded, nothing else normalised.
 * @returns undefined where it cannot be decoded or is no path.
 */
export function targetPath(target: string): string | undefined {
  const raw = target.replace(/^https?:\/\/[^/?#]*/i, "").replace(/[?#].*$/s, "") || "/";
  if (!raw.startsWith("/")) return undefined;
  try {
    const path = decodeURIComponent(raw);
    return path.includes("\0") ? undefined : path;
  } catch {
    return undefined;
  }
}
