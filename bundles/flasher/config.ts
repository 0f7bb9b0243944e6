import * as z from "zod";
import type { AgentError } from "../../agent/driver/errors.ts";
import { parseBytes } from "../cache/bytes.ts";
import { parseReference } from "../oci/reference.ts";
import { confinedPath } from "../paths.ts";
import { compileReferencePattern } from "../reference-pattern.ts";
import { registrySettings } from "../registry-settings.ts";
import { signatureSettings } from "../signature/policy.ts";

/** Text that a parser takes; its complaint is the problem that is shown. */
const textFor = (parse: (text: string) => unknown) =>
  z.string().superRefine((text, context) => {
    try {
      parse(text);
    } catch (error) {
      context.addIssue({ code: "custom", message: (error as AgentError).message });
    }
  });

/** The `config:` of a flasher. @param defaultBundle a complete reference */
export const flasherConfig = (defaultBundle: string) =>
  z
    .strictObject({
      flasher_bundle: textFor(parseReference)
        .default(defaultBundle)
        .describe("[host[:port]/]namespace/repository[:tag][@digest], oci-layout:DIR[:tag] or file:DIR"),
      cache_dir: z
        .string()
        .nullish()
        .describe("where pulled bundles are kept; default /var/lib/jumpstarter/flasher, or the user's cache directory"),
      cache_limit: z
        .union([z.string(), z.int()])
        .refine((limit) => parseBytes(limit) !== undefined, "must be bytes, or a text like 8GiB")
        .default("16GiB")
        .describe("most that all pulled bundles of the host take, in bytes or as 8GiB; those not used for longest go"),
      tftp_dir: z.string().default("/var/lib/tftpboot"),
      http_dir: z.string().default("/var/www/html"),
      variant: z.string().nullable().default(null).describe("device tree variant; default: the manifest's"),
      manifest: z
        .string()
        .refine((path) => confinedPath(path) !== undefined, "must be a path inside the bundle")
        .default("manifest.yaml"),
      default_target: z.string().nullable().default(null).describe("where to flash if neither client nor manifest say"),
      cacert: z.string().nullable().default(null).describe("PEM file that the board uses to check image servers"),
      ...registrySettings,
      allowed_bundles: z
        .array(textFor(compileReferencePattern))
        .nullish()
        .describe("bundles that clients may ask for instead; may end with /* or :*. Default: any of a registry"),
      ...signatureSettings,
      fls_path: z.string().nullish().describe("fls program for boards; default /usr/local/bin/fls-aarch64 or …/fls"),
    })
    .superRefine((config, context) => {
      const problem = (key: string, message: string) => context.addIssue({ code: "custom", path: [key], message });
      const keyless = config.signature_keys.length === 0;
      if (config.require_signature === true && keyless) problem("require_signature", "there are no signature_keys");
      if (config.flasher_bundle.startsWith("file:") && (config.require_signature ?? !keyless)) {
        problem("flasher_bundle", "a directory has no signature, and signatures are required");
      }
    });

export type FlasherConfig = z.output<ReturnType<typeof flasherConfig>>;
