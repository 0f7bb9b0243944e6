// Debian packages of another architecture, fetched and unpacked without touching the system's own package state.
import { execFileSync } from "node:child_process";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
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

  mkdirSync(root, { recursive: true });
  // Others may do the same at this moment: each works in a folder of its own, and what is ready first stays.
  const state = mkdtempSync(join(root, "apt-"));
  const apt = privateApt(state, { architecture });
  for (const [key, name] of Object.entries(names)) {
    if (existsSync(folders[key])) continue;
    const half = join(state, "unpacked", key);
    apt.unpack(name.endsWith("*") ? apt.dependencies(name.slice(0, -1))[0] : name, half);
    try {
      renameSync(half, folders[key]);
    } catch (error) {
      if (!existsSync(folders[key])) throw error;
    }
  }
  rmSync(state, { recursive: true, force: true });
  return folders;
}

/**
 * An apt whose state is the folder `state` alone.
 * @param release of Debian, from the mirror that this machine has; default: this machine's own sources
 * @param components of that release; with `updates` also from where its corrections are
 */
export function privateApt(state, { architecture, release, components = "main", updates = false }) {
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
    const suites = [[release, ""], ...(updates ? [`-updates`, "-security"].map((kind) => [release + kind, kind]) : [])];
    const lines = suites.map(
      ([suite, kind]) => `deb [signed-by=${keyring}] ${ownMirror(kind)} ${suite} ${components}\n`,
    );
    writeFileSync(sources, lines.join(""));
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
    /** Brings the archives of these packages, of all they depend on and of what every system has. @returns their folder */
    downloadWithDependencies(names) {
      run("apt-get", "install", "--yes", "--download-only", "--no-install-recommends", "?essential", ...names);
      return join(state, "archives");
    },
    /** Brings the archives of these packages alone. @returns their folder */
    download(names) {
      run("apt-get", "download", ...names);
      return join(state, "archives");
    },
    /** When the release was last published, as seconds since 1970. */
    published() {
      const lists = join(state, "lists");
      const releases = readdirSync(lists).filter((name) => name.endsWith("InRelease"));
      const dates = releases.map((name) =>
        Date.parse(/^Date: (.*)$/m.exec(readFileSync(join(lists, name), "utf8"))?.[1]),
      );
      return Math.floor(Math.max(...dates) / 1000);
    },
  };
}

/** Signs Debian's own releases. */
export const keyring = "/usr/share/keyrings/debian-archive-keyring.gpg";

/** Where this machine has its own release of Debian from. @param kind "", "-updates" or "-security" */
export function ownMirror(kind = "") {
  const [, codename] = /^VERSION_CODENAME=(.*)$/m.exec(readFileSync("/etc/os-release", "utf8")) ?? [];
  const format = "$(REPO_URI) $(CODENAME) $(COMPONENT) $(IDENTIFIER)";
  const targets = execFileSync("apt-get", ["indextargets", "--format", format], { encoding: "utf8" }).split("\n");
  const own = targets
    .map((line) => line.split(" "))
    .find((words) => words.slice(1).join() === `${codename}${kind},main,Packages`);
  if (own === undefined) throw new Error("apt has no list of this machine's Debian release: apt-get update");
  return own[0];
}
