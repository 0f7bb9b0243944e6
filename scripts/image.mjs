// Makes the disk image of the appliance.
// usage: npm run image -- amd64|arm64 [--output FILE] [--offline]
// Packages and what is made of them alone are kept outside the repository, in $XDG_CACHE_HOME/jumpstarter-agent; with them there,
// no network is needed.
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, renameSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, dirname, join } from "node:path";
import { parseArgs } from "node:util";
import { cacheDirectory } from "./bundle/debian.mjs";
import { makeDisk } from "./image/disk.mjs";
import { debianArchive } from "./image/packages.mjs";
import { makeRoot } from "./image/root.mjs";

/**
 * @param architecture amd64 or arm64
 * @param output the image
 * @param keep a folder for `root.squashfs`, `vmlinuz` and `initrd`, which updates are made of
 */
export function makeImage({ architecture, output, keep, offline = false, version = ownVersion() }) {
  // Not after minutes.
  mkdirSync(dirname(output), { recursive: true });
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

/** What an image is made of, beside Debian's packages. */
const sources = [
  "agent",
  "appliance",
  "boards",
  "bundles",
  "image",
  "net",
  "packaging",
  "proto/gen",
  "scripts",
  "systemd",
];

/**
 * The image of what is in the tree now, made once.
 * @returns the folder with `disk.img`, `root.squashfs`, `vmlinuz` and `initrd`
 */
export function cachedImage(architecture) {
  const recipe = createHash("sha256").update(readFileSync(join(debianArchive(architecture).folder, "Packages")));
  const listed = sources.flatMap((source) =>
    readdirSync(source, { recursive: true, withFileTypes: true })
      .filter((entry) => entry.isFile())
      .map((entry) => join(entry.parentPath, entry.name)),
  );
  for (const file of [...listed.sort(), "package-lock.json"]) recipe.update(`${file}\0`).update(readFileSync(file));
  const name = `image-${architecture}-${recipe.digest("hex").slice(0, 12)}`;
  const folder = join(cacheDirectory(), name);
  if (existsSync(folder)) return folder;
  const half = `${folder}.${process.pid}`;
  try {
    mkdirSync(half);
    makeImage({ architecture, output: join(half, "disk.img"), keep: half });
    // Nobody wants those of other days.
    for (const old of readdirSync(cacheDirectory())) {
      if (new RegExp(`^image-${architecture}-[0-9a-f]{12}$`).test(old)) {
        rmSync(join(cacheDirectory(), old), { recursive: true, force: true });
      }
    }
    renameSync(half, folder);
  } finally {
    rmSync(half, { recursive: true, force: true });
  }
  return folder;
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
  const output = values.output ?? `jumpstarter-${architecture}.img`;
  makeImage({ architecture, output, keep: values.keep, offline: values.offline });
  console.log(output);
}
