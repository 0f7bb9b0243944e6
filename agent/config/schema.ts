import * as z from "zod";
import type { ConfigProblem, Entry } from "../driver/entry.ts";
import { problemsOf, unknownKey } from "../driver/problems.ts";
import { readEntries, type Findings } from "./entries.ts";

/** A whole number, also as text or `5.0`, as the Python exporter reads it. */
const whole = z.preprocess(
  (value) => (typeof value === "string" && /^\s*[+-]?\d+(\.0*)?\s*$/.test(value) ? Number(value) : value),
  z.int().nonnegative("must not be negative"),
);

/** true or false, also in the words and numbers that the Python exporter takes for them. */
const flag = z.preprocess(
  (value) => {
    const word = String(value).toLowerCase();
    if (["true", "t", "yes", "y", "on", "1"].includes(word)) return true;
    return ["false", "f", "no", "n", "off", "0"].includes(word) ? false : value;
  },
  z.boolean({ error: "must be true or false" }),
);

/** Lets a key be written in a second way. */
function alsoNamed(aliases: Record<string, string>) {
  return (value: unknown) => {
    if (typeof value !== "object" || value === null || Array.isArray(value)) return value;
    const named: Record<string, unknown> = { ...value };
    for (const [alias, name] of Object.entries(aliases)) {
      if (alias in named && !(name in named)) named[name] = named[alias];
      delete named[alias];
    }
    return named;
  };
}

const hook = z.object({
  script: z.string(),
  exec: z.string().nullish().default(null),
  timeout: whole.default(120),
  onFailure: z.enum(["warn", "endLease", "exit"]).default("warn"),
});

const hookAliases = { exec_: "exec", on_failure: "onFailure" };

const hooks = z.object({
  beforeLease: z.preprocess(alsoNamed(hookAliases), hook.nullish()).default(null),
  afterLease: z.preprocess(alsoNamed(hookAliases), hook.nullish()).default(null),
});

const failureDetection = z.object({
  maxRapidFailures: whole.default(5),
  rapidFailureWindow: whole.default(60),
});

const tls = z.object({
  ca: z
    .string()
    .refine((text) => /^[A-Za-z0-9+/\s]*=*\s*$/.test(text), "must be base64 of PEM certificates")
    .default(""),
  insecure: flag.default(false),
});

const metadata = z.strictObject({
  name: z
    .string({
      error: (issue) => (issue.input === undefined ? "is missing; give it here or in JMP_NAME" : undefined),
    })
    .min(1, "must not be empty"),
  namespace: z.string().nullish().default(null),
});

/** The file that the Python exporter calls ExporterConfig (v1alpha1). */
const exporterConfig = z.object({
  apiVersion: z.literal("jumpstarter.dev/v1alpha1").default("jumpstarter.dev/v1alpha1"),
  kind: z.literal("ExporterConfig").default("ExporterConfig"),
  metadata,
  endpoint: z.string().nullish().default(null),
  token: z.string().nullish().default(null),
  tls: tls.prefault({}),
  grpcOptions: z
    .record(z.string(), z.union([z.string(), z.int(), z.boolean().transform(Number)]))
    .nullish()
    .transform((options) => options ?? {}),
  description: z.string().nullish().default(null),
  motd: z.string().nullish().default(null),
  export: z.record(z.string(), z.unknown()).default({}),
  hooks: z.preprocess(alsoNamed({ before_lease: "beforeLease", after_lease: "afterLease" }), hooks).prefault({}),
  failureDetection: z
    .preprocess(
      alsoNamed({ max_rapid_failures: "maxRapidFailures", rapid_failure_window: "rapidFailureWindow" }),
      failureDetection,
    )
    .prefault({}),
  exitOnLeaseEnd: flag.default(false),
  /** Written by some tools, read by nobody. */
  alias: z.unknown().optional(),
});

/** A checked configuration. `export` has the shapes of the driver room, its types and configs are not checked yet. */
export type ExporterConfig = Omit<z.output<typeof exporterConfig>, "alias" | "export"> & {
  readonly export: Readonly<Record<string, Entry>>;
};

/** Where unknown keys are pointed out; those of `metadata` are errors, those of drivers are seen to with the drivers. */
const keysAt: { path: string[]; known: string[] }[] = [
  { path: [], known: Object.keys(exporterConfig.shape).filter((key) => key !== "alias") },
  { path: ["tls"], known: Object.keys(tls.shape) },
  { path: ["hooks"], known: [...Object.keys(hooks.shape), "before_lease", "after_lease"] },
  ...["beforeLease", "before_lease", "afterLease", "after_lease"].map((name) => ({
    path: ["hooks", name],
    known: [...Object.keys(hook.shape), ...Object.keys(hookAliases)],
  })),
  {
    path: ["failureDetection"],
    known: [...Object.keys(failureDetection.shape), "max_rapid_failures", "rapid_failure_window"],
  },
];

/** Keys that documents and habits suggest, but no exporter reads. */
const traps: Record<string, string> = {
  grpcConfig: "is read by no exporter, write grpcOptions",
};

/**
 * Checks a whole configuration.
 * @param env gives `JMP_NAME` and `JMP_NAMESPACE` where the file does not
 * @returns the configuration if nothing is wrong, all there is to say about it, and those drivers that can be read
 */
export function checkExporterConfig(
  value: unknown,
  env: NodeJS.ProcessEnv,
): Findings & { readonly config: ExporterConfig | undefined; readonly exported: Readonly<Record<string, Entry>> } {
  const findings: Findings = { problems: [], warnings: [] };
  const parsed = exporterConfig.safeParse(withEnvironment(value, env));
  if (!parsed.success) findings.problems.push(...problemsOf(parsed.error, [], Object.keys(metadata.shape)));
  for (const { path, known } of keysAt) {
    for (const key of Object.keys(mapAt(value, path) ?? {})) {
      if (known.includes(key) || (path.length === 0 && key === "alias")) continue;
      const trap = path.length === 0 ? traps[key] : undefined;
      findings.warnings.push({ path: [...path, key], message: trap ?? unknownKey(key, known), aboutKey: true });
    }
  }
  const entries = mapAt(value, ["export"]);
  const exported = entries === undefined ? {} : readEntries(entries, ["export"], findings);
  if (!parsed.success || findings.problems.length > 0) return { ...findings, exported, config: undefined };
  const { alias: _alias, ...config } = parsed.data;
  return { ...findings, exported, config: { ...config, export: exported } };
}

function mapAt(value: unknown, path: ConfigProblem["path"]): Record<string, unknown> | undefined {
  let here = value;
  for (const key of path) here = isMap(here) ? here[key] : undefined;
  return isMap(here) ? here : undefined;
}

function isMap(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** What the file leaves out is taken from the environment; the file wins. */
function withEnvironment(value: unknown, env: NodeJS.ProcessEnv): unknown {
  if (!isMap(value)) return value;
  const given = value["metadata"] ?? {};
  if (!isMap(given)) return value;
  const named = {
    ...(env["JMP_NAME"] ? { name: env["JMP_NAME"] } : {}),
    ...(env["JMP_NAMESPACE"] ? { namespace: env["JMP_NAMESPACE"] } : {}),
  };
  return { ...value, metadata: { ...named, ...given } };
}
