import { access } from "node:fs/promises";
import { findExporterConfig, listExporterConfigs } from "../config/search.ts";

/**
 * The configuration files that words name: a word is a file if there is one of that name, or it looks like one; else an alias.
 * @param words none: all in the user's and the system's directory
 * @throws AgentError E_CONFIG for an alias that nobody has
 */
export async function configFiles(words: readonly string[]): Promise<string[]> {
  return words.length === 0 ? await listExporterConfigs() : await Promise.all(words.map(fileOf));
}

async function fileOf(word: string): Promise<string> {
  const isFile = await access(word).then(
    () => true,
    () => word.includes("/") || word.endsWith(".yaml"),
  );
  return isFile ? word : await findExporterConfig(word);
}
