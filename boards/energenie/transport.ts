import type { Readable } from "node:stream";
import { Agent, request } from "undici";
import { AgentError, isSystemError } from "../../agent/driver/errors.ts";

/** Every step of a request, as in the Python driver. */
const timeoutMs = 10_000;
/** Its pages have a few KiB. */
const mostPageBytes = 256 * 1024;

export interface Pages {
  get(path: string): Promise<string>;
  post(path: string, body: string): Promise<string>;
  close(): Promise<void>;
}

/** Speaks HTTP to one power strip, without proxies: it stands in the lab. Errors name the host and never a body. */
export function openPages(host: string, signal: AbortSignal): Pages {
  const dispatcher = new Agent({ connect: { timeout: timeoutMs }, headersTimeout: timeoutMs, bodyTimeout: timeoutMs });
  const page = async (method: "GET" | "POST", path: string, body?: string): Promise<string> => {
    try {
      const answer = await request(new URL(path, `http://${host}`), {
        method,
        dispatcher,
        signal,
        // Its web server has few connections, and they should not outlive their use.
        reset: true,
        ...(body === undefined ? {} : { headers: { "content-type": "application/x-www-form-urlencoded" }, body }),
      });
      const text = await readPage(answer.body, host);
      if (answer.statusCode === 200) return text;
      throw new AgentError("E_IO", `EnerGenie at ${host} answered ${answer.statusCode} to ${method} ${path}`);
    } catch (error) {
      throw explain(error, host, signal);
    }
  };
  return {
    get: (path) => page("GET", path),
    post: (path, body) => page("POST", path, body),
    close: () => dispatcher.destroy(),
  };
}

async function readPage(body: Readable, host: string): Promise<string> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of body as AsyncIterable<Buffer>) {
    size += chunk.length;
    if (size > mostPageBytes) throw new AgentError("E_LIMIT", `EnerGenie at ${host} sends a page without end`);
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString("latin1");
}

function explain(error: unknown, host: string, signal: AbortSignal): unknown {
  if (error instanceof AgentError) return error;
  if (signal.aborted) return signal.reason;
  const { code = "" } = error as { code?: string };
  if (code === "ETIMEDOUT" || /^UND_ERR_.*TIMEOUT$/.test(code)) {
    return new AgentError("E_TIMEOUT", `EnerGenie at ${host} does not answer in time`, { cause: error });
  }
  if (isSystemError(error) || code !== "") {
    return new AgentError("E_CONNECTION", `EnerGenie at ${host} cannot be reached: ${code}`, { cause: error });
  }
  return error;
}
