// Debian packages of another architecture, fetched and unpacked without touching the system's own package state.
import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
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
  const apt = privateApt(state, { architecture });
  for (const [key, name] of Object.entries(names)) {
    if (existsSync(folders[key])) continue;
    const half = `${folders[key]}.half`;
    rmSync(half, { recursive: true, force: true });
    apt.unpack(name.endsWith("*") ? apt.dependencies(name.slice(0, -1))[0] : name, half);
    renameSync(half, folders[key]);
  }
  rmSync(state, { recursive: true, force: true });
  return folders;
}

/**
 * An apt whose state is the folder `state` alone.
 * @param release of Debian, from the mirror that this machine has; default: this machine's own sources
 */
export function privateApt(state, { architecture, release }) {
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
  ];
  if (release !== undefined) {
    const sources = join(state, "release.list");
    writeFileSync(sources, `deb [signed-by=${keyring}] ${ownMirror()} ${release} main\n`);
    options.push(`Dir::Etc::sourcelist=${sources}`, "Dir::Etc::sourceparts=/dev/null");
  }
  const run = (program, ...args) =>
    execFileSync(program, [...options.flatMap((option) => ["-o", option]), ...args], {
      cwd: join(state, "archives"),
      stdio: ["ignore", "pipe", "pipe"],
      encoding: "utf8",
    });
  try {
    run("apt-get", "update");
  } catch {
    // Another source of this machine may not have the architecture; a package that is missing is noticed below.
  }
  return {
    /** The packages that one like linux-image-cloud-arm64, itself empty, leads to today. */
    dependencies(name) {
      const found = [...run("apt-cache", "depends", name).matchAll(/^\s*Depends: (\S+)/gm)].map(([, found]) => found);
      if (found.length === 0) throw new Error(`no package ${name} for ${architecture} in apt's sources`);
      return found;
    },
    unpack(name, folder) {
      run("apt-get", "download", name);
      const archives = join(state, "archives");
      const archive = readdirSync(archives).find((file) => file.startsWith(`${name}_`));
      if (archive === undefined) throw new Error(`apt-get download ${name} brought no package`);
      execFileSync("dpkg-deb", ["-x", join(archives, archive), folder]);
    },
  };
}

/** Signs Debian's own releases. */
export const keyring = "/usr/share/keyrings/debian-archive-keyring.gpg";

/** Where this machine has its own release of Debian from. */
export function ownMirror() {
  const [, codename] = /^VERSION_CODENAME=(.*)$/m.exec(readFileSync("/etc/os-release", "utf8")) ?? [];
  const format = "$(REPO_URI) $(CODENAME) $(COMPONENT) $(IDENTIFIER)";
  const targets = execFileSync("apt-get", ["indextargets", "--format", format], { encoding: "utf8" }).split("\n");
  const own = targets
    .map((line) => line.split(" "))
    .find((words) => words.slice(1).join() === `${codename},main,Packages`);
  if (own === undefined) throw new Error("apt has no list of this machine's Debian release: apt-get update");
  return own[0];
}
