import type { Readable } from "node:stream";
import { request, type Dispatcher } from "undici";
import { AgentError, isSystemError } from "../../agent/driver/errors.ts";
import { anySignal } from "../../agent/sys/any-signal.ts";
import { FirstPart } from "./multipart.ts";
import { isPicture } from "./protocol.ts";

/** A client takes answers of 4 MiB, and a picture is a third larger as base64. */
export const mostPictureBytes = 3_100_000;

export interface Asked {
  readonly url: URL;
  /** For error texts; holds no secrets. */
  readonly name: string;
  readonly dispatcher: Dispatcher;
  readonly signal: AbortSignal;
  /** For the whole answer, however slowly it comes. */
  readonly timeoutMs: number;
  readonly headers?: Record<string, string>;
  readonly mostBytes?: number;
}

export interface Answer {
  readonly headers: Readonly<Record<string, string | string[] | undefined>>;
  readonly body: Buffer;
}

/**
 * GET. Of a multipart body only the first part is read.
 * @throws AgentError E_IO (a status of 400 and above), E_TIMEOUT, E_LIMIT, E_CONNECTION, E_FAILED; the signal's reason
 */
export async function get({ mostBytes = mostPictureBytes, ...asked }: Asked): Promise<Answer> {
  const { url, name, dispatcher, headers, signal, timeoutMs } = asked;
  const deadline = AbortSignal.timeout(timeoutMs);
  try {
    const {
      statusCode,
      headers: answered,
      body,
    } = await request(url, {
      dispatcher,
      headers: headers ?? {},
      signal: anySignal([signal, deadline]),
    });
    try {
      if (statusCode >= 300) {
        const refusal = statusCode === 503 ? "E_DEVICE_OFFLINE" : "E_IO";
        throw new AgentError(refusal, `${name} answered ${statusCode}`);
      }
      const multipart = /^multipart\//i.test(String(answered["content-type"]));
      const read = multipart ? await firstPart(body, name, mostBytes) : await whole(body, name, mostBytes);
      return { headers: answered, body: read };
    } finally {
      body.on("error", () => {}).destroy();
    }
  } catch (error) {
    if (signal.aborted) throw signal.reason;
    if (deadline.aborted) throw new AgentError("E_TIMEOUT", `${name} has not answered within ${timeoutMs / 1000} s`);
    throw explain(error, name);
  }
}

async function whole(body: Readable, name: string, mostBytes: number): Promise<Buffer> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of body as AsyncIterable<Buffer>) {
    size += chunk.length;
    if (size > mostBytes) throw new AgentError("E_LIMIT", `${name} sends more than ${mostBytes} bytes`);
    chunks.push(chunk);
  }
  return Buffer.concat(chunks);
}

async function firstPart(body: Readable, name: string, mostBytes: number): Promise<Buffer> {
  const part = new FirstPart(mostBytes);
  for await (const chunk of body as AsyncIterable<Buffer>) {
    const content = part.push(chunk);
    if (content !== undefined) return Buffer.from(content);
  }
  throw new AgentError("E_FAILED", `no frame received from ${name}`);
}

/** @throws AgentError E_FAILED if it is no picture */
export function requirePicture({ headers, body }: Answer, name: string): Buffer {
  if (isPicture(body)) return body;
  if (body.length === 0) throw new AgentError("E_FAILED", `no frame received from ${name}`);
  const type = String(headers["content-type"] ?? "no type").slice(0, 80);
  throw new AgentError("E_FAILED", `${name} sent no picture but ${body.length} bytes of ${type}`);
}

function explain(error: unknown, name: string): unknown {
  if (error instanceof AgentError) return error;
  const { code = "", message } = error as Error & { code?: string };
  if (/TIMEOUT|ETIMEDOUT/.test(code)) {
    return new AgentError("E_TIMEOUT", `${name} does not answer in time`, { cause: error });
  }
  if (/redirect loop/i.test(message)) return new AgentError("E_IO", `${name} redirects in circles`, { cause: error });
  if (isSystemError(error) || code !== "") {
    return new AgentError("E_CONNECTION", `${name} cannot be reached: ${code}`, { cause: error });
  }
  return new AgentError("E_FAILED", `${name}: ${message}`, { cause: error });
}
