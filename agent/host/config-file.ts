import { stat } from "node:fs/promises";
import { loadConfig } from "../config/load.ts";
import type { ExporterConfig } from "../config/schema.ts";
import { shippedDrivers } from "../driver/catalog.ts";

/** The file that an exporter's configuration comes from, and when it was read last. */
export class ConfigFile {
  readonly path: string;
  readonly #always: Partial<ExporterConfig>;
  #read: string | undefined;

  /** @param always what the command line says, whatever the file does */
  constructor(path: string, always: Partial<ExporterConfig> = {}) {
    this.path = path;
    this.#always = always;
  }

  /** @throws AgentError E_CONFIG with a line for each problem, or what keeps the file from being read. */
  async load(): Promise<{ config: ExporterConfig; warnings: string[] }> {
    this.#read = await this.#stamp();
    const { config, warnings } = await loadConfig(this.path, { catalog: shippedDrivers });
    return { config: { ...config, ...this.#always }, warnings };
  }

  /** Whether the file is another one than was read last. */
  async hasChanged(): Promise<boolean> {
    return (await this.#stamp()) !== this.#read;
  }

  async #stamp(): Promise<string | undefined> {
    try {
      const { mtimeMs, size, ino } = await stat(this.path);
      return `${ino} ${mtimeMs} ${size}`;
    } catch {
      return undefined;
    }
  }
}
