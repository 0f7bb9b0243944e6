import { type OptionList } from "./protocol.ts";

/** What both sides agreed on for one transfer. */
export interface Terms {
  readonly blockSizeBytes: number;
  readonly windowSize: number;
  /** What the OACK carries, in the order of the request; empty means: no OACK, begin with DATA 1. */
  readonly accepted: OptionList;
}

export interface NegotiationContext {
  /** The file's size; undefined where it is not what will be sent (netascii). */
  readonly sizeBytes: number | undefined;
  /** Largest window to agree on, however large the client asks. */
  readonly windowLimit: number;
}

const defaultBlockSizeBytes = 512;
/** RFC 2348: 8 to 65464. */
const blockSizeRange = { min: 8, max: 65_464 };
/** What one window may hold in memory, whatever block size was agreed. */
const windowBytesLimit = 1 << 20;

/**
 * Answers the options of a read request: RFC 2347 (unknown or senseless ones are left out), 2348 blksize,
 * 2349 timeout and tsize, 7440 windowsize.
 * @returns the terms, or why the request must be refused with ERROR 8.
 */
export function negotiate(
  asked: OptionList,
  { sizeBytes, windowLimit }: NegotiationContext,
): Terms | { refused: string } {
  let blockSizeBytes = defaultBlockSizeBytes;
  let askedWindow: number | undefined;
  const accepted = new Map<string, { name: string; value: number }>();
  for (const [name, text] of asked) {
    const option = name.toLowerCase();
    // Digits only: `1024x`, `-1` and `abc` are not numbers, and an option that makes no sense is ignored.
    if (accepted.has(option) || !/^\d{1,20}$/.test(text)) continue;
    const value = Number(text);
    switch (option) {
      case "blksize":
        if (value < blockSizeRange.min) return { refused: `blksize must be at least ${blockSizeRange.min}` };
        blockSizeBytes = Math.min(value, blockSizeRange.max);
        accepted.set(option, { name, value: blockSizeBytes });
        break;
      case "timeout":
        // Agreed, and not obeyed: transfer.ts says why.
        if (value < 1 || value > 255) return { refused: "timeout must be 1 to 255" };
        accepted.set(option, { name, value });
        break;
      case "tsize":
        if (sizeBytes !== undefined) accepted.set(option, { name, value: sizeBytes });
        break;
      case "windowsize":
        if (value < 1 || value > 65_535) return { refused: "windowsize must be 1 to 65535" };
        askedWindow = value;
        accepted.set(option, { name, value });
        break;
    }
  }
  const mostBlocks = Math.max(1, Math.floor(windowBytesLimit / blockSizeBytes));
  const windowSize = Math.min(askedWindow ?? 1, windowLimit, mostBlocks);
  const window = accepted.get("windowsize");
  if (window !== undefined) window.value = windowSize;
  return {
    blockSizeBytes,
    windowSize,
    accepted: [...accepted.values()].map(({ name, value }) => [name, String(value)] as const),
  };
}
