import { readFile, readdir } from "node:fs/promises";
import { join } from "node:path";
import { parseConfigDocument } from "../../agent/config/document.ts";
import { describeProblem } from "../../agent/config/load.ts";
import { toAgentError } from "../../agent/driver/errors.ts";
import type { ExporterFile } from "./files.ts";
import { checkHostConfig, type HostConfig } from "./schema.ts";

/** What a person writes onto the FAT partition: `jumpstarter.yaml`, and `exporters/NAME.yaml` beside it. */
export interface HostFiles {
  readonly text: string;
  readonly exporters: readonly ExporterFile[];
}

export interface ReadConfig {
  readonly config: HostConfig;
  readonly files: HostFiles;
}

export const configName = "jumpstarter.yaml";
const largestBytes = 1024 * 1024;

/** Reads and checks a host's configuration. @returns it, or a line `FILE:LINE:COLUMN: PATH: MESSAGE` for each problem */
export async function readHostConfig(folder: string): Promise<ReadConfig | { readonly problems: string[] }> {
  const file = join(folder, configName);
  let files: HostFiles;
  try {
    files = { text: await text(file), exporters: await exporterFiles(join(folder, "exporters")) };
  } catch (error) {
    return { problems: [`${folder}: ${toAgentError(error).message}`] };
  }
  // A file of comments is one that says nothing, not one that is wrong.
  const onlyComments = files.text.split("\n").every((line) => /^\s*(#.*)?\r?$/.test(line));
  const document = onlyComments ? undefined : parseConfigDocument(files.text);
  if (document !== undefined && "problems" in document) {
    return { problems: document.problems.map((problem) => describeProblem(file, problem)) };
  }
  const checked = checkHostConfig(document?.value);
  if ("problems" in checked) {
    const place = (problem: { path: readonly (string | number)[] }) =>
      document?.position({ ...problem, path: [...problem.path] }) ?? { line: 1, column: 1 };
    return {
      problems: checked.problems.map((problem) => describeProblem(file, { ...problem, position: place(problem) })),
    };
  }
  const twice = files.exporters.filter(({ name }) => Object.hasOwn(checked.config.exporters, name));
  if (twice.length > 0) {
    return {
      problems: twice.map(
        ({ name }) => `${join(folder, "exporters", name)}.yaml: ${name} stands in ${configName}, too`,
      ),
    };
  }
  return { config: checked.config, files };
}

async function exporterFiles(folder: string): Promise<ExporterFile[]> {
  const names = await readdir(folder).catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT") return [];
    throw error;
  });
  // Desktops leave their own files on every stick.
  const wanted = names.filter((name) => /^[A-Za-z0-9][A-Za-z0-9._-]*\.yaml$/i.test(name)).sort();
  return await Promise.all(
    wanted.map(async (name) => ({ name: name.slice(0, -".yaml".length), text: await text(join(folder, name)) })),
  );
}

async function text(file: string): Promise<string> {
  const content = await readFile(file);
  if (content.length > largestBytes) throw new RangeError(`${file} is larger than ${largestBytes} bytes`);
  // Editors of Windows put a mark before the first line.
  return content.toString("utf8").replace(/^\uFEFF/, "");
}
