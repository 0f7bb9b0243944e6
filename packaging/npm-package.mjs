// Packages of the npm registry that are for another architecture than this machine's, which `npm ci` leaves out.
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, renameSync, rmSync } from "node:fs";
import { join } from "node:path";
import { cacheDirectory } from "../scripts/bundle/debian.mjs";

/**
 * Unpacks parts of a package into `folder`. It is downloaded once.
 * @param {{ name: string, version: string, integrity: string }} wanted integrity: as package-lock.json writes it
 * @param {string[]} paths in the package
 * @throws when it is not the package that the integrity is of
 */
export function unpackNpmPackage(wanted, folder, paths) {
  const archive = downloaded(wanted);
  mkdirSync(folder, { recursive: true });
  const members = paths.map((path) => `package/${path}`);
  execFileSync("tar", ["-xzf", archive, "-C", folder, "--strip-components=1", "--no-same-owner", ...members]);
}

function downloaded({ name, version, integrity }) {
  const archives = join(cacheDirectory(), "npm");
  const archive = join(archives, `${name.replace("/", "-")}-${version}.tgz`);
  if (existsSync(archive) && digest(archive) === integrity) return archive;
  mkdirSync(archives, { recursive: true });
  const work = mkdtempSync(join(archives, "getting-"));
  try {
    execFileSync("npm", ["pack", "--silent", "--pack-destination", work, `${name}@${version}`], {
      stdio: ["ignore", "ignore", "inherit"],
    });
    const [file] = readdirSync(work);
    const got = digest(join(work, file));
    if (got !== integrity) throw new Error(`${name}@${version} is ${got}, and should be ${integrity}`);
    renameSync(join(work, file), archive);
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
  return archive;
}

function digest(path) {
  return `sha512-${createHash("sha512").update(readFileSync(path)).digest("base64")}`;
}
