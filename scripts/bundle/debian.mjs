// Debian packages of another architecture, fetched and unpacked without touching the system's own package state.
import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";

/** Where downloads are kept: $XDG_CACHE_HOME/jumpstarter-agent. */
export function cacheDirectory() {
  return join(process.env.XDG_CACHE_HOME || join(homedir(), ".cache"), "jumpstarter-agent");
}

/**
 * Downloads and unpacks the packages of `architecture`, once; later calls need no network.
 * @param names package names by key; one that ends in `*` stands for the first package its depends lead to.
 * @returns the folder each package is unpacked in, by key
 */
export function unpackPackages(names, architecture) {
  const root = join(cacheDirectory(), `debian-${architecture}`);
  const folders = Object.fromEntries(Object.keys(names).map((key) => [key, join(root, key)]));
  if (Object.values(folders).every((folder) => existsSync(folder))) return folders;

  const state = join(root, "apt");
  for (const directory of ["lists/partial", "archives/partial"]) {
    mkdirSync(join(state, directory), { recursive: true });
  }
  writeFileSync(join(state, "status"), "");
  const options = [
    `Dir::State=${state}`,
    `Dir::State::lists=${join(state, "lists")}`,
    `Dir::State::status=${join(state, "status")}`,
    `Dir::Cache=${state}`,
    `APT::Architecture=${architecture}`,
    `APT::Architectures=${architecture}`,
    `APT::Sandbox::User=${process.getuid() === 0 ? "root" : ""}`,
    "Acquire::Languages=none",
    // Only package lists; not what software centres want beside them.
    "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false",
    "Acquire::Retries=3",
  ].flatMap((option) => ["-o", option]);
  const apt = (program, ...args) =>
    execFileSync(program, [...options, ...args], {
      cwd: join(state, "archives"),
      stdio: ["ignore", "pipe", "pipe"],
      encoding: "utf8",
    });
  try {
    apt("apt-get", "update");
  } catch {
    // Another source of this machine may not have the architecture; a package that is missing is noticed below.
  }
  for (const [key, name] of Object.entries(names)) {
    if (existsSync(folders[key])) continue;
    const wanted = name.endsWith("*") ? dependencyOf(name.slice(0, -1), apt) : name;
    apt("apt-get", "download", wanted);
    const archive = readdirSync(join(state, "archives")).find((file) => file.startsWith(`${wanted}_`));
    if (archive === undefined) throw new Error(`apt-get download ${wanted} brought no package`);
    const half = `${folders[key]}.half`;
    rmSync(half, { recursive: true, force: true });
    execFileSync("dpkg-deb", ["-x", join(state, "archives", archive), half]);
    renameSync(half, folders[key]);
  }
  rmSync(state, { recursive: true, force: true });
  return folders;
}

/** The package that a name like linux-image-cloud-arm64, itself empty, stands for today. */
function dependencyOf(name, apt) {
  const found = /^\s*Depends: (\S+)/m.exec(apt("apt-cache", "depends", name));
  if (found === null) throw new Error(`no package ${name} for this architecture in apt's sources`);
  return found[1];
}
