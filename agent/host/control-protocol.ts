/** What goes over the control socket: one line of JSON each way, then it is closed. */
import type { Socket } from "node:net";
import * as z from "zod";
import { errorCodes, type ErrorCode } from "../driver/error-codes.ts";
import { AgentError } from "../driver/errors.ts";

/** What an agent can be asked. */
export const controlRequests = {
  /** Takes over changed configuration files. */
  reload: z.strictObject({ exporter: z.string().max(1024).optional() }),
  /** What the exporters do now. */
  status: z.strictObject({}),
};

export type ControlRequests = { [K in keyof typeof controlRequests]: z.output<(typeof controlRequests)[K]> };

export const requestLine = z.object({
  request: z.enum(Object.keys(controlRequests) as (keyof ControlRequests)[]),
  params: z.unknown().optional(),
});

export const answerLine = z.union([
  z.object({ answer: z.unknown() }).refine((line) => "answer" in line),
  z.object({
    error: z.object({
      code: z.enum(Object.keys(errorCodes) as [ErrorCode, ...ErrorCode[]]).catch("E_FAILED"),
      message: z.string(),
    }),
  }),
]);

export const longestRequestBytes = 64 * 1024;
export const longestAnswerBytes = 4 * 1024 * 1024;
/** A tool writes its request at once. */
export const requestLimitMs = 5_000;
/** A reload opens drivers, and each may take its time. */
export const answerLimitMs = 120_000;

/**
 * Reads up to the first newline.
 * @throws AgentError E_LIMIT for a longer line, E_TIMEOUT, or E_CONNECTION for an end before the newline
 */
export function readLine(
  socket: Socket,
  { mostBytes, limitMs }: { mostBytes: number; limitMs: number },
): Promise<string> {
  return new Promise((resolve, reject) => {
    const chunks: Buffer[] = [];
    let bytes = 0;
    const limit = setTimeout(() => {
      over(new AgentError("E_TIMEOUT", `nothing came within ${limitMs / 1_000} s`));
    }, limitMs);
    const onData = (chunk: Buffer) => {
      const end = chunk.indexOf("\n");
      const part = end === -1 ? chunk : chunk.subarray(0, end);
      chunks.push(part);
      bytes += part.length;
      if (bytes > mostBytes) over(new AgentError("E_LIMIT", `longer than ${mostBytes} bytes`));
      else if (end !== -1) over();
    };
    const onClose = () => over(new AgentError("E_CONNECTION", "the connection ended early"));
    const over = (error?: Error) => {
      clearTimeout(limit);
      socket.off("data", onData).off("end", onClose).off("close", onClose).off("error", over);
      // Whatever else comes is not wanted, but its end is.
      socket.resume();
      if (error === undefined) resolve(Buffer.concat(chunks).toString("utf8"));
      else reject(error);
    };
    socket.on("data", onData).once("end", onClose).once("close", onClose).once("error", over);
  });
}

/** @throws AgentError E_INVALID */
export function parseLine<T extends z.ZodType>(text: string, shape: T): z.output<T> {
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (cause) {
    throw new AgentError("E_INVALID", "is not a line of JSON", { cause });
  }
  const parsed = shape.safeParse(json);
  if (parsed.success) return parsed.data;
  throw new AgentError("E_INVALID", `is not understood: ${z.prettifyError(parsed.error)}`, { cause: parsed.error });
}
