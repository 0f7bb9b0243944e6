/** The parts of HTTP that a server of static files needs beside Node's parser: RFC 9110 sections 13 and 14. */

/** The file as a request's conditions see it. */
export interface Representation {
  readonly sizeBytes: number;
  /** With its quotes; a strong validator. */
  readonly etag: string;
  readonly modified: Date;
}

export type Headers = Readonly<Record<string, string | string[] | undefined>>;

/** What to answer: the whole, a part (both ends inclusive), or a status without content. */
export type Selection =
  | { readonly status: 200 }
  | { readonly status: 206; readonly first: number; readonly last: number }
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

/** One range of bytes; several, other units and nonsense are answered by the whole, as a server may. */
function selectRange(range: string, sizeBytes: number): Selection {
  const [, first, last] = /^bytes=[ \t]*(\d*)-(\d*)[ \t]*$/i.exec(range) ?? [];
  if (first === undefined || last === undefined || first + last === "") return { status: 200 };
  if (first === "") {
    const length = Math.min(Number(last), sizeBytes);
    return length === 0 ? { status: 416 } : { status: 206, first: sizeBytes - length, last: sizeBytes - 1 };
  }
  if (last !== "" && Number(last) < Number(first)) return { status: 200 };
  if (Number(first) >= sizeBytes) return { status: 416 };
  const end = last === "" ? sizeBytes - 1 : Math.min(Number(last), sizeBytes - 1);
  return { status: 206, first: Number(first), last: end };
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
