/** Messages of the SSH connection protocol (RFC 4254) as payloads of packets: reading what matters, and making our own. */

/** Message numbers (RFC 4250 §4.1.2). */
export const messages = {
  disconnect: 1,
  globalRequest: 80,
  requestSuccess: 81,
  requestFailure: 82,
  channelOpen: 90,
  openConfirmation: 91,
  openFailure: 92,
  windowAdjust: 93,
  data: 94,
  extendedData: 95,
  eof: 96,
  close: 97,
  channelRequest: 98,
  channelSuccess: 99,
  channelFailure: 100,
} as const;

/** Reason codes of CHANNEL_OPEN_FAILURE (RFC 4254 §5.1). */
export const openFailures = { prohibited: 1, connectFailed: 2, unknownType: 3, shortage: 4 } as const;

/** Reason code of DISCONNECT (RFC 4253 §11.1) when there is nobody behind us. */
export const connectionLost = 10;

/** Where to find, in a payload, who it is for: the receiver's number of the channel. */
export const recipientOf = (payload: Buffer): number => payload.readUInt32BE(1);

export interface Open {
  readonly type: string;
  /** The opener's number of the channel. */
  readonly sender: number;
}

export function readOpen(payload: Buffer): Open {
  const type = readString(payload, 1);
  return { type: type.text, sender: payload.readUInt32BE(type.end) };
}

/** The number that the accepting side gave the channel. */
export const senderOfConfirmation = (payload: Buffer): number => payload.readUInt32BE(5);

export interface Request {
  readonly type: string;
  readonly wantsReply: boolean;
  /** Where what belongs to its type begins. */
  readonly at: number;
}

export function readGlobalRequest(payload: Buffer): Request {
  return readRequest(payload, 1);
}

export function readChannelRequest(payload: Buffer): Request {
  return readRequest(payload, 5);
}

function readRequest(payload: Buffer, from: number): Request {
  const type = readString(payload, from);
  return { type: type.text, wantsReply: payload.readUInt8(type.end) !== 0, at: type.end + 1 };
}

/** @throws RangeError if it reaches past the payload */
function readString(payload: Buffer, from: number): { text: string; end: number } {
  const start = from + 4;
  const end = start + payload.readUInt32BE(from);
  if (end > payload.length) throw new RangeError("a string reaches past its message");
  return { text: payload.toString("latin1", start, end), end };
}

export interface TerminalSize {
  readonly columns: number;
  readonly rows: number;
}

/** A pty-req whose client does not know its terminal's size, with a usual one. Changes the payload. */
export function fillTerminalSize(payload: Buffer, { at }: Request, usual: TerminalSize): void {
  const { end } = readString(payload, at);
  if (payload.readUInt32BE(end) === 0) payload.writeUInt32BE(usual.columns, end);
  if (payload.readUInt32BE(end + 4) === 0) payload.writeUInt32BE(usual.rows, end + 4);
}

export function openFailure(recipient: number, reason: number, text: string): Buffer {
  return join(messages.openFailure, uint32(recipient), uint32(reason), string(text), string(""));
}

export function globalRequest(type: string, wantsReply: boolean): Buffer {
  return join(messages.globalRequest, string(type), Buffer.from([wantsReply ? 1 : 0]));
}

export const requestFailure = (): Buffer => Buffer.from([messages.requestFailure]);

export function channelRequest(recipient: number, type: string, wantsReply: boolean): Buffer {
  return join(messages.channelRequest, uint32(recipient), string(type), Buffer.from([wantsReply ? 1 : 0]));
}

export function disconnect(reason: number, text: string): Buffer {
  return join(messages.disconnect, uint32(reason), string(text), string(""));
}

function join(number: number, ...parts: Buffer[]): Buffer {
  return Buffer.concat([Buffer.from([number]), ...parts]);
}

function uint32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}

function string(text: string): Buffer {
  const bytes = Buffer.from(text);
  return Buffer.concat([uint32(bytes.length), bytes]);
}
