import { constants } from "node:fs";
import { access, readFile } from "node:fs/promises";
import { defineDriver, type Call, type ChildrenContext, type OpenContext } from "../../agent/driver/driver.ts";
import type { Entry } from "../../agent/driver/entry.ts";
import { AgentError } from "../../agent/driver/errors.ts";
import { unsupported } from "../../agent/driver/interface.ts";
import { fileOf, openBundle } from "../bundle.ts";
import { BundleCache } from "../cache/cache.ts";
import { parseBytes } from "../cache/bytes.ts";
import { cacheDirectory } from "../cache-directory.ts";
import { bootCommandOf, dtbVariantOf, parseManifest } from "../manifest.ts";
import { formatReference, parseReference, type Reference } from "../oci/reference.ts";
import { baseName, confinedPath } from "../paths.ts";
import { compileReferencePattern } from "../reference-pattern.ts";
import { signaturePolicy } from "../signature/policy.ts";
import { bootFiles, manifestForClient } from "./boot-files.ts";
import { flasherConfig, type FlasherConfig } from "./config.ts";
import { flasher } from "./interface.ts";
import { FlasherLease, type OpenedBundle } from "./lease.ts";
import { stagingOf } from "./staging.ts";

const required = (child: string) =>
  `'${child}' instance is required for BaseFlasher either via a ref ir a direct child instance`;

function defineFlasher(name: string, defaultBundle: string, summary: string) {
  return defineDriver({
    types: [`jumpstarter_driver_flashers.driver.${name}`],
    summary,
    implements: flasher,
    config: flasherConfig(`quay.io/jumpstarter-dev/${defaultBundle}:latest`),
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
function broughtAlong({ config, path, configured }: ChildrenContext<FlasherConfig>): Record<string, Entry> {
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

function openFlasher(context: OpenContext<FlasherConfig>) {
  const { config, children, log } = context;
  const tftp = stagingOf(children, "tftp");
  const http = stagingOf(children, "http");
  const configured = parseReference(config.flasher_bundle);
  const checkAllowed = allowList(configured, config.allowed_bundles ?? undefined);

  const bundleAccess = {
    plainHttp: config.plain_http,
    registryCa: config.registry_ca ?? undefined,
    mirrors: config.mirrors ?? {},
    onMirrorFailure: (mirror: string, error: AgentError) =>
      log.warn(`the mirror ${mirror} is not used: ${error.message}`),
    environmentCredentialsFor: configured.kind === "registry" ? configured.host : undefined,
    signatures: signaturePolicy(config, log),
    cache: async () => {
      const directory = await cacheDirectory(config.cache_dir ?? undefined);
      return context.shared(
        `bundles:${directory}`,
        () => new BundleCache({ directory, log, limitBytes: parseBytes(config.cache_limit) }),
      );
    },
  };
  const open = async (wanted: Reference): Promise<OpenedBundle> => {
    const bundle = await openBundle(wanted, bundleAccess);
    try {
      const yaml = await readFile(await fileOf(bundle, confinedPath(config.manifest) as string), "utf8");
      const manifest = parseManifest(yaml, `${config.manifest} of ${bundle.reference}`);
      const what = `the bundle ${manifest.metadata.name} from ${bundle.reference}`;
      log.info(`using ${what} (${bundle.digest ?? "a directory"})`);
      return { bundle, yaml, manifest };
    } catch (error) {
      bundle.release();
      throw error;
    }
  };
  const newLease = () => new FlasherLease({ configured, variant: config.variant, open, log });
  let lease = newLease();
  const manifestOf = async ({ signal }: Call, from = lease) => (await from.bundle(signal)).manifest;

  /** Files are put in place by one call at a time. */
  let lastTurn: Promise<unknown> = Promise.resolve();
  const inTurn = async (step: () => Promise<void>) => {
    const turn = lastTurn.then(step);
    lastTurn = turn.catch(() => {});
    await turn;
  };
  const stage = async (current: FlasherLease, { signal }: Call) => {
    const { bundle, manifest } = await current.bundle(signal);
    for (const [name, path] of bootFiles(manifest, current.variant)) {
      log.info(`Setting up ${path} in tftp as ${name}`);
      await tftp.put(await fileOf(bundle, path), name, signal);
    }
    current.isStaged = true;
  };

  return {
    methods: {
      setup_flasher_bundle: async (call: Call, forced: string | null | undefined) => {
        const current = lease;
        if (forced) {
          const wanted = parseReference(forced);
          checkAllowed(wanted);
          current.force(wanted);
        }
        await inTurn(() => stage(current, call));
      },
      get_flasher_manifest_yaml: async ({ signal }: Call) => {
        const current = lease;
        const { yaml, manifest } = await current.tell(signal);
        return manifestForClient(yaml, manifest, current.variant);
      },
      get_bundle: async ({ signal }: Call) => {
        const { reference, digest, signedBy } = (await lease.bundle(signal)).bundle;
        return { reference, digest: digest ?? null, signed_by: signedBy ?? null };
      },
      get_default_target: () => config.default_target,
      get_cacert: async () => (config.cacert === null ? null : await readFile(config.cacert, "utf8")),
      setup_fls_binary: async (call: Call) => {
        await http.put(await findFls(config.fls_path ?? undefined), "fls", call.signal);
      },
      use_dtb_variant: async (call: Call, variant: string) => {
        const current = lease;
        const variants = (await manifestOf(call, current)).spec.dtb?.variants ?? {};
        if (!Object.hasOwn(variants, variant)) {
          const names = Object.keys(variants).map((name) => `'${name}'`);
          const message = `DTB variant ${variant} not found in the flasher bundle, available variants are: [${names.join(", ")}].`;
          throw new AgentError("E_INVALID", message);
        }
        current.variant = variant;
        // A board that boots next must not get the other one's device tree.
        await inTurn(async () => {
          if (current.isStaged) await stage(current, call);
        });
      },
      set_dtb: unsupported("a device tree of the client's own is not supported; use a variant of the bundle"),
      get_kernel_filename: async (call: Call) => baseName((await manifestOf(call)).spec.kernel.file),
      get_initram_filename: async (call: Call) => {
        const { initram } = (await manifestOf(call)).spec;
        return initram === null ? null : baseName(initram.file);
      },
      get_dtb_filename: async (call: Call) => {
        const current = lease;
        const file = dtbVariantOf(await manifestOf(call, current), current.variant)?.file;
        return file ? baseName(file) : "";
      },
      get_kernel_address: async (call: Call) => (await manifestOf(call)).spec.kernel.address,
      get_initram_address: async (call: Call) => (await manifestOf(call)).spec.initram?.address ?? null,
      get_dtb_address: async (call: Call) => (await manifestOf(call)).spec.dtb?.address ?? null,
      get_bootcmd: async (call: Call) => {
        const current = lease;
        return bootCommandOf(await manifestOf(call, current), current.variant);
      },
    },
    release: async () => {
      const over = lease;
      lease = newLease();
      // The services remove what the lease has put there once nothing more comes.
      await lastTurn;
      over.end();
    },
    close: () => lease.end(),
  };
}

/**
 * Clients may name another bundle, but not read the exporter's disk by naming directories.
 * @returns throws AgentError E_INVALID for what is not allowed
 */
function allowList(configured: Reference, patterns: readonly string[] | undefined): (wanted: Reference) => void {
  const matchers = patterns?.map(compileReferencePattern);
  return (wanted) => {
    const name = formatReference(wanted);
    if (name === formatReference(configured)) return;
    if (matchers === undefined ? wanted.kind === "registry" : matchers.some((matches) => matches(wanted))) return;
    throw new AgentError("E_INVALID", `this exporter does not allow the bundle ${name}`, {
      hint: "list it under allowed_bundles in the flasher's config",
    });
  };
}

async function findFls(configured: string | undefined): Promise<string> {
  const candidates = configured === undefined ? ["/usr/local/bin/fls-aarch64", "/usr/local/bin/fls"] : [configured];
  for (const path of candidates) {
    const isReadable = await access(path, constants.R_OK).then(
      () => true,
      () => false,
    );
    if (isReadable) return path;
  }
  throw new AgentError("E_FAILED", `fls binary not found at ${candidates.join(" or ")}`);
}
