import type { Duplex, Readable, Writable } from "node:stream";
import { finished, pipeline } from "node:stream/promises";
import { AgentError, toAgentError } from "../driver/errors.ts";
import { resourceHandle, type ContentEncoding, type ResourceHandle } from "../driver/resource.ts";
import { decoded, encoded } from "../stream/codecs.ts";
import type { Channel } from "./channel.ts";
import { openStream } from "./stream.ts";

export interface LendOptions {
  /**
   * The encoding of the bytes on this side. The driver sees plain bytes: the exporter decodes and encodes,
   * or this process does, if the exporter cannot.
   */
  readonly encoding?: ContentEncoding | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** Opens a resource stream on a driver and says whether the coding is left to us. */
async function lend(
  channel: Channel,
  uuid: string,
  { encoding, signal }: LendOptions,
): Promise<{ stream: Duplex; handle: ResourceHandle; codeHere: ContentEncoding | undefined }> {
  const request = { kind: "resource", uuid, x_jmp_content_encoding: encoding ?? null };
  const { stream, metadata } = await openStream(channel, request, { what: "lending a resource", signal, bytes: true });
  try {
    const handle = resourceHandle.parse(JSON.parse(metadata.get("resource") ?? ""));
    // The key is there, even if empty, wherever the exporter does the coding (contract core §5.4).
    return { stream, handle, codeHere: metadata.has("x_jmp_accept_encoding") ? undefined : encoding };
  } catch (error) {
    stream.destroy();
    throw new AgentError("E_FAILED", "the exporter answered with no resource handle", { cause: error });
  }
}

/**
 * Lends `source` to the calls that `use` makes with the handle. The source is destroyed at the end, also if
 * the driver read only a part of it.
 * @throws AgentError why the call failed, or why the source could not be read.
 */
export async function lendSource<T>(
  channel: Channel,
  uuid: string,
  source: Readable,
  use: (handle: ResourceHandle) => Promise<T>,
  options: LendOptions = {},
): Promise<T> {
  let unreadable: unknown;
  source.on("error", (error) => (unreadable ??= error)); // it may break before anybody reads it
  const { stream, handle, codeHere } = await lend(channel, uuid, options).catch((error: unknown) => {
    source.destroy();
    throw error;
  });
  const bytes = decoded(source, codeHere ?? null);
  const sent = pipeline(async function* () {
    try {
      for await (const chunk of bytes) yield chunk as Buffer;
    } catch (error) {
      unreadable ??= error;
      throw error;
    }
  }, stream).catch(() => {}); // the call fails then, and tells more
  stream.resume(); // carries nothing but the exporter's end
  try {
    const result = await use(handle);
    // Whatever the driver made of it, it did not get everything.
    if (unreadable !== undefined) throw toAgentError(unreadable);
    return result;
  } catch (error) {
    throw unreadable === undefined ? error : toAgentError(unreadable);
  } finally {
    stream.destroy();
    source.destroy(); // also wakes who waits for its next bytes
    await sent;
  }
}

/**
 * Lends `sink` to the calls that `use` makes with the handle. The sink is destroyed at the end.
 * @returns when the call is answered and the sink has taken all bytes.
 * @throws AgentError why the call failed, or why the sink could not be written.
 */
export async function lendSink<T>(
  channel: Channel,
  uuid: string,
  sink: Writable,
  use: (handle: ResourceHandle) => Promise<T>,
  options: LendOptions = {},
): Promise<T> {
  let unwritable: unknown;
  sink.on("error", (error) => (unwritable ??= error));
  const { stream, handle, codeHere } = await lend(channel, uuid, options).catch((error: unknown) => {
    sink.destroy();
    throw error;
  });
  const received = Promise.all([pipeline(stream, encoded(sink, codeHere ?? null)), finished(sink)]);
  received.catch(() => {}); // waited for below
  try {
    const result = await use(handle);
    await received;
    return result;
  } catch (error) {
    throw toAgentError(unwritable ?? error);
  } finally {
    stream.destroy();
    sink.destroy();
  }
}
