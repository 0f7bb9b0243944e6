/** NTP version 4, the part of a server (RFC 5905 section 7.3). Pure: no socket, no clock. */

export const packetBytes = 48;

/** Seconds from 1900, NTP's first era, to 1970. */
const epochOffsetS = 2_208_988_800;

const client = 3;
const server = 4;

/** Of a clock that nothing disciplines, as chrony's `local` and ntpd's local clock have it. */
const localStratum = 10;

/** How the host's clock stands. */
export interface ClockQuality {
  readonly synchronised: boolean;
  /** Largest error that the kernel believes it may have, in seconds. */
  readonly maxErrorS: number;
}

/**
 * The answer to a request; undefined if it is none.
 * A clock that is not right says so (leap indicator 3, and stratum 16, which travels as 0 with the code INIT), and
 * clients pass over it, unless `anyway`: then they get its time with the stratum of a local clock.
 * @param nowMs of the host's clock, since 1970
 */
export function answer(request: Uint8Array, nowMs: number, clock: ClockQuality, anyway: boolean): Buffer | undefined {
  if (request.length < packetBytes) return undefined;
  const [first = 0] = request;
  const mode = first & 7;
  // 0: very old clients leave it out.
  if (mode !== client && mode !== 0) return undefined;
  const good = clock.synchronised || anyway;
  const reply = Buffer.alloc(packetBytes);
  const version = Math.min(Math.max((first >> 3) & 7, 1), 4);
  reply[0] = ((good ? 0 : 3) << 6) | (version << 3) | server;
  reply[1] = good ? localStratum : 0;
  reply[2] = 6; // poll: 64 s
  reply.writeInt8(-10, 3); // precision: 2^-10 s, as nowMs counts milliseconds
  if (clock.synchronised) reply.writeUInt32BE(Math.min(Math.round(clock.maxErrorS * 65_536), 0xffffffff), 8);
  reply.write(good ? "LOCL" : "INIT", 12, "latin1");
  if (good) writeTime(reply, 16, nowMs);
  reply.set(request.subarray(40, 48), 24); // origin: its transmit time
  writeTime(reply, 32, nowMs);
  writeTime(reply, 40, nowMs);
  return reply;
}

/** Era 0 ends in 2036; the number then begins again, as it is meant to. */
function writeTime(packet: Buffer, offset: number, ms: number): void {
  const seconds = Math.floor(ms / 1_000);
  packet.writeUInt32BE((seconds + epochOffsetS) % 2 ** 32, offset);
  packet.writeUInt32BE(Math.floor(((ms - seconds * 1_000) / 1_000) * 2 ** 32), offset + 4);
}
