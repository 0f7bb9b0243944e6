import { chmod, chown, mkdir, readFile, readdir, rm, symlink, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { AgentError, toAgentError } from "../../agent/driver/errors.ts";
import { makeDirectoryDurably, syncDirectory, writeDurably } from "../../agent/stream/durable.ts";
import { configName, readHostConfig, type HostFiles, type ReadConfig } from "./choose.ts";
import { systemFiles, type SystemFile } from "./files.ts";
import { defaults } from "./schema.ts";

export interface Places {
  /** Where the FAT partition is mounted. */
  readonly boot: string;
  /** The last good configuration; a folder that only root reads, as there are tokens in it. */
  readonly lastGood: string;
  /** The system's root. */
  readonly root: string;
}

export interface Applied {
  readonly hostname: string;
  /** `boot`: what lies on the FAT partition; `last-good`: that is wrong; `defaults`: and there was never a good one. */
  readonly source: "boot" | "last-good" | "defaults";
  /** What is wrong with the FAT partition's, one line each. */
  readonly problems: readonly string[];
  /** Interfaces of wireless networks, whose program must be started. */
  readonly wireless: readonly string[];
}

/**
 * Makes the host what `jumpstarter.yaml` says. A file that is wrong changes nothing: the last good one is used again.
 * @throws AgentError if the system's own files cannot be written
 */
export async function applyHostConfig(places: Places): Promise<Applied> {
  const { chosen, source, problems } = await choose(places);
  const hostname = chosen?.config.hostname ?? (await ownName(places.root));
  const config = chosen?.config ?? defaults;
  const exporters = chosen?.files.exporters ?? [];
  const files = systemFiles(config, { hostname, exporters });
  // Time zones are many, and which ones there are is the system's affair.
  const zone = await readFile(join(places.root, "usr/share/zoneinfo", config.timezone)).catch(() => undefined);
  const all =
    zone === undefined ? [...problems, `there is no time zone ${config.timezone}: it stays as it was`] : problems;
  const group = await groupOf("jumpstarter", places.root);
  try {
    await clearFolders(places.root);
    for (const file of files) {
      if (zone !== undefined || file.path !== "etc/localtime") await put(places.root, file, group);
    }
    if (config.console !== undefined) await setRootPassword(places.root, config.console.password_hash);
  } catch (error) {
    throw toAgentError(error);
  }
  if (source === "boot" && chosen !== undefined) {
    // Without a state partition the host works, too.
    await keep(places.lastGood, chosen.files).catch((error: unknown) => {
      all.push(`the configuration cannot be kept: ${toAgentError(error).message}`);
    });
  }
  return { hostname, source, problems: all, wireless: config.network.wifi ? [config.network.wifi.interface] : [] };
}

async function choose({ boot, lastGood }: Places): Promise<{
  chosen: ReadConfig | undefined;
  source: Applied["source"];
  problems: string[];
}> {
  const given = await readHostConfig(boot);
  if (!("problems" in given)) return { chosen: given, source: "boot", problems: [] };
  const last = await readHostConfig(lastGood);
  if (!("problems" in last)) return { chosen: last, source: "last-good", problems: given.problems };
  return { chosen: undefined, source: "defaults", problems: given.problems };
}

/** Exporters and tokens of an earlier run that the configuration does not name any more. */
async function clearFolders(root: string): Promise<void> {
  for (const folder of ["exporters", "tokens", "update-keys"]) {
    const path = join(root, "etc/jumpstarter", folder);
    for (const name of await readdir(path).catch(() => [])) await rm(join(path, name), { recursive: true });
  }
}

async function put(root: string, { path, content, link, mode, forAgent }: SystemFile, group: number | undefined) {
  const place = join(root, path);
  await mkdir(dirname(place), { recursive: true });
  await rm(place, { force: true });
  if (link !== undefined) return await symlink(link, place);
  await writeFile(place, content ?? "", { mode, flag: "wx" });
  await chmod(place, mode);
  if (forAgent && group !== undefined) await chown(place, 0, group);
}

async function groupOf(name: string, root: string): Promise<number | undefined> {
  const text = await readFile(join(root, "etc/group"), "utf8").catch(() => "");
  const [, id] = new RegExp(`^${name}:[^:]*:(\\d+):`, "m").exec(text) ?? [];
  return id === undefined ? undefined : Number(id);
}

/** A name that differs between hosts that were told nothing, as one network may have several. */
async function ownName(root: string): Promise<string> {
  const id = await readFile(join(root, "etc/machine-id"), "utf8").catch(() => "");
  return `jumpstarter-${id.trim().slice(0, 6) || "host"}`;
}

async function setRootPassword(root: string, hash: string): Promise<void> {
  const path = join(root, "etc/shadow");
  const text = await readFile(path, "utf8");
  if (!/^root:/m.test(text)) throw new AgentError("E_IO", `${path} has no root`);
  await writeFile(
    path,
    text.replace(/^root:[^:]*:/m, () => `root:${hash}:`),
  );
}

/** Writes what is new only: a host that starts every day is not to wear out its disk. */
async function keep(folder: string, { text, exporters }: HostFiles): Promise<void> {
  await makeDirectoryDurably(join(folder, "exporters"));
  const wanted = new Map(exporters.map((file) => [`${file.name}.yaml`, file.text]));
  for (const [name, content] of wanted) await keepFile(join(folder, "exporters", name), content);
  for (const name of await readdir(join(folder, "exporters"))) {
    if (!wanted.has(name)) await rm(join(folder, "exporters", name));
  }
  await syncDirectory(join(folder, "exporters"));
  await keepFile(join(folder, configName), text);
}

async function keepFile(path: string, text: string): Promise<void> {
  const there = await readFile(path, "utf8").catch(() => undefined);
  if (there !== text) await writeDurably(path, text);
}
