import type { Readable, Writable } from "node:stream";
import { AgentError } from "../driver/errors.ts";

export async function presignedSource(_request: unknown, _signal: AbortSignal): Promise<Readable> {
  throw new AgentError("E_UNSUPPORTED", "presigned requests");
}
export async function presignedSink(_request: unknown, _signal: AbortSignal): Promise<Writable> {
  throw new AgentError("E_UNSUPPORTED", "presigned requests");
}
