/**
 * Protocol data units of ISO 15765-2:2016 (ISO-TP): what lies in one CAN frame. Chapters in comments are those of the standard.
 *
 * Before the PCI of every frame may lie one byte of address (extended and mixed addressing); `prefixBytes` is 0 or 1.
 */

/** How frames are cut and filled. */
export interface LinkLayout {
  /** TX_DL: longest CAN frame that is sent, 8 or a CAN FD length. */
  readonly frameBytes: number;
  /** Frames are filled up to at least this many bytes; undefined fills as 10.4.2 demands, and no further. */
  readonly leastBytes: number | undefined;
  /** What fills them; undefined: classic frames are as short as they can be, longer ones are filled with 0xCC. */
  readonly padding: number | undefined;
}

/** Lengths that a CAN FD frame can have; each is a possible TX_DL from 8 on. */
export const frameLengths = [8, 12, 16, 20, 24, 32, 48, 64] as const;

/** Least strain on the bus: neither long runs of equal bits nor stuff bits (also the padding of the Linux kernel). */
const defaultPadding = 0xcc;

/** FF_DL up to here is told in 12 bits, above in 32 (9.6.3.1). */
const longestShortMessageBytes = 0xfff;
/** No message can be longer. */
export const longestMessageBytes = 0xffff_ffff;

/** What a receiver answers (9.6.5.1). */
export type FlowStatus = "continue" | "wait" | "overflow";

export interface FlowControl {
  readonly kind: "flow";
  /** `reserved` must end the transmission. */
  readonly status: FlowStatus | "reserved";
  /** Consecutive frames until the next flow control; 0: no further one will come. */
  readonly blockSize: number;
  /** Least pause between two consecutive frames. */
  readonly separationMs: number;
}

export interface FirstFrame {
  readonly kind: "first";
  readonly messageBytes: number;
  /** RX_DL: the length that all frames of this message have, but perhaps the last. */
  readonly frameBytes: number;
  readonly data: Uint8Array;
}

export type Pdu =
  | { readonly kind: "single"; readonly data: Uint8Array }
  | FirstFrame
  | { readonly kind: "consecutive"; readonly sequence: number; readonly data: Uint8Array }
  | FlowControl
  /** To be ignored as if it had not come. */
  | { readonly kind: "invalid"; readonly reason: string };

const pci = { single: 0, first: 1, consecutive: 2, flow: 3 } as const;
const flowStatus = { continue: 0, wait: 1, overflow: 2 } as const;
const flowStatuses: readonly FlowStatus[] = ["continue", "wait", "overflow"];

/** The next length that a CAN frame can have. */
export function frameLengthFor(bytes: number): number {
  return bytes <= 8 ? bytes : (frameLengths.find((length) => length >= bytes) ?? 64);
}

/** Payload of the longest message that fits into a single frame. */
export function singleFrameLimit(frameBytes: number, prefixBytes: number): number {
  return frameBytes - prefixBytes - (frameBytes > 8 ? 2 : 1);
}

/** Payload of a consecutive frame that is full. */
export function consecutiveFrameLimit(frameBytes: number, prefixBytes: number): number {
  return frameBytes - prefixBytes - 1;
}

/** STmin as a time (9.6.5.4); reserved values mean the longest one. */
export function separationMs(stmin: number): number {
  if (stmin <= 0x7f) return stmin;
  if (stmin >= 0xf1 && stmin <= 0xf9) return (stmin - 0xf0) / 10;
  return 0x7f;
}

/** @param data of a CAN frame */
export function parsePdu(data: Uint8Array, prefixBytes: number): Pdu {
  const first = data[prefixBytes];
  if (first === undefined) return invalid("an empty frame");
  switch (first >> 4) {
    case pci.single:
      return parseSingle(data, prefixBytes, first & 0xf);
    case pci.first:
      return parseFirst(data, prefixBytes);
    case pci.consecutive:
      return { kind: "consecutive", sequence: first & 0xf, data: data.subarray(prefixBytes + 1) };
    case pci.flow:
      return parseFlow(data, prefixBytes);
    default:
      return invalid(`a frame of unknown type ${first >> 4}`);
  }
}

function parseSingle(data: Uint8Array, prefixBytes: number, shortLength: number): Pdu {
  // In frames of more than 8 bytes the length lies behind the escape value 0, and only there (9.6.2.1). That it is long
  // enough for such a frame is not asked for: there are senders that fill all their frames up.
  const escaped = data.length > 8;
  if (escaped && shortLength !== 0) return invalid(`a single frame of ${data.length} bytes without escape sequence`);
  const start = prefixBytes + (escaped ? 2 : 1);
  const length = escaped ? (data[prefixBytes + 1] ?? 0) : shortLength;
  if (length === 0) return invalid("a single frame of length 0");
  if (length > data.length - start) {
    return invalid(`a single frame of length ${length} with room for ${Math.max(0, data.length - start)} bytes`);
  }
  return { kind: "single", data: data.subarray(start, start + length) };
}

function parseFirst(data: Uint8Array, prefixBytes: number): Pdu {
  const frameBytes = data.length;
  if (!frameLengths.some((length) => length === frameBytes)) {
    return invalid(`a first frame of ${frameBytes} bytes, which must be full`);
  }
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  const shortLength = view.getUint16(prefixBytes) & 0xfff;
  const escaped = shortLength === 0;
  const messageBytes = escaped ? view.getUint32(prefixBytes + 2) : shortLength;
  if (escaped && messageBytes <= longestShortMessageBytes) {
    return invalid(`a first frame with escape sequence for only ${messageBytes} bytes`);
  }
  if (messageBytes <= singleFrameLimit(frameBytes, prefixBytes)) {
    return invalid(`a first frame for ${messageBytes} bytes, which fit into a single frame`);
  }
  return { kind: "first", messageBytes, frameBytes, data: data.subarray(prefixBytes + (escaped ? 6 : 2)) };
}

function parseFlow(data: Uint8Array, prefixBytes: number): Pdu {
  const [first, blockSize, stmin] = data.subarray(prefixBytes);
  if (first === undefined || blockSize === undefined || stmin === undefined) {
    return invalid("a flow control frame that is too short");
  }
  const status = flowStatuses[first & 0xf] ?? "reserved";
  return { kind: "flow", status, blockSize, separationMs: separationMs(stmin) };
}

function invalid(reason: string): Pdu {
  return { kind: "invalid", reason };
}

/** A message of at most {@link singleFrameLimit} bytes. */
export function buildSingle(layout: LinkLayout, prefix: Uint8Array, message: Uint8Array): Uint8Array {
  const length = message.length;
  const short = frame(layout, prefix, [(pci.single << 4) | (length & 0xf)], message);
  if (short.length <= 8) return short;
  return frame(layout, prefix, [pci.single << 4, length], message);
}

/** The beginning of a longer message. @returns the frame, and how many bytes of the message it holds */
export function buildFirst(
  layout: LinkLayout,
  prefix: Uint8Array,
  message: Uint8Array,
): { readonly data: Uint8Array; readonly taken: number } {
  const length = message.length;
  const header =
    length <= longestShortMessageBytes
      ? [(pci.first << 4) | (length >> 8), length & 0xff]
      : [pci.first << 4, 0, length >>> 24, (length >>> 16) & 0xff, (length >>> 8) & 0xff, length & 0xff];
  const taken = layout.frameBytes - prefix.length - header.length;
  return { data: frame(layout, prefix, header, message.subarray(0, taken)), taken };
}

/** @param payload at most {@link consecutiveFrameLimit} bytes */
export function buildConsecutive(
  layout: LinkLayout,
  prefix: Uint8Array,
  sequence: number,
  payload: Uint8Array,
): Uint8Array {
  return frame(layout, prefix, [(pci.consecutive << 4) | (sequence & 0xf)], payload);
}

/** @param stmin as it is on the wire, see {@link separationMs} */
export function buildFlow(
  layout: LinkLayout,
  prefix: Uint8Array,
  flow: { readonly status: FlowStatus; readonly blockSize: number; readonly stmin: number },
): Uint8Array {
  const { status, blockSize, stmin } = flow;
  return frame(layout, prefix, [(pci.flow << 4) | flowStatus[status], blockSize, stmin], new Uint8Array());
}

function frame(layout: LinkLayout, prefix: Uint8Array, header: readonly number[], payload: Uint8Array): Uint8Array {
  const { leastBytes, padding, frameBytes } = layout;
  const used = prefix.length + header.length + payload.length;
  const least = leastBytes ?? (padding !== undefined && frameBytes === 8 ? 8 : 0);
  const bytes = new Uint8Array(frameLengthFor(Math.max(used, least)));
  bytes.set(prefix);
  bytes.set(header, prefix.length);
  bytes.set(payload, prefix.length + header.length);
  if (bytes.length > used) bytes.fill(padding ?? defaultPadding, used);
  return bytes;
}
