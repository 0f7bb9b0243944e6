import type { IncomingMessage, ServerResponse } from "node:http";
import { isDiskFull, Upload, type UploadRefusal, type Uploads } from "../uploads.ts";
import { answer, refuse } from "./answer.ts";
import type { Running } from "./connections.ts";

/** Below it lies what boards leave. */
export const uploadsPath = "/uploads/";

const refusals: Readonly<Record<UploadRefusal, number>> = {
  missing: 404,
  folder: 400,
  special: 403,
  outside: 403,
  forbidden: 403,
  exists: 409,
  full: 507,
};

export interface UploadRequest {
  /** Percent-decoded, below {@link uploadsPath}. */
  readonly name: string;
  readonly uploads: Uploads;
  /** The client waits to be told that its body is wanted (RFC 9110 section 10.1.1). */
  readonly expectsContinue: boolean;
  readonly watch: (running: Pick<Running, "sizeBytes" | "movedBytes">) => () => void;
}

/**
 * Answers PUT or POST: the body becomes a fresh file when it is complete, and nothing before that.
 * @returns what became of it, for the log
 */
export async function takeUpload(
  request: IncomingMessage,
  response: ServerResponse,
  { name, uploads, expectsContinue, watch }: UploadRequest,
): Promise<string> {
  const length = request.headers["content-length"];
  const sizeBytes = length === undefined ? undefined : Number(length);
  const refused = (status: number, text?: string) => refuse(request, response, status, text);
  // A part of a file would make the rest disappear (RFC 9110 section 14.5).
  if (request.headers["content-range"] !== undefined) return await refused(400, "partial uploads are not taken");
  if (request.headers["content-encoding"] !== undefined)
    return await refused(415, "send it as it is, without encoding");
  const tooLarge = `at most ${uploads.maxBytes} bytes`;
  if (sizeBytes !== undefined && sizeBytes > uploads.maxBytes) return await refused(413, tooLarge);
  const upload = await Upload.begin(uploads, name, sizeBytes);
  if ("refused" in upload) return await refused(refusals[upload.refused]);
  let movedBytes = 0;
  const unwatch = watch({ sizeBytes, movedBytes: () => movedBytes });
  try {
    if (expectsContinue) response.writeContinue();
    // Leaving the loop must not end the connection: the client shall read why.
    for await (const chunk of request.iterator({ destroyOnReturn: false }) as AsyncIterable<Buffer>) {
      movedBytes += chunk.length;
      if (movedBytes > uploads.maxBytes) break;
      await upload.write(chunk);
    }
    if (movedBytes > uploads.maxBytes) {
      await upload.discard();
      return await refused(413, tooLarge);
    }
    // A body that ends with its connection is not whole.
    if (!request.complete) throw new Error("the upload was cut");
    if (!(await upload.commit())) return await refused(409);
    response.setHeader("Location", uploadsPath + name.split("/").map(encodeURIComponent).join("/"));
    answer(response, 201);
    return `201 ${movedBytes} bytes`;
  } catch (error) {
    await upload.discard();
    if (isDiskFull(error)) return await refused(507);
    throw error;
  } finally {
    unwatch();
  }
}
