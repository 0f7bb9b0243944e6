import type { ClientHttp2Stream, IncomingHttpHeaders, IncomingHttpStatusHeader } from "node:http2";
import { AgentError } from "../driver/errors.ts";
import { fromConnectionError, fromStatus } from "./errors.ts";

export interface CallOptions {
  /** Names the call in errors that carry no text: `power.on`. */
  readonly what: string;
  readonly signal?: AbortSignal | undefined;
  readonly metadata?: Readonly<Record<string, string>> | undefined;
  /** The call ends with E_TIMEOUT if it is not over by then; the peer is told how long it has. */
  readonly deadlineMs?: number | undefined;
  /** The call ends with E_TIMEOUT if nothing at all has come by then. For streams that have no deadline. */
  readonly firstAnswerMs?: number | undefined;
}

/** An RPC under way. Whoever started it reads or resumes its stream. */
export interface RpcCall {
  readonly stream: ClientHttp2Stream;
  /** Rejects like `status` if the RPC ends before it. */
  readonly metadata: Promise<IncomingHttpHeaders>;
  /** Settles when the RPC is over. @throws AgentError for any status but OK, and when the connection is lost */
  readonly status: Promise<void>;
  /** @param reason what the status rejects with, if it is not known yet. */
  cancel(reason?: AgentError): void;
}

/** Watches an RPC's headers, trailers and end. @param late called when its time has passed */
export function follow(
  stream: ClientHttp2Stream,
  abort: AbortController,
  { what, signal, deadlineMs, firstAnswerMs }: CallOptions,
  late: () => void,
): RpcCall {
  let failure: unknown;
  const cancel = (reason?: AgentError) => {
    failure ??= reason ?? new AgentError("E_CANCELLED", `${what} was cancelled`, { cause: signal?.reason });
    abort.abort();
  };
  const onAbort = () => cancel();
  signal?.addEventListener("abort", onAbort, { once: true });
  stream.once("error", (error) => {
    failure ??= error;
  });
  const limit = (ms: number | undefined) =>
    ms === undefined
      ? undefined
      : setTimeout(() => {
          cancel(new AgentError("E_TIMEOUT", `${what} was not answered within ${ms / 1_000} s`));
          late();
        }, ms);
  const deadline = limit(deadlineMs);
  const first = limit(firstAnswerMs);
  if (first !== undefined) stream.once("data", () => clearTimeout(first));

  let begin: (headers: IncomingHttpHeaders) => void;
  const status = new Promise<void>((resolve, reject) => {
    const end = (headers: IncomingHttpHeaders) => {
      const error = fromStatus(headers, what);
      if (error === undefined) resolve();
      else reject(error);
    };
    stream.once("response", (headers: IncomingHttpHeaders & IncomingHttpStatusHeader) => {
      // A status in the first headers means that nothing else comes.
      if (headers["grpc-status"] !== undefined || headers[":status"] !== 200) end(headers);
      else begin(headers);
    });
    stream.once("trailers", end);
    stream.once("close", () => {
      signal?.removeEventListener("abort", onAbort);
      clearTimeout(deadline);
      clearTimeout(first);
      reject(fromConnectionError(failure));
    });
  });
  const metadata = new Promise<IncomingHttpHeaders>((resolve, reject) => {
    begin = resolve;
    status.catch(reject);
  });
  metadata.catch(() => {}); // not everybody waits for it
  return { stream, metadata, status, cancel };
}
