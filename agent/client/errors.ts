import type { IncomingHttpHeaders } from "node:http2";
import { AgentError, toAgentError } from "../driver/errors.ts";
import { codeOfStatus } from "../driver/status-codes.ts";

/**
 * What an RPC ended with, from its trailers: undefined for OK, else the peer's own words with the code of
 * their status.
 * @param what names the call; it is in the message when the exporter sent none.
 */
export function fromStatus(trailers: IncomingHttpHeaders, what: string): AgentError | undefined {
  const status = trailers["grpc-status"];
  if (status === undefined) {
    return new AgentError(
      "E_CONNECTION",
      `what answers ${what} does not speak gRPC (HTTP status ${String(trailers[":status"])})`,
    );
  }
  const number = Number(status);
  if (number === 0) return undefined;
  const details = decodeMessage(String(trailers["grpc-message"] ?? ""));
  const code = codeOfStatus.get(number) ?? "E_FAILED";
  return new AgentError(code, details === "" ? `${what} failed without a reason (gRPC status ${number})` : details);
}

/** Undoes the percent-encoding of `grpc-message`; what is not well-formed stays as it is. */
function decodeMessage(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

/** Why an RPC ended without trailers. */
export function fromConnectionError(failure: unknown): AgentError {
  if (failure instanceof AgentError) return failure;
  // A call that waited for the connection carries the reason why there is none.
  const reason = failure instanceof Error && failure.cause !== undefined ? failure.cause : failure;
  const lost = reason === undefined ? "the connection is lost" : toAgentError(reason).message;
  return new AgentError("E_CONNECTION", lost, { cause: failure });
}
