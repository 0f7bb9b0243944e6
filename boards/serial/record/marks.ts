import * as z from "zod";
import type { Entry } from "./protocol.ts";

/** What stands in a record beside the output of the board. */
export const mark = z.discriminatedUnion("mark", [
  /** The agent begins to record, in this boot of the host: monotonic times compare within one. */
  z.object({ mark: z.literal("start"), boot_id: z.string() }),
  z.object({ mark: z.literal("stop") }),
  z.object({ mark: z.literal("port"), state: z.enum(["open", "lost", "missing"]), reason: z.string().optional() }),
  z.object({ mark: z.literal("lease"), edge: z.enum(["begins", "ends"]) }),
  /** A power driver was called; with a reason, the call has failed. */
  z.object({ mark: z.literal("power"), driver: z.string(), action: z.string(), failed: z.string().optional() }),
  /** How often the port's driver has counted each kind of error since the last such mark. */
  z.object({ mark: z.literal("line-errors"), counts: z.record(z.string(), z.number()) }),
  /** From power-on to the first match of `boot_pattern`. */
  z.object({ mark: z.literal("boot"), seconds: z.number() }),
  /** Output that was received and could not be kept. */
  z.object({ mark: z.literal("dropped"), bytes: z.number() }),
  /** Entries that this reader cannot have any more: they were overwritten before it came to them. */
  z.object({ mark: z.literal("missed"), entries: z.number() }),
]);

export type Mark = z.output<typeof mark>;

/** Undefined for what a newer agent may have written. */
export function readMark({ payload }: Entry): Mark | undefined {
  try {
    return mark.safeParse(JSON.parse(Buffer.from(payload).toString("utf8"))).data;
  } catch {
    return undefined;
  }
}

/** For people. */
export function describeMark(told: Mark): string {
  switch (told.mark) {
    case "start":
      return "recording begins";
    case "stop":
      return "recording ends";
    case "port":
      return `port ${told.state}${told.reason === undefined ? "" : `: ${told.reason}`}`;
    case "lease":
      return `lease ${told.edge}`;
    case "power":
      return `power ${told.action} (${told.driver})${told.failed === undefined ? "" : ` failed: ${told.failed}`}`;
    case "line-errors":
      return `line errors: ${Object.entries(told.counts)
        .map(([kind, count]) => `${kind} ${count}`)
        .join(", ")}`;
    case "boot":
      return `booted in ${told.seconds.toFixed(3)} s`;
    case "dropped":
      return `${told.bytes} bytes dropped`;
    case "missed":
      return `${told.entries} entries missed: they were overwritten before they were read`;
  }
}
