import * as z from "zod";
import * as lax from "../../../agent/driver/lax.ts";

const MiB = 1024 * 1024;

function isPattern(source: string): boolean {
  try {
    new RegExp(source, "u");
    return true;
  } catch {
    return false;
  }
}

const settings = z.strictObject({
  memory_bytes: lax
    .int(64 * 1024, 256 * MiB)
    .prefault(MiB)
    .describe("the last of it, in memory"),
  directory: z
    .string()
    .startsWith("/", "must be an absolute path")
    .nullish()
    .describe("where the files are; default: consoles in the state directory"),
  max_file_bytes: lax
    .int(64 * 1024, 1024 * MiB)
    .prefault(4 * MiB)
    .describe("a new file is begun before this one grows larger"),
  max_files: lax.int(0, 10_000).prefault(8).describe("files of this port that are kept; 0: in memory only"),
  boot_pattern: z
    .string()
    .min(1)
    .refine(isPattern, "must be a regular expression")
    .nullish()
    .describe("what the board prints when it has booted; the time from power on is measured"),
  share: lax.boolean().prefault(false).describe("a client may read what was recorded before its own lease"),
});

export type RecordSettings = z.output<typeof settings>;

/** `record:` of a serial driver: off, on, or on with settings of its own. */
export const recordConfig = z
  .union([lax.boolean(), settings], { error: "must be true, false or a map" })
  .prefault(false)
  .transform((given): RecordSettings | undefined => {
    if (typeof given !== "boolean") return given;
    return given ? settings.parse({}) : undefined;
  })
  .describe("write down all that the board prints, also between leases; keeps the port open");
