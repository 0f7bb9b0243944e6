// The program as it is installed: the bundle, koffi's part for one architecture, and Node where it is brought along.
import { execFileSync } from "node:child_process";
import { chmodSync, cpSync, mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { bundleProgram } from "../scripts/build.mjs";
import { architectures } from "./architectures.mjs";
import { unpackNpmPackage } from "./npm-package.mjs";

/**
 * Lays it into `folder`.
 * @param {string} folder made anew
 * @param {keyof typeof architectures} architecture
 * @returns the npm packages whose code is in it: `{ name, version, licence }`, with the text of the licence
 */
export async function layProgram(folder, architecture) {
  const { koffi, node } = architectures[architecture];
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  const sources = await bundleProgram(join(folder, "dist"), { sourcemap: false });
  // The wrappers name Node; it need not be on anybody's PATH.
  for (const binary of ["jmp-agent", "j"]) {
    const path = join(folder, "dist", `${binary}.js`);
    writeFileSync(path, readFileSync(path, "utf8").replace(/^#!.*\n/, ""));
    chmodSync(path, 0o644);
  }
  const names = sources.map((path) => /^node_modules\/((?:@[^/]+\/)?[^/]+)\//.exec(path)?.[1]);
  const parts = [...new Set(names.filter((name) => name !== undefined))].sort().map(installedPackage);
  const { version } = JSON.parse(readFileSync("package.json", "utf8"));
  // Node takes the bundle for modules by this.
  writeFileSync(
    join(folder, "package.json"),
    `${JSON.stringify({ name: "jumpstarter-agent", version, type: "module" })}\n`,
  );

  // koffi is JavaScript that looks for its native part two folders beside itself.
  const modules = join(folder, "node_modules");
  for (const file of ["package.json", "index.js", "src/koffi/index.js", "src/koffi/src/static.js"]) {
    cpSync(join("node_modules/koffi", file), join(modules, "koffi", file));
  }
  const native = lockedPackage(koffi.name);
  unpackNpmPackage(native, join(modules, koffi.name), ["package.json", "index.js", `${koffi.folder}/koffi.node`]);
  chmodSync(join(modules, koffi.name, koffi.folder, "koffi.node"), 0o644);
  parts.push(installedPackage("koffi"));

  if (node !== undefined) {
    const { version, integrity } = JSON.parse(readFileSync(new URL("node.json", import.meta.url), "utf8"));
    const unpacked = join(folder, "unpacked");
    unpackNpmPackage({ name: node.name, version, integrity: integrity[node.name] }, unpacked, ["bin/node", "LICENSE"]);
    // What it exports to native parts stays; what only debuggers read is a seventh of it.
    execFileSync(node.strip, ["-o", join(folder, "node"), join(unpacked, "bin/node")]);
    chmodSync(join(folder, "node"), 0o755);
    parts.push({ name: "node", version, licence: readFileSync(join(unpacked, "LICENSE"), "utf8") });
    rmSync(unpacked, { recursive: true });
  }
  return parts;
}

/** Starts one of the binaries. */
export function wrapper(directory, binary, architecture) {
  const node = architectures[architecture].node === undefined ? "/usr/bin/node" : `${directory}/node`;
  return `#!/bin/sh\nexec ${node} ${directory}/dist/${binary}.js "$@"\n`;
}

function installedPackage(name) {
  const folder = join("node_modules", name);
  const { version, license } = JSON.parse(readFileSync(join(folder, "package.json"), "utf8"));
  const file = readdirSync(folder).find((name) => /^licen[cs]e/i.test(name));
  if (file === undefined && license === undefined) throw new Error(`${name} says nothing of its licence`);
  return { name, version, licence: file === undefined ? license : readFileSync(join(folder, file), "utf8") };
}

function lockedPackage(name) {
  const { version, integrity } = JSON.parse(readFileSync("package-lock.json", "utf8")).packages[`node_modules/${name}`];
  return { name, version, integrity };
}

/** What /usr/share/doc has to say about all whose code is in it. */
export function copyright(parts) {
  const own = "jumpstarter-agent is under the Apache License, Version 2.0: /usr/share/common-licenses/Apache-2.0";
  const texts = parts.map(({ name, version, licence }) => `${name} ${version}\n${"-".repeat(72)}\n\n${licence.trim()}`);
  return [own, "It contains, under their own licences:", ...texts].join("\n\n") + "\n";
}
