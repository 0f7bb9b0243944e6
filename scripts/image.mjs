// Makes the disk image of the appliance.
// usage: npm run image -- amd64|arm64 [--output FILE] [--offline]
// Packages and what is made of them alone are kept outside the repository, in $XDG_CACHE_HOME/jumpstarter-agent; with them there,
// no network is needed.
import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { parseArgs } from "node:util";
import { makeDisk } from "./image/disk.mjs";
import { debianArchive } from "./image/packages.mjs";
import { makeRoot } from "./image/root.mjs";

/**
 * @param architecture amd64 or arm64
 * @param output the image
 * @param keep a folder for `root.squashfs`, `vmlinuz` and `initrd`, which updates are made of
 */
export function makeImage({ architecture, output, keep, offline = false, version = ownVersion() }) {
  const { folder: archive, published } = debianArchive(architecture, { offline });
  const work = mkdtempSync(join(process.env.TMPDIR || tmpdir(), "jmp-agent-image-"));
  try {
    const parts = makeRoot({ archive, published, architecture, version, work });
    makeDisk({ parts, archive, architecture, published, work, output });
    if (keep !== undefined) {
      mkdirSync(keep, { recursive: true });
      const names = ["root", "vmlinuz", "initrd"].map((name) => parts[name]);
      execFileSync("cp", ["--reflink=auto", ...names, keep]);
    }
    return parts;
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

function ownVersion() {
  return JSON.parse(readFileSync("package.json", "utf8")).version;
}

if (basename(process.argv[1] ?? "") === "image.mjs") {
  const { values, positionals } = parseArgs({
    options: { output: { type: "string" }, keep: { type: "string" }, offline: { type: "boolean" } },
    allowPositionals: true,
  });
  const [architecture] = positionals;
  if (!["amd64", "arm64"].includes(architecture)) {
    console.error("usage: npm run image -- amd64|arm64 [--output FILE] [--keep FOLDER] [--offline]");
    process.exit(2);
  }
  execFileSync(process.execPath, ["scripts/build.mjs"], { stdio: "inherit" });
  const output = values.output ?? `jumpstarter-${architecture}.img`;
  makeImage({ architecture, output, keep: values.keep, offline: values.offline });
  console.log(output);
}
