import { parse, parseDocument } from "yaml";
import * as z from "zod";
import { AgentError } from "../agent/driver/errors.ts";
import { baseName, confinedPath } from "./paths.ts";

const bundlePath = z.string().transform((path, context) => {
  const confined = confinedPath(path);
  if (confined !== undefined) return confined;
  context.issues.push({
    code: "custom",
    input: path,
    message: `${JSON.stringify(path)} is not a path inside the bundle`,
  });
  return z.NEVER;
});

/** U-Boot takes addresses as text; YAML reads an unquoted 0x82000000 as a number. */
const address = z.string({ error: 'must be text: put the address in quotes, as in "0x82000000"' });

const loadedFile = z.object({ file: bundlePath, address });

const dtbVariant = z.object({
  bootcmd: z.string().nullable().default(null),
  /** Empty text says "none", as null does. */
  file: z.preprocess((file) => (file === "" ? null : file), bundlePath.nullable().default(null)),
});

const flasherLogin = z.object({
  login_prompt: z.string(),
  username: z.string().nullable().default(null),
  password: z.string().nullable().default(null),
  prompt: z.string(),
});

/** `FlashBundleManifest`: what a flasher bundle holds and how a board boots it. Unknown keys are ignored. */
const flasherManifest = z.object({
  apiVersion: z.literal("jumpstarter.dev/v1alpha1").default("jumpstarter.dev/v1alpha1"),
  kind: z.literal("FlashBundleManifest").default("FlashBundleManifest"),
  metadata: z.object({ name: z.string() }),
  spec: z.object({
    manufacturer: z.string(),
    link: z.string().nullable(),
    bootcmd: z.string(),
    shelltype: z.literal("busybox").default("busybox"),
    login: flasherLogin.default({ login_prompt: "login:", username: null, password: null, prompt: "#" }),
    default_target: z.string(),
    /** `/dev/…`, or `/sys/class/block#TEXT` for the block device whose sysfs link holds TEXT. */
    targets: z.record(z.string(), z.string()),
    kernel: loadedFile,
    initram: loadedFile.nullable().default(null),
    dtb: z
      .object({
        default: z.string(),
        address,
        /** Early bundles gave the file name alone. */
        variants: z.record(
          z.string(),
          z.preprocess((variant) => (typeof variant === "string" ? { file: variant } : variant), dtbVariant),
        ),
      })
      .nullable()
      .default(null),
    preflash_commands: z.array(z.string()).default([]),
  }),
});
export type FlasherManifest = z.output<typeof flasherManifest>;
export type DtbVariant = z.output<typeof dtbVariant>;

/**
 * Reads the YAML text of a manifest.
 * @param name what errors call the text, e.g. its file name
 * @throws AgentError E_INVALID with every problem and the path of its key
 */
export function parseManifest(text: string, name = "manifest.yaml"): FlasherManifest {
  let document: unknown;
  try {
    document = parse(text, { merge: true, logLevel: "error" });
  } catch (error) {
    const [reason] = String((error as Error).message).split("\n");
    throw new AgentError("E_INVALID", `${name} is not YAML: ${reason ?? ""}`, { cause: error });
  }
  const parsed = flasherManifest.safeParse(document);
  if (!parsed.success) {
    const problems = parsed.error.issues.map((issue) => `${issue.path.join(".") || "document"}: ${issue.message}`);
    throw new AgentError("E_INVALID", `${name} is not a flasher bundle manifest: ${problems.join("; ")}`);
  }
  checkBootNames(parsed.data, name);
  return parsed.data;
}

/** TFTP knows the files by their last name only: two files of one boot must not share it. */
function checkBootNames({ spec: { kernel, initram, dtb } }: FlasherManifest, name: string): void {
  const taken = new Map([[baseName(kernel.file), kernel.file]]);
  const check = (key: string, file: string | null | undefined) => {
    const other = file && taken.get(baseName(file));
    if (other && other !== file) {
      throw new AgentError("E_INVALID", `${name}: ${key}: ${file} and ${other} have the same last name`);
    }
  };
  check("spec.initram.file", initram?.file);
  if (initram !== null) taken.set(baseName(initram.file), initram.file);
  // Variants are not loaded together, and may be of one name.
  for (const [variant, { file }] of Object.entries(dtb?.variants ?? {}))
    check(`spec.dtb.variants.${variant}.file`, file);
}

/**
 * The device tree variant in use.
 * @param chosen its name, or null for the manifest's default
 * @returns undefined if the bundle has no device trees
 * @throws AgentError E_INVALID if the manifest has no such variant
 */
export function dtbVariantOf({ spec }: FlasherManifest, chosen: string | null): DtbVariant | undefined {
  if (spec.dtb === null) return undefined;
  const variant = chosen ?? spec.dtb.default;
  if (!Object.hasOwn(spec.dtb.variants, variant)) {
    throw new AgentError("E_INVALID", `DTB variant ${variant} not found in the manifest.`);
  }
  return spec.dtb.variants[variant];
}

/** The text of a manifest with another default variant, all else as it was written. */
export function withDefaultVariant(text: string, variant: string): string {
  const document = parseDocument(text, { merge: true });
  document.setIn(["spec", "dtb", "default"], variant);
  return document.toString();
}

/** The U-Boot command that boots the loaded files. @throws AgentError E_INVALID for an unknown variant */
export function bootCommandOf(manifest: FlasherManifest, chosen: string | null): string {
  return dtbVariantOf(manifest, chosen)?.bootcmd || manifest.spec.bootcmd;
}
