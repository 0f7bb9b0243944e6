import * as z from "zod";

export const contentEncodings = ["gzip", "xz", "bz2", "zstd"] as const;
export type ContentEncoding = (typeof contentEncodings)[number];

const clientStreamHandle = z.object({
  kind: z.literal("client_stream"),
  uuid: z.uuid(),
  x_jmp_content_encoding: z.enum(contentEncodings).nullish().default(null),
});

const presignedRequestHandle = z.object({
  kind: z.literal("presigned_request"),
  headers: z.record(z.string(), z.string()).default({}),
  url: z.string(),
  method: z.enum(["GET", "PUT"]),
});

/** How a client names a byte stream it lends to a call: a stream it opened, or a URL to fetch or fill. */
export const resourceHandle = z.discriminatedUnion("kind", [clientStreamHandle, presignedRequestHandle]);
export type ResourceHandle = z.input<typeof resourceHandle>;
export type CheckedResourceHandle = z.output<typeof resourceHandle>;
