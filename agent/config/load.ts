import { open } from "node:fs/promises";
import type { Catalog } from "../driver/catalog.ts";
import type { ConfigProblem } from "../driver/entry.ts";
import { AgentError, toAgentError } from "../driver/errors.ts";
import { planTree, type PlannedDriver } from "../driver/plan.ts";
import { exposedToken, tokenCredential } from "./credentials.ts";
import { parseConfigDocument, type PlacedProblem } from "./document.ts";
import { checkExporterConfig, type ExporterConfig } from "./schema.ts";

/** All there is to say about one configuration file, in the order of its lines. */
export interface Inspection {
  readonly file: string;
  /** Undefined if anything is wrong. */
  readonly config: ExporterConfig | undefined;
  /** The drivers, as far as nothing is wrong with them. */
  readonly planned: PlannedDriver | undefined;
  readonly problems: readonly PlacedProblem[];
  readonly warnings: readonly PlacedProblem[];
}

export interface LoadOptions {
  /** The drivers that may be named. */
  readonly catalog: Catalog;
  /** Where `JMP_NAME`, `JMP_NAMESPACE` and the directory of credentials come from. */
  readonly env?: NodeJS.ProcessEnv;
}

const maxFileBytes = 1024 * 1024;

/**
 * Reads and checks a configuration with all it names: keys, driver types, their configs and refs. Touches no hardware.
 * @throws AgentError if the file cannot be read
 */
export async function inspectConfig(file: string, { catalog, env = process.env }: LoadOptions): Promise<Inspection> {
  const text = await readText(file);
  const document = parseConfigDocument(text);
  if ("problems" in document) {
    return { file, config: undefined, planned: undefined, problems: document.problems, warnings: [] };
  }
  const placed = (problems: readonly ConfigProblem[]) =>
    problems
      .map((problem): PlacedProblem => ({ ...problem, position: document.position(problem) }))
      .sort((a, b) => a.position.line - b.position.line || a.position.column - b.position.column);

  const { config, problems, warnings, exported } = checkExporterConfig(document.value, env);
  const planned = await planTree({ children: exported }, catalog);
  const all = "problems" in planned ? [...problems, ...planned.problems] : problems;
  const root = "problems" in planned ? undefined : planned.root;
  return {
    file,
    config: all.length > 0 ? undefined : config,
    planned: root,
    problems: placed(all),
    warnings: placed(warnings),
  };
}

/**
 * @returns a configuration without problems, with the token that the service manager holds if it has none, and the lines of its warnings
 * @throws AgentError E_CONFIG with one line `file:line:column: path: what is wrong` for each problem
 */
export async function loadConfig(
  file: string,
  options: LoadOptions,
): Promise<{ config: ExporterConfig; warnings: string[] }> {
  const { env = process.env } = options;
  const { config, problems, warnings } = await inspectConfig(file, options);
  if (config === undefined) {
    throw new AgentError("E_CONFIG", problems.map((problem) => describeProblem(file, problem)).join("\n"));
  }
  const exposed = config.token?.trim() ? await exposedToken(file) : undefined;
  const token = config.token?.trim() ? config.token : ((await tokenCredential(file, env)) ?? config.token);
  return {
    config: { ...config, token },
    warnings: warnings
      .map((warning) => describeProblem(file, warning, "warning: "))
      .concat(exposed === undefined ? [] : [`${exposed.text}: ${exposed.hint}`]),
  };
}

/** `file:line:column: path: message`, the form that editors and CI systems link. */
export function describeProblem(file: string, { position, path, message }: PlacedProblem, severity = ""): string {
  const where = describePath(path);
  return `${file}:${position.line}:${position.column}: ${severity}${where === "" ? "" : `${where}: `}${message}`;
}

/** `export.power.config.ports[0]` */
export function describePath(path: ConfigProblem["path"]): string {
  return path
    .map((segment) => (typeof segment === "number" ? `[${segment}]` : `.${segment}`))
    .join("")
    .replace(/^\./, "");
}

async function readText(file: string): Promise<string> {
  try {
    const handle = await open(file);
    try {
      const buffer = Buffer.alloc(maxFileBytes + 1);
      let length = 0;
      for (let read = -1; read !== 0 && length < buffer.length; length += read) {
        ({ bytesRead: read } = await handle.read(buffer, length, buffer.length - length));
      }
      if (length > maxFileBytes) throw new AgentError("E_CONFIG", `${file}: is larger than ${maxFileBytes} bytes`);
      return new TextDecoder("utf-8", { fatal: true }).decode(buffer.subarray(0, length));
    } finally {
      await handle.close();
    }
  } catch (thrown) {
    if (thrown instanceof TypeError) throw new AgentError("E_CONFIG", `${file}: is not UTF-8 text`, { cause: thrown });
    throw toAgentError(thrown);
  }
}
