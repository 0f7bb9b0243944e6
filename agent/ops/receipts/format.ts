import * as z from "zod";
import { AgentError } from "../../driver/errors.ts";
import type { FlashReceipt } from "../../driver/receipt.ts";

const count = z.number().nonnegative();
const text = z.string();

const step = z.object({
  name: text,
  startMs: count,
  durationMs: count,
  verdict: z.enum(["ok", "failed"]),
  bytes: count.optional(),
  attempt: count.optional(),
});
const range = z.object({ start: count, end: count });

/** What is read of a receipt; what later versions add stays in the file. */
const shape = z.object({
  format: z.literal("jumpstarter-agent/flash-receipt/v1"),
  id: text.optional(),
  exporter: text,
  lease: text.optional(),
  configSha256: text.optional(),
  verdict: z.enum(["verified", "written", "failed", "interrupted"]),
  failure: z.object({ step: text, code: text, message: text }).optional(),
  startedAt: text,
  durationMs: count.optional(),
  driver: text,
  method: z.enum(["netboot-shell", "netboot-fls", "block"]),
  image: z.object({
    name: text.optional(),
    bytes: count.optional(),
    sha256: text.optional(),
    encoding: text.nullable(),
    content: z.object({ bytes: count, mappedBytes: count.optional(), sha256: text }).optional(),
  }),
  bundle: z
    .object({
      name: text,
      reference: text.optional(),
      digest: text.optional(),
      manifestSha256: text,
      files: z.array(z.object({ name: text, address: text, bytes: count, sha256: text })),
    })
    .optional(),
  target: z
    .object({
      path: text,
      bytes: count.optional(),
      model: text.optional(),
      serial: text.optional(),
      cid: text.optional(),
    })
    .optional(),
  ranges: z.object({ written: z.array(range), unchanged: z.array(range) }).optional(),
  readBackSha256: text.optional(),
  steps: z.array(step),
  versions: z.record(z.string(), text).optional(),
});

/** The bytes of a receipt, as they are kept and signed. */
export function receiptText(receipt: FlashReceipt): string {
  return JSON.stringify(receipt, undefined, 2) + "\n";
}

/** @throws AgentError E_INVALID */
export function parseReceipt(text: string): FlashReceipt {
  try {
    return shape.parse(JSON.parse(text)) as FlashReceipt;
  } catch (cause) {
    throw new AgentError("E_INVALID", "this is no receipt of a flash", { cause });
  }
}
