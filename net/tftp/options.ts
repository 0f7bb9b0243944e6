import type { OptionList, Rollover } from "./protocol.ts";

/** What both sides agreed on for one transfer. */
export interface Terms {
  readonly blockSizeBytes: number;
  readonly windowSize: number;
  readonly rollover: Rollover;
  /** The `tsize` of the request: in a write request the size that the client announces. */
  readonly announcedBytes: number | undefined;
  /** What the OACK carries, in the order of the request; empty means: no OACK. */
  readonly accepted: OptionList;
}

export interface NegotiationContext {
  /**
   * What to answer `tsize` with: the file's size, or the one that the client announced. Undefined where the number of
   * bytes on the wire is not known (netascii), and `tsize` is left out.
   */
  readonly sizeBytes: number | "as-announced" | undefined;
  /** Largest window to agree on, however large the client asks. */
  readonly windowLimit: number;
}

const defaultBlockSizeBytes = 512;
/** RFC 2348: 8 to 65464. */
const blockSizeRange = { min: 8, max: 65_464 };
/** What one window may hold in memory, whatever block size was agreed. */
const windowBytesLimit = 1 << 20;
/** Half of all block numbers: with more, an ACK of the last window could be taken for one of the next. */
const windowBlocksLimit = 32_767;

/** Numeric options with the values that make sense; anything else is refused with ERROR 8. */
const ranges: Readonly<Record<string, { readonly min: number; readonly max: number }>> = {
  // Larger ones are answered by the largest: RFC 2348 lets the server choose a smaller one.
  blksize: { min: blockSizeRange.min, max: Infinity },
  // RFC 2349, in seconds. Agreed, and not obeyed: transfer.ts says why.
  timeout: { min: 1, max: 255 },
  // tftp-hpa's, in microseconds.
  utimeout: { min: 10_000, max: 255_000_000 },
  tsize: { min: 0, max: Infinity },
  // RFC 7440.
  windowsize: { min: 1, max: 65_535 },
  // tftp-hpa's: the number of the block after 65535.
  rollover: { min: 0, max: 1 },
};

/**
 * Answers the options of a request: RFC 2347 (unknown or senseless ones are left out), 2348 blksize, 2349 timeout and
 * tsize, 7440 windowsize; utimeout and rollover as tftp-hpa has them.
 * @returns the terms, or why the request must be refused with ERROR 8.
 */
export function negotiate(
  asked: OptionList,
  { sizeBytes, windowLimit }: NegotiationContext,
): Terms | { refused: string } {
  const values = new Map<string, number>();
  const names = new Map<string, string>();
  for (const [name, text] of asked) {
    const option = name.toLowerCase();
    const range = ranges[option];
    // Digits only: `1024x`, `-1` and `abc` are not numbers, and an option that makes no sense is ignored.
    if (range === undefined || values.has(option) || !/^\d{1,20}$/.test(text)) continue;
    const value = Number(text);
    if (value < range.min || value > range.max) {
      const allowed = range.max === Infinity ? `at least ${range.min}` : `${range.min} to ${range.max}`;
      return { refused: `${option} must be ${allowed}` };
    }
    values.set(option, value);
    names.set(option, name);
  }
  const announcedBytes = values.get("tsize");
  const blockSizeBytes = Math.min(values.get("blksize") ?? defaultBlockSizeBytes, blockSizeRange.max);
  const mostBlocks = Math.max(1, Math.floor(windowBytesLimit / blockSizeBytes));
  const windowSize = Math.min(values.get("windowsize") ?? 1, windowLimit, mostBlocks, windowBlocksLimit);
  const answers: Readonly<Record<string, number | undefined>> = {
    blksize: blockSizeBytes,
    windowsize: windowSize,
    tsize: sizeBytes === "as-announced" ? announcedBytes : sizeBytes,
  };
  const accepted: [string, string][] = [];
  for (const [option, value] of values) {
    const answer = option in answers ? answers[option] : value;
    if (answer !== undefined) accepted.push([names.get(option) ?? option, String(answer)]);
  }
  return { blockSizeBytes, windowSize, rollover: values.get("rollover") === 1 ? 1 : 0, announcedBytes, accepted };
}
