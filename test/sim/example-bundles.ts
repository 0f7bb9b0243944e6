import { cp, mkdir, readdir, readFile, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import type { TestContext } from "node:test";
import { parseManifest, type FlasherManifest } from "../../bundles/manifest.ts";
import { temporaryDirectory } from "./bundle.ts";

const examples = "examples/bundles";

/** The directories with manifests for real boards. */
export async function exampleBundles(): Promise<string[]> {
  const entries = await readdir(examples, { withFileTypes: true });
  return entries.filter((entry) => entry.isDirectory()).map(({ name }) => name);
}

export async function exampleManifests(name: string): Promise<Map<string, FlasherManifest>> {
  const manifests = new Map<string, FlasherManifest>();
  for (const file of (await readdir(join(examples, name))).sort()) {
    manifests.set(file, parseManifest(await readFile(join(examples, name, file), "utf8"), `${name}/${file}`));
  }
  return manifests;
}

/** What stands for a binary that a manifest names: its own path, so that it can be told from the others. */
export const placeholder = (path: string) => Buffer.from(`stands for ${path}\n`);

/** A copy of an example with a placeholder for every file that it names. */
export async function filledExample(t: TestContext, name: string): Promise<string> {
  const directory = await temporaryDirectory(t);
  await cp(join(examples, name), directory, { recursive: true });
  for (const { spec } of (await exampleManifests(name)).values()) {
    const variants = Object.values(spec.dtb?.variants ?? {}).map(({ file }) => file);
    for (const file of [spec.kernel.file, spec.initram?.file, ...variants]) {
      if (!file) continue;
      await mkdir(dirname(join(directory, file)), { recursive: true });
      await writeFile(join(directory, file), placeholder(file));
    }
  }
  return directory;
}
