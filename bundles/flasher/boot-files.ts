import { dtbVariantOf, withDefaultVariant, type FlasherManifest } from "../manifest.ts";
import { baseName } from "../paths.ts";

/**
 * Name on the TFTP server → path in the bundle. Clients load the device tree of the manifest's default variant, whichever
 * is in use, so the one in use also goes by that name.
 * @throws AgentError E_INVALID for an unknown variant
 */
export function bootFiles(manifest: FlasherManifest, variant: string | null): Map<string, string> {
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
export function manifestForClient(yaml: string, manifest: FlasherManifest, variant: string | null): string {
  if (variant === null || defaultDtb(manifest) !== null || !dtbVariantOf(manifest, variant)?.file) return yaml;
  return withDefaultVariant(yaml, variant);
}
