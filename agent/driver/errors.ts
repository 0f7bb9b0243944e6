import { getSystemErrorMap } from "node:util";
import * as z from "zod";
import { errorCodes, type ErrorCode } from "./error-codes.ts";

/** What kind of failure an error is; each maps to one gRPC status (see {@link grpcAnswerOf}). */
export type ErrorCategory =
  | "cancelled"
  | "failed"
  | "invalid"
  | "timeout"
  | "no-such-method"
  | "permission-denied"
  | "exhausted"
  | "precondition"
  | "unsupported"
  | "io"
  | "unavailable"
  | "unauthenticated";

/** gRPC status numbers (google.rpc.Code), the only place where categories meet them. */
const grpcStatus: Record<ErrorCategory, number> = {
  cancelled: 1,
  failed: 2,
  invalid: 3,
  timeout: 4,
  "no-such-method": 5,
  "permission-denied": 7,
  exhausted: 8,
  precondition: 9,
  unsupported: 12,
  io: 13,
  unavailable: 14,
  unauthenticated: 16,
};

export interface AgentErrorOptions {
  /** What the reader can do about it; printed by the command line, never sent to clients. */
  hint?: string | undefined;
  cause?: unknown;
  /** What another gRPC server answered with; clients get it as it came. */
  answer?: GrpcAnswer | undefined;
}

/** How an RPC ended: status number and text. */
export interface GrpcAnswer {
  readonly status: number;
  readonly details: string;
}

/**
 * The one error class of the agent. `code` is stable and listed in docs/errors.md;
 * `message` is what a remote client shows, so it must stand alone.
 */
export class AgentError extends Error {
  readonly code: ErrorCode;
  readonly category: ErrorCategory;
  readonly hint: string | undefined;
  readonly answer: GrpcAnswer | undefined;

  constructor(code: ErrorCode, message: string, options: AgentErrorOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = "AgentError";
    this.code = code;
    this.category = errorCodes[code].category;
    this.hint = options.hint;
    this.answer = options.answer;
  }
}

/** Thrown by a driver's `open` (or set later) when its hardware is missing: only this driver is offline. */
export class DeviceOffline extends AgentError {
  constructor(reason: string, options: AgentErrorOptions = {}) {
    super("E_DEVICE_OFFLINE", reason, options);
    this.name = "DeviceOffline";
  }
}

/** True for errors that Node makes from a failed system call (`ENOENT`, `ECONNREFUSED`, …). */
export function isSystemError(error: unknown): error is NodeJS.ErrnoException & { errno: number; code: string } {
  return (
    error instanceof Error &&
    typeof (error as NodeJS.ErrnoException).errno === "number" &&
    typeof (error as NodeJS.ErrnoException).code === "string"
  );
}

const connectionErrors = new Set(["ECONNREFUSED", "ECONNRESET", "ECONNABORTED", "EPIPE", "ESHUTDOWN"]);

/** Python's wording of an errno, because clients and tests compare it: `[Errno 2] No such file or directory: '/x'`. */
function describeSystemError(error: NodeJS.ErrnoException & { errno: number }): string {
  const text = getSystemErrorMap().get(error.errno)?.[1] ?? error.code ?? "unknown error";
  const where = error.path === undefined ? "" : `: '${error.path}'`;
  return `[Errno ${Math.abs(error.errno)}] ${text.charAt(0).toUpperCase()}${text.slice(1)}${where}`;
}

/** One line for a failed schema check: each problem with its path. */
export function describeZodError(error: z.ZodError): string {
  return error.issues
    .map((issue) => (issue.path.length === 0 ? issue.message : `${issue.path.join(".")}: ${issue.message}`))
    .join("; ");
}

/** Turns anything that was thrown into an AgentError with the category that clients expect. */
export function toAgentError(thrown: unknown): AgentError {
  if (thrown instanceof AgentError) return thrown;
  if (thrown instanceof z.ZodError) return new AgentError("E_INVALID", describeZodError(thrown), { cause: thrown });
  if (isSystemError(thrown)) {
    const message = describeSystemError(thrown);
    if (thrown.code === "ETIMEDOUT") return new AgentError("E_TIMEOUT", message, { cause: thrown });
    if (connectionErrors.has(thrown.code)) return new AgentError("E_CONNECTION", message, { cause: thrown });
    return new AgentError("E_IO", message, { cause: thrown });
  }
  if (thrown instanceof AggregateError && thrown.errors.length > 0) return toAgentError(thrown.errors.at(-1));
  if (thrown instanceof Error) {
    if (thrown.name === "AbortError") return new AgentError("E_CANCELLED", thrown.message, { cause: thrown });
    if (thrown.name === "TimeoutError") return new AgentError("E_TIMEOUT", thrown.message, { cause: thrown });
    return new AgentError("E_FAILED", thrown.message, { cause: thrown });
  }
  return new AgentError("E_FAILED", String(thrown));
}

/** How an RPC ends that fails with this error. */
export function grpcAnswerOf(error: AgentError): GrpcAnswer {
  return error.answer ?? { status: grpcStatus[error.category], details: error.message };
}
