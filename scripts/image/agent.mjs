// The agent as it is installed: its bundle, the native part of this architecture, and a Node of its own.
import { execFileSync } from "node:child_process";
import { cpSync, existsSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { cacheDirectory } from "../bundle/debian.mjs";

const nodeVersion = "24.22.3";
/** Debian's names of architectures -> Node's. */
const processors = { amd64: "x64", arm64: "arm64" };

/** A package of npm, unpacked, once. */
function npmPackage(name, version) {
  const folder = join(cacheDirectory(), `npm-${name.replace(/[@/]/g, "_")}-${version}`);
  if (existsSync(folder)) return folder;
  const half = `${folder}.${process.pid}`;
  mkdirSync(half, { recursive: true });
  try {
    const words = ["pack", "--silent", "--pack-destination", half, `${name}@${version}`];
    const file = execFileSync("npm", words, { encoding: "utf8" }).trim().split("\n").at(-1);
    execFileSync("tar", ["-xzf", join(half, file), "-C", half, "--strip-components=1", "--no-same-owner"]);
    rmSync(join(half, file));
    renameSync(half, folder);
  } finally {
    rmSync(half, { recursive: true, force: true });
  }
  return folder;
}

const wrapper = (program) => `#!/bin/sh
exec /usr/lib/jumpstarter-agent/node /usr/lib/jumpstarter-agent/dist/${program}.js "$@"
`;

/** Puts it into `root`. `dist/` must have been built. */
export function installAgent(root, architecture) {
  const processor = processors[architecture];
  const home = join(root, "usr/lib/jumpstarter-agent");
  mkdirSync(join(home, "node_modules/@koromix"), { recursive: true });
  cpSync("dist", join(home, "dist"), { recursive: true, filter: (path) => !path.endsWith(".map") });
  writeFileSync(join(home, "package.json"), '{ "type": "module" }\n');
  cpSync(join(npmPackage(`node-linux-${processor}`, nodeVersion), "bin/node"), join(home, "node"));
  const { version } = JSON.parse(readFileSync("node_modules/koffi/package.json", "utf8"));
  const unneeded = /koffi\/(vendor|doc|README\.md|CHANGELOG\.md)(\/|$)/;
  cpSync("node_modules/koffi", join(home, "node_modules/koffi"), {
    recursive: true,
    filter: (path) => !unneeded.test(path),
  });
  const native = `koffi-linux-${processor}`;
  cpSync(npmPackage(`@koromix/${native}`, version), join(home, "node_modules/@koromix", native), { recursive: true });
  for (const [name, program] of [
    ["jmp-agent", "jmp-agent"],
    ["j", "j"],
  ]) {
    writeFileSync(join(root, "usr/bin", name), wrapper(program), { mode: 0o755 });
  }
}
