import { AgentError } from "../../agent/driver/errors.ts";
import type { Turn } from "./master.ts";
import { granularityBytes, type CommandPacket } from "./protocol.ts";

/** The number of elements in a packet is a byte. */
const mostElements = 0xff;
/** No identifier and no name is longer; lengths come from the slave. */
const longestTextBytes = 1 << 16;

/** Reads elements from an address, in as many packets as it takes. */
export async function readMemory(
  turn: Turn,
  elements: number,
  address: number,
  extension: number,
): Promise<Uint8Array> {
  const { bytes, skipped, perPacket } = layout(turn);
  if (elements > perPacket) {
    await setAddress(turn, address, extension);
    return readOn(turn, elements);
  }
  const response = await turn.ask("SHORT_UPLOAD", (packet) => packet.bytes(elements, 0, extension).u32(address));
  return response.slice(skipped, elements * bytes);
}

/** Reads elements from where the transfer address stands, which goes on with it. */
async function readOn(turn: Turn, elements: number): Promise<Uint8Array> {
  const { bytes, skipped, perPacket } = layout(turn);
  const parts: Uint8Array[] = [];
  for (let left = elements; left > 0; left -= perPacket) {
    const count = Math.min(left, perPacket);
    const response = await turn.ask("UPLOAD", (packet) => packet.bytes(count));
    parts.push(response.slice(skipped, count * bytes));
  }
  return Buffer.concat(parts);
}

/** Reads a text that the slave points at, such as a name. */
export async function readText(turn: Turn, bytes: number): Promise<string> {
  if (bytes > longestTextBytes) throw new AgentError("E_LIMIT", `the slave announces a text of ${bytes} bytes`);
  const content = await readOn(turn, Math.ceil(bytes / layout(turn).bytes));
  return decodeText(content.subarray(0, bytes));
}

/** ASCII as a rule; whatever else, no byte is lost. */
export function decodeText(bytes: Uint8Array): string {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    return Buffer.from(bytes).toString("latin1");
  }
}

export async function setAddress(turn: Turn, address: number, extension: number): Promise<void> {
  await turn.ask("SET_MTA", (packet) => packet.bytes(0, 0, extension).u32(address));
}

/**
 * Sends data to where the transfer address stands, packet by packet, each of them answered.
 * @param options mostBytes of a packet, and how long its answer may take
 */
export async function writeOn(
  turn: Turn,
  command: "DOWNLOAD" | "PROGRAM",
  data: Uint8Array,
  { mostBytes, timeoutMs }: { readonly mostBytes: number; readonly timeoutMs?: number },
): Promise<void> {
  const { bytes } = layout(turn);
  if (data.length % bytes !== 0) {
    throw new AgentError(
      "E_INVALID",
      `the slave's memory has elements of ${bytes} bytes; ${data.length} bytes are none`,
    );
  }
  // The number of elements, filled up to the size of an element.
  const header = Math.max(bytes, 2) - 2;
  const perPacket = Math.min(mostElements, Math.floor((mostBytes - 2 - header) / bytes)) * bytes;
  const filler = Array.from({ length: header }, () => 0);
  for (let at = 0; at < data.length; at += perPacket) {
    const part = data.subarray(at, at + perPacket);
    const fill = (packet: CommandPacket) => packet.bytes(part.length / bytes, ...filler, ...part);
    await turn.ask(command, fill, timeoutMs === undefined ? {} : { timeoutMs });
  }
}

function layout({ slave }: Turn): { bytes: number; skipped: number; perPacket: number } {
  const bytes = granularityBytes[slave.address_granularity];
  // After the packet id, responses are filled up to the size of an element.
  return { bytes, skipped: bytes - 1, perPacket: Math.min(mostElements, Math.floor((slave.max_cto - bytes) / bytes)) };
}
