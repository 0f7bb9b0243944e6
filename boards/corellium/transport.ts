import { Agent, EnvHttpProxyAgent, request } from "undici";
import type * as z from "zod";
import { AgentError, isSystemError } from "../../agent/driver/errors.ts";
import { anySignal } from "../../agent/sys/any-signal.ts";
import { apiBase, refusal } from "./protocol.ts";

const timeoutMs = 30_000;
/** Its list of models has some 100 KiB. */
const mostAnswerBytes = 16 * 1024 * 1024;

export interface Api {
  readonly host: string;
  get<T extends z.ZodType>(path: string, expected: T, signal: AbortSignal): Promise<z.output<T>>;
  post<T extends z.ZodType>(path: string, body: object, expected: T, signal: AbortSignal): Promise<z.output<T>>;
  put(path: string, body: object, signal: AbortSignal): Promise<void>;
  delete(path: string, signal: AbortSignal): Promise<void>;
  close(): Promise<void>;
}

/** The token goes into a header, and is in no error. @throws AgentError E_CONFIG if it is no host */
export function openApi(host: string, token: string): Api {
  const base = apiBase(host);
  if (base === undefined) throw new AgentError("E_CONFIG", "CORELLIUM_API_HOST must be a host name");
  const settings = { connect: { timeout: timeoutMs }, headersTimeout: timeoutMs, bodyTimeout: timeoutMs };
  const behindProxy = ["https_proxy", "HTTPS_PROXY"].some((name) => process.env[name]);
  const dispatcher = behindProxy ? new EnvHttpProxyAgent(settings) : new Agent(settings);
  const redact = (text: string) => text.replaceAll(token, "[REDACTED]").slice(0, 500);

  const exchange = async (
    method: "GET" | "POST" | "PUT" | "DELETE",
    path: string,
    signal: AbortSignal,
    body?: object,
  ) => {
    const deadline = AbortSignal.timeout(timeoutMs);
    try {
      const answer = await request(new URL(path, base), {
        method,
        dispatcher,
        // Minutes may pass until the next one.
        reset: true,
        signal: anySignal([signal, deadline]),
        headers: {
          authorization: `Bearer ${token}`,
          ...(body === undefined ? {} : { "content-type": "application/json" }),
        },
        ...(body === undefined ? {} : { body: JSON.stringify(body) }),
      });
      const chunks: Buffer[] = [];
      let size = 0;
      for await (const chunk of answer.body as AsyncIterable<Buffer>) {
        size += chunk.length;
        if (size > mostAnswerBytes) throw new AgentError("E_LIMIT", `Corellium at ${host} sends an answer without end`);
        chunks.push(chunk);
      }
      return { status: answer.statusCode, text: Buffer.concat(chunks).toString() };
    } catch (error) {
      if (signal.aborted) throw signal.reason;
      const { code = "", message } = error as Error & { code?: string };
      if (error instanceof AgentError) throw error;
      if (deadline.aborted || /TIMEOUT|ETIMEDOUT/.test(code)) {
        throw new AgentError("E_TIMEOUT", `Corellium at ${host} does not answer in time`, { cause: error });
      }
      const reason = isSystemError(error) || code !== "" ? code : redact(message);
      throw new AgentError("E_CONNECTION", `Corellium at ${host} cannot be reached: ${reason}`, { cause: error });
    }
  };

  /** @throws AgentError E_FAILED with its own words, or what it is that was no JSON */
  const ask = async (...words: Parameters<typeof exchange>): Promise<unknown> => {
    const [method, path] = words;
    const { status, text } = await exchange(...words);
    const said = `Corellium at ${host} answered ${status} to ${method} ${path.replace(/\?.*/, "")}`;
    if (status === 204) return undefined;
    let content: unknown;
    try {
      content = JSON.parse(text);
    } catch (cause) {
      throw new AgentError("E_FAILED", `${said}, not in JSON`, { cause });
    }
    if (status >= 200 && status < 300) return content;
    const refused = refusal.safeParse(content);
    throw new AgentError("E_FAILED", refused.success ? redact(refused.data.error) : said);
  };

  const checked = <T extends z.ZodType>(expected: T, content: unknown, path: string): z.output<T> => {
    const parsed = expected.safeParse(content);
    if (parsed.success) return parsed.data;
    // Not the schema's words: they may show what the answer held.
    throw new AgentError("E_FAILED", `Corellium at ${host} answers ${path.replace(/\?.*/, "")} with something unknown`);
  };

  return {
    host,
    get: async (path, expected, signal) => checked(expected, await ask("GET", path, signal), path),
    post: async (path, body, expected, signal) => checked(expected, await ask("POST", path, signal, body), path),
    put: async (path, body, signal) => void (await ask("PUT", path, signal, body)),
    delete: async (path, signal) => void (await ask("DELETE", path, signal)),
    close: () => dispatcher.destroy(),
  };
}
