/**
 * Messages and attributes of netlink (linux/netlink.h, linux/rtnetlink.h), as bytes; pure. A reader stops at the first thing that does not
 * fit, and never reads beyond what it was given.
 */

/** struct nlmsghdr; numbers are the host's, which is little-endian. */
export const nlmsghdr = {
  bytes: 16,
  nlmsg_len: 0,
  nlmsg_type: 4,
  nlmsg_flags: 6,
  nlmsg_seq: 8,
  nlmsg_pid: 12,
} as const;
/** struct rtattr */
export const rtattr = { bytes: 4, rta_len: 0, rta_type: 2 } as const;
/** The upper bits of an attribute's type tell that it is nested, or of the network's byte order. */
const typeMask = 0x3fff;

const align = (bytes: number) => Math.ceil(bytes / 4) * 4;

export interface NetlinkMessage {
  readonly type: number;
  readonly flags: number;
  readonly sequence: number;
  readonly body: Buffer;
}

export function readMessages(bytes: Buffer): NetlinkMessage[] {
  const messages: NetlinkMessage[] = [];
  for (let at = 0; at + nlmsghdr.bytes <= bytes.length;) {
    const length = bytes.readUInt32LE(at + nlmsghdr.nlmsg_len);
    if (length < nlmsghdr.bytes || at + length > bytes.length) break;
    messages.push({
      type: bytes.readUInt16LE(at + nlmsghdr.nlmsg_type),
      flags: bytes.readUInt16LE(at + nlmsghdr.nlmsg_flags),
      sequence: bytes.readUInt32LE(at + nlmsghdr.nlmsg_seq),
      body: bytes.subarray(at + nlmsghdr.bytes, at + length),
    });
    at += align(length);
  }
  return messages;
}

export function writeMessage(type: number, flags: number, sequence: number, body: Uint8Array): Buffer {
  const head = Buffer.alloc(nlmsghdr.bytes);
  head.writeUInt32LE(nlmsghdr.bytes + body.length, nlmsghdr.nlmsg_len);
  head.writeUInt16LE(type, nlmsghdr.nlmsg_type);
  head.writeUInt16LE(flags, nlmsghdr.nlmsg_flags);
  head.writeUInt32LE(sequence, nlmsghdr.nlmsg_seq);
  return Buffer.concat([head, body]);
}

/** Attributes by type; of several of one type, the last. */
export function readAttributes(bytes: Buffer): Map<number, Buffer> {
  const attributes = new Map<number, Buffer>();
  for (let at = 0; at + rtattr.bytes <= bytes.length;) {
    const length = bytes.readUInt16LE(at + rtattr.rta_len);
    if (length < rtattr.bytes || at + length > bytes.length) break;
    attributes.set(bytes.readUInt16LE(at + rtattr.rta_type) & typeMask, bytes.subarray(at + rtattr.bytes, at + length));
    at += align(length);
  }
  return attributes;
}

export function writeAttribute(type: number, ...values: readonly Uint8Array[]): Buffer {
  const value = Buffer.concat(values);
  const bytes = Buffer.alloc(align(rtattr.bytes + value.length));
  bytes.writeUInt16LE(rtattr.bytes + value.length, rtattr.rta_len);
  bytes.writeUInt16LE(type, rtattr.rta_type);
  value.copy(bytes, rtattr.bytes);
  return bytes;
}

export function uint32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value >>> 0);
  return bytes;
}

/** A text that ends with a zero byte, or with the attribute. */
export function textOf(value: Buffer | undefined): string | undefined {
  if (value === undefined) return undefined;
  const end = value.indexOf(0);
  return value.toString("utf8", 0, end === -1 ? value.length : end);
}
