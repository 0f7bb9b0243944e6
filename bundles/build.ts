import { readFile, readdir, realpath, stat } from "node:fs/promises";
import { join, sep } from "node:path";
import { AgentError, isSystemError, toAgentError } from "../agent/driver/errors.ts";
import { parseManifest, type FlasherManifest } from "./manifest.ts";
import type { ArtifactFile } from "./oci/artifact.ts";
import { mostLayers } from "./oci/image.ts";
import { confinedPath } from "./paths.ts";

/** What lies in a directory that is to become a bundle. */
export interface BundleDirectory {
  readonly files: readonly ArtifactFile[];
  /** By path inside the bundle. */
  readonly manifests: ReadonlyMap<string, FlasherManifest>;
  /** Files that no manifest names; they are part of the bundle all the same. */
  readonly unnamed: readonly string[];
}

const longestManifestBytes = 1024 * 1024;
const isManifestPath = (title: string) => /^[^/]+\.ya?ml$/.test(title);

/**
 * Looks through the directory of a bundle. Every YAML file at its top is a manifest, and the files it names must be there.
 * Links count as what they lead to; names with a leading dot are left out.
 * @throws AgentError E_INVALID with every problem, E_LIMIT
 */
export async function readBundleDirectory(directory: string): Promise<BundleDirectory> {
  const files = await listFiles(await existing(directory));
  const titles = new Set(files.map(({ title }) => title));
  const manifests = new Map<string, FlasherManifest>();
  const problems: string[] = [];
  for (const { title, path } of files.filter(({ title }) => isManifestPath(title))) {
    try {
      const { size } = await stat(path);
      if (size > longestManifestBytes)
        throw new AgentError("E_LIMIT", `${title} has ${size} bytes, no manifest has so many`);
      const manifest = parseManifest(await readFile(path, "utf8"), title);
      manifests.set(title, manifest);
      problems.push(...problemsOf(manifest, titles).map((problem) => `${title}: ${problem}`));
    } catch (error) {
      problems.push(toAgentError(error).message);
    }
  }
  if (manifests.size === 0 && problems.length === 0)
    problems.push("it has no manifest, a YAML file such as manifest.yaml");
  if (problems.length > 0)
    throw new AgentError("E_INVALID", `${directory} is no flasher bundle: ${problems.join("; ")}`);
  if (files.length > mostLayers) {
    throw new AgentError("E_LIMIT", `${directory} has ${files.length} files; a bundle may have ${mostLayers}`);
  }
  const named = new Set([...manifests.values()].flatMap(filesOf).map(({ file }) => file));
  const unnamed = [...titles].filter((title) => !named.has(title) && !manifests.has(title)).sort();
  return { files, manifests, unnamed };
}

function problemsOf(manifest: FlasherManifest, titles: ReadonlySet<string>): string[] {
  const { dtb } = manifest.spec;
  const missing = filesOf(manifest).filter(({ file }) => !titles.has(file));
  const problems = missing.map(({ key, file }) => `${key}: there is no file ${file}`);
  if (dtb !== null && !Object.hasOwn(dtb.variants, dtb.default)) {
    problems.push(`spec.dtb.default: there is no variant ${dtb.default}`);
  }
  return problems;
}

/** Files that a manifest names, and where it does. */
function filesOf({ spec: { kernel, initram, dtb } }: FlasherManifest): { key: string; file: string }[] {
  const named = [
    { key: "spec.kernel.file", file: kernel.file },
    { key: "spec.initram.file", file: initram?.file },
    ...Object.entries(dtb?.variants ?? {}).map(([name, { file }]) => ({ key: `spec.dtb.variants.${name}.file`, file })),
  ];
  return named.filter((one): one is { key: string; file: string } => typeof one.file === "string");
}

async function existing(directory: string): Promise<string> {
  const root = await realpath(directory);
  if ((await stat(root)).isDirectory()) return root;
  throw new AgentError("E_INVALID", `${directory} is no directory`);
}

async function listFiles(root: string): Promise<ArtifactFile[]> {
  const files: ArtifactFile[] = [];
  const walk = async (below: string): Promise<void> => {
    for (const name of (await readdir(join(root, below))).sort()) {
      if (name.startsWith(".")) continue;
      const title = below === "" ? name : `${below}/${name}`;
      const path = await inside(root, title);
      const kind = await stat(path);
      if (kind.isDirectory() && path === join(root, title)) await walk(title);
      else if (kind.isFile() && confinedPath(title) === title) files.push({ title, path });
      else
        throw new AgentError(
          "E_INVALID",
          `${join(root, title)} cannot be part of a bundle, which has plain files only`,
        );
    }
  };
  await walk("");
  return files;
}

/** Where a name leads. @throws AgentError E_INVALID if it leads nowhere, or out of the directory */
async function inside(root: string, title: string): Promise<string> {
  try {
    const path = await realpath(join(root, title));
    if (path.startsWith(root + sep)) return path;
  } catch (error) {
    if (!isSystemError(error) || !["ENOENT", "ELOOP"].includes(error.code)) throw error;
    throw new AgentError("E_INVALID", `${join(root, title)} is a link to nothing`);
  }
  throw new AgentError("E_INVALID", `${join(root, title)} leads out of the directory`);
}
