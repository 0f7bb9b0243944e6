import { STATUS_CODES, type IncomingMessage, type ServerResponse } from "node:http";

/** Of a body that nobody wants, so much is read and thrown away, for so long. */
const lingerBytes = 4 << 20;
const lingerMs = 2_000;

/** An answer that is only its status, which it returns in words for the log. */
export function answer(response: ServerResponse, status: number, text?: string): string {
  response.end(begin(response, status, text));
  return inWords(status, text);
}

/**
 * An answer to a request whose body is not wanted. The connection ends with it, but not before the client could read
 * it: a connection that is closed while the client still sends is reset, and the answer lost (RFC 9112 section 9.6).
 */
export async function refuse(
  request: IncomingMessage,
  response: ServerResponse,
  status: number,
  text?: string,
): Promise<string> {
  response.setHeader("Connection", "close");
  const body = begin(response, status, text);
  if (body !== undefined) response.write(body);
  await linger(request);
  response.end();
  return inWords(status, text);
}

function begin(response: ServerResponse, status: number, text?: string): string | undefined {
  const body = `${inWords(status, text)}\n`;
  response.setHeader("Content-Type", "text/plain; charset=utf-8");
  response.setHeader("Content-Length", Buffer.byteLength(body));
  response.writeHead(status);
  return response.req.method === "HEAD" ? undefined : body;
}

function inWords(status: number, text = STATUS_CODES[status] ?? ""): string {
  return `${status} ${text}`;
}

async function linger(request: IncomingMessage): Promise<void> {
  if (request.readableEnded || request.destroyed) return;
  // It waits to be told to send, and is told something else.
  if (request.headers.expect !== undefined && !request.readableDidRead) return;
  let left = lingerBytes;
  let timer: NodeJS.Timeout | undefined;
  await new Promise<unknown>((resolve) => {
    timer = setTimeout(resolve, lingerMs);
    request.on("data", (chunk: Buffer) => {
      left -= chunk.length;
      if (left < 0) resolve(undefined);
    });
    request.once("end", resolve).once("close", resolve).resume();
  });
  clearTimeout(timer);
}
