import { access, constants, readFile } from "node:fs/promises";
import * as z from "zod";
import { defineDriver, type Call, type ChildrenContext, type OpenContext } from "../../agent/driver/driver.ts";
import type { Entry } from "../../agent/driver/entry.ts";
import { AgentError } from "../../agent/driver/errors.ts";
import { unsupported } from "../../agent/driver/interface.ts";
import { fileOf, openBundle, type Bundle } from "../bundle.ts";
import { BundleCache } from "../cache.ts";
import { cacheDirectory } from "../cache-directory.ts";
import { bootCommandOf, dtbVariantOf, parseManifest, withDefaultVariant, type FlasherManifest } from "../manifest.ts";
import { formatReference, parseReference, type Reference } from "../oci/reference.ts";
import { baseName, confinedPath } from "../paths.ts";
import { flasher } from "./interface.ts";
import { stagingOf } from "./staging.ts";

const reference = z.string().superRefine((text, context) => {
  try {
    parseReference(text);
  } catch (error) {
    context.addIssue({ code: "custom", message: (error as AgentError).message });
  }
});

/** An address of a plain-http registry is written as in references. */
const registryHost = z.string().regex(/^[^/\s]+$/, "must be host or host:port");

const configOf = (defaultBundle: string) =>
  z.strictObject({
    flasher_bundle: reference
      .default(defaultBundle)
      .describe("[host[:port]/]namespace/repository[:tag][@digest], oci-layout:DIR[:tag] or file:DIR"),
    cache_dir: z
      .string()
      .nullish()
      .describe("where pulled bundles are kept; default /var/lib/jumpstarter/flasher, or the user's cache directory"),
    tftp_dir: z.string().default("/var/lib/tftpboot"),
    http_dir: z.string().default("/var/www/html"),
    variant: z.string().nullable().default(null).describe("device tree variant; default: the manifest's"),
    manifest: z
      .string()
      .refine((path) => confinedPath(path) !== undefined, "must be a path inside the bundle")
      .default("manifest.yaml"),
    default_target: z.string().nullable().default(null).describe("where to flash if neither client nor manifest say"),
    cacert: z.string().nullable().default(null).describe("PEM file that the board uses to check image servers"),
    plain_http: z
      .array(registryHost)
      .default([])
      .describe("registries (host or host:port) that are spoken to without TLS"),
    registry_ca: z.string().nullish().describe("PEM file of a certificate authority that registries use"),
    allowed_bundles: z
      .array(z.union([z.string().endsWith("*"), reference]))
      .nullish()
      .describe("bundles that clients may ask for instead; a * at the end stands for anything. Default: any registry"),
    fls_path: z.string().nullish().describe("fls program for boards; default /usr/local/bin/fls-aarch64 or …/fls"),
  });
type Config = z.output<ReturnType<typeof configOf>>;

const required = (child: string) =>
  `'${child}' instance is required for BaseFlasher either via a ref ir a direct child instance`;

/** What a lease has chosen; all of it ends with the lease. */
interface LeaseState {
  /** Bundle asked for by the client. */
  forced: Reference | undefined;
  variant: string | null;
  /** By complete reference: within a lease a bundle does not change, whatever happens to its tag. */
  readonly opened: Map<string, Promise<OpenedBundle>>;
}

interface OpenedBundle {
  readonly bundle: Bundle;
  readonly yaml: string;
  readonly manifest: FlasherManifest;
}

function defineFlasher(name: string, defaultBundle: string, summary: string) {
  return defineDriver({
    types: [`jumpstarter_driver_flashers.driver.${name}`],
    summary,
    implements: flasher,
    config: configOf(`quay.io/jumpstarter-dev/${defaultBundle}:latest`),
    requires: { serial: required("serial"), power: required("power") },
    children: broughtAlong,
    needs: ({ cache_dir }) => ({ directories: typeof cache_dir === "string" ? [cache_dir] : [] }),
    open: openFlasher,
  });
}

export const baseFlasher = defineFlasher(
  "BaseFlasher",
  "jumpstarter-flasher-test",
  "Flashes a board by netbooting it from U-Boot into a bundle's small system.",
);
export const tiJ784s4Flasher = defineFlasher(
  "TIJ784S4Flasher",
  "jumpstarter-flasher-ti-j784s4",
  "BaseFlasher with the bundle for TI J784S4 boards.",
);
export const rcarS4Flasher = defineFlasher(
  "RCarS4Flasher",
  "jumpstarter-flasher-rcar-s4",
  "BaseFlasher with the bundle for Renesas R-Car S4 boards.",
);

/** The boot services and the U-Boot console, unless they are configured. */
function broughtAlong({ config, path, configured }: ChildrenContext<Config>): Record<string, Entry> {
  const sibling = (name: string) => ({ ref: path === "" ? name : `${path}.${name}` });
  const children: Record<string, Entry> = {
    tftp: {
      type: "jumpstarter_driver_tftp.driver.Tftp",
      config: { root_dir: config.tftp_dir, remove_created_on_close: true },
    },
    http: {
      type: "jumpstarter_driver_http.driver.HttpServer",
      config: { root_dir: config.http_dir, remove_created_on_close: true },
    },
    uboot: {
      type: "jumpstarter_driver_uboot.driver.UbootConsole",
      children: { power: sibling("power"), serial: sibling("serial") },
    },
  };
  return Object.fromEntries(Object.entries(children).filter(([name]) => !Object.hasOwn(configured, name)));
}

function openFlasher(context: OpenContext<Config>) {
  const { config, children, log } = context;
  const tftp = stagingOf(children, "tftp");
  const http = stagingOf(children, "http");
  const configured = parseReference(config.flasher_bundle);
  const newLease = (): LeaseState => ({ forced: undefined, variant: config.variant, opened: new Map() });
  let lease = newLease();
  /** Files are put in place by one call at a time. */
  let staging: Promise<unknown> = Promise.resolve();

  const bundleAccess = {
    plainHttp: config.plain_http,
    registryCa: config.registry_ca ?? undefined,
    environmentCredentialsFor: configured.kind === "registry" ? configured.host : undefined,
    cache: async () => {
      const directory = await cacheDirectory(config.cache_dir ?? undefined);
      return context.shared(`bundles:${directory}`, () => new BundleCache({ directory, log }));
    },
  };

  const open = async (wanted: Reference): Promise<OpenedBundle> => {
    const bundle = await openBundle(wanted, bundleAccess);
    const yaml = await readFile(await fileOf(bundle, confinedPath(config.manifest) as string), "utf8");
    const manifest = parseManifest(yaml, `${config.manifest} of ${bundle.reference}`);
    log.info(`using the bundle ${manifest.metadata.name} from ${bundle.reference} (${bundle.digest ?? "a directory"})`);
    return { bundle, yaml, manifest };
  };

  /** The lease's bundle; pulled if it is not here. A caller who gives up does not end the pull. */
  const opened = async ({ signal }: Call, state = lease): Promise<OpenedBundle> => {
    const wanted = state.forced ?? configured;
    const name = formatReference(wanted);
    const underWay = state.opened.get(name) ?? open(wanted);
    state.opened.set(name, underWay);
    underWay.catch(() => state.opened.delete(name));
    return await unlessAborted(underWay, signal);
  };

  const force = (text: string) => {
    const wanted = parseReference(text);
    checkAllowed(wanted, config.allowed_bundles ?? undefined, configured);
    lease.forced = wanted;
  };

  const stage = async (call: Call, state: LeaseState) => {
    const { bundle, manifest } = await opened(call, state);
    for (const [name, path] of bootFiles(manifest, state.variant)) {
      log.info(`Setting up ${path} in tftp as ${name}`);
      await tftp.put(await fileOf(bundle, path), name, call.signal);
    }
  };

  return {
    methods: {
      setup_flasher_bundle: async (call: Call, forced: string | null | undefined) => {
        if (forced) force(forced);
        const state = lease;
        const turn = staging.then(() => stage(call, state));
        staging = turn.catch(() => {});
        await turn;
      },
      get_flasher_manifest_yaml: async (call: Call) => {
        const state = lease;
        return manifestForClient(await opened(call, state), state.variant);
      },
      get_default_target: () => config.default_target,
      get_cacert: async () => (config.cacert === null ? null : await readFile(config.cacert, "utf8")),
      setup_fls_binary: async (call: Call) => {
        await http.put(await findFls(config.fls_path ?? undefined), "fls", call.signal);
      },
      use_dtb_variant: async (call: Call, variant: string) => {
        const state = lease;
        const { spec } = (await opened(call, state)).manifest;
        const variants = spec.dtb?.variants ?? {};
        if (!Object.hasOwn(variants, variant)) {
          const names = Object.keys(variants).map((name) => `'${name}'`);
          const message = `DTB variant ${variant} not found in the flasher bundle, available variants are: [${names.join(", ")}].`;
          throw new AgentError("E_INVALID", message);
        }
        state.variant = variant;
      },
      set_dtb: unsupported("a device tree of the client's own is not supported; use a variant of the bundle"),
      get_kernel_filename: async (call: Call) => baseName((await opened(call)).manifest.spec.kernel.file),
      get_initram_filename: async (call: Call) => {
        const { initram } = (await opened(call)).manifest.spec;
        return initram === null ? null : baseName(initram.file);
      },
      get_dtb_filename: async (call: Call) => {
        const state = lease;
        const file = dtbVariantOf((await opened(call, state)).manifest, state.variant)?.file;
        return file ? baseName(file) : "";
      },
      get_kernel_address: async (call: Call) => (await opened(call)).manifest.spec.kernel.address,
      get_initram_address: async (call: Call) => (await opened(call)).manifest.spec.initram?.address ?? null,
      get_dtb_address: async (call: Call) => (await opened(call)).manifest.spec.dtb?.address ?? null,
      get_bootcmd: async (call: Call) => {
        const state = lease;
        return bootCommandOf((await opened(call, state)).manifest, state.variant);
      },
    },
    release: () => {
      lease = newLease();
    },
  };
}

/**
 * Name on the TFTP server → path in the bundle. Clients load the device tree of the manifest's default variant, whichever
 * is in use, so the one in use also goes by that name.
 */
function bootFiles(manifest: FlasherManifest, variant: string | null): Map<string, string> {
  const { kernel, initram } = manifest.spec;
  const used = dtbVariantOf(manifest, variant)?.file ?? null;
  const byDefault = defaultDtb(manifest);
  const files = new Map<string, string>();
  if (byDefault !== null) files.set(baseName(byDefault), used ?? byDefault);
  if (used !== null) files.set(baseName(used), used);
  if (initram !== null) files.set(baseName(initram.file), initram.file);
  files.set(baseName(kernel.file), kernel.file);
  return files;
}

function defaultDtb({ spec: { dtb } }: FlasherManifest): string | null {
  return dtb !== null && Object.hasOwn(dtb.variants, dtb.default) ? (dtb.variants[dtb.default]?.file ?? null) : null;
}

/** As written, except where a client could not find out which device tree to load: no file by default, one in use. */
function manifestForClient({ yaml, manifest }: OpenedBundle, variant: string | null): string {
  if (variant === null || defaultDtb(manifest) !== null || !dtbVariantOf(manifest, variant)?.file) return yaml;
  return withDefaultVariant(yaml, variant);
}

/**
 * Clients may name another bundle, but not read the exporter's disk by naming directories.
 * @throws AgentError E_INVALID
 */
function checkAllowed(wanted: Reference, allowed: readonly string[] | undefined, configured: Reference): void {
  const name = formatReference(wanted);
  if (name === formatReference(configured)) return;
  const fits = (pattern: string) =>
    pattern.endsWith("*") ? name.startsWith(pattern.slice(0, -1)) : name === formatReference(parseReference(pattern));
  if (allowed === undefined ? wanted.kind === "registry" : allowed.some(fits)) return;
  throw new AgentError("E_INVALID", `this exporter does not allow the bundle ${name}`, {
    hint: "list it under allowed_bundles in the flasher's config",
  });
}

async function findFls(configured: string | undefined): Promise<string> {
  const candidates = configured === undefined ? ["/usr/local/bin/fls-aarch64", "/usr/local/bin/fls"] : [configured];
  for (const path of candidates) {
    if (await isAccessible(path, constants.R_OK)) return path;
  }
  throw new AgentError("E_FAILED", `fls binary not found at ${candidates.join(" or ")}`);
}

async function isAccessible(path: string, mode: number): Promise<boolean> {
  return await access(path, mode).then(
    () => true,
    () => false,
  );
}

/** Waits for a promise that goes on without the caller. */
async function unlessAborted<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  signal.throwIfAborted();
  let stop: (() => void) | undefined;
  const aborted = new Promise<never>((_, reject) => {
    stop = () => reject(signal.reason as Error);
    signal.addEventListener("abort", stop, { once: true });
  });
  try {
    return await Promise.race([promise, aborted]);
  } finally {
    if (stop !== undefined) signal.removeEventListener("abort", stop);
  }
}
