// Builds Debian packages. What they hold depends on the commit alone: two builds have one digest.
// usage: npm run package -- [amd64|arm64|armhf|all] [--out DIR] [--version VERSION] [--compression 0-9]
// Default: this machine's architecture, into dist-packages/. places.json tells where what is not
// the program goes. The maintainer is whom DEBFULLNAME and DEBEMAIL name.
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { cpSync, lutimesSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync } from "node:fs";
import { chmodSync, lstatSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join, relative, resolve } from "node:path";
import { parseArgs } from "node:util";
import { architectures } from "./architectures.mjs";
import { copyright, layProgram, wrapper } from "./program.mjs";

const name = "jumpstarter-agent";
const program = `/usr/lib/${name}`;
const binaries = ["jmp-agent", "j"];
/** Of Debian; places of a shell's own would be another package's. */
const completions = {
  bash: "bash-completion/completions/jmp-agent",
  zsh: "zsh/vendor-completions/_jmp-agent",
  fish: "fish/vendor_completions.d/jmp-agent.fish",
};
const scripts = ["preinst", "postinst", "prerm", "postrm"];

process.chdir(dirname(import.meta.dirname));
const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    out: { type: "string", default: "dist-packages" },
    version: { type: "string" },
    compression: { type: "string", default: "6" },
  },
});
const [wanted = output("dpkg", "--print-architecture")] = positionals;
const known = Object.keys(architectures);
if (positionals.length > 1 || !["all", ...known].includes(wanted)) {
  console.error(`usage: npm run package -- [${known.join("|")}|all] [--out DIR] [--version VERSION]`);
  process.exit(2);
}
// Times in the package are that of the commit.
process.env.SOURCE_DATE_EPOCH ??= output("git", "log", "-1", "--format=%ct");
const epoch = Number(process.env.SOURCE_DATE_EPOCH);
const version = values.version ?? versionOfCommit();
for (const architecture of wanted === "all" ? known : [wanted]) console.log(await makePackage(architecture));

/** @returns the path of the package */
async function makePackage(architecture) {
  const work = mkdtempSync(join(tmpdir(), "jmp-agent-package-"));
  try {
    const root = join(work, "root");
    const parts = await layProgram(join(root, program), architecture);
    layFiles(root, architecture, parts);
    layControl(root, architecture);
    for (const path of everything(root)) setModeAndTime(path);
    mkdirSync(values.out, { recursive: true });
    const made = resolve(values.out, `${name}_${version}_${architecture}.deb`);
    const packer = ["-Zxz", `-z${values.compression}`];
    execFileSync("dpkg-deb", ["--root-owner-group", ...packer, "--build", root, made], { stdio: "pipe" });
    return made;
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

/** All but the program itself. */
function layFiles(root, architecture, parts) {
  const put = (path, text, mode = 0o644) => {
    mkdirSync(dirname(join(root, path)), { recursive: true });
    writeFileSync(join(root, path), text, { mode });
  };
  for (const binary of binaries) put(`/usr/bin/${binary}`, wrapper(program, binary, architecture), 0o755);
  const places = JSON.parse(readFileSync("packaging/places.json", "utf8"));
  for (const [from, to] of Object.entries(places)) {
    cpSync(from, join(root, "usr", to), { recursive: true });
  }
  for (const [shell, place] of Object.entries(completions)) {
    put(
      join("/usr/share", place),
      output(process.execPath, join(root, program, "dist/jmp-agent.js"), "completion", shell),
    );
  }
  output(process.execPath, "--import", "tsx", "scripts/man-pages.ts", join(root, "usr/share/man/man1"));
  for (const page of everything(join(root, "usr/share/man")).filter((path) => statSync(path).isFile())) {
    execFileSync("gzip", ["-9n", page]);
  }
  put(`/usr/share/lintian/overrides/${name}`, readFileSync("packaging/deb/lintian-overrides"));
  put(`/usr/share/doc/${name}/copyright`, copyright(parts));
  put(`/usr/share/doc/${name}/changelog.gz`, zipped(changelog()));
}

function layControl(root, architecture) {
  const files = everything(root).filter((path) => lstatSync(path).isFile());
  const kib = files.reduce((sum, path) => sum + Math.ceil(statSync(path).size / 1024), 0);
  const inPackage = (path) => relative(root, path);
  const md5 = (path) => createHash("md5").update(readFileSync(path)).digest("hex");
  const conffiles = files.map((path) => `/${inPackage(path)}\n`).filter((path) => path.startsWith("/etc/"));
  const control = join(root, "DEBIAN");
  mkdirSync(control);
  const texts = {
    control: controlFile(architecture, kib),
    md5sums: files.map((path) => `${md5(path)}  ${inPackage(path)}\n`).join(""),
    ...(conffiles.length > 0 && { conffiles: conffiles.join("") }),
    ...Object.fromEntries(scripts.map((script) => [script, readFileSync(join("packaging/deb", script))])),
  };
  for (const [file, text] of Object.entries(texts)) {
    writeFileSync(join(control, file), text, { mode: scripts.includes(file) ? 0o755 : 0o644 });
  }
}

function controlFile(architecture, kib) {
  const { node } = architectures[architecture];
  const depends = [
    // What Node is linked with: the oldest versions that its symbols ask for.
    ...(node === undefined ? ["nodejs (>= 20.19)"] : ["libc6 (>= 2.28)", "libstdc++6 (>= 8)", "libgcc-s1"]),
    "systemd | systemd-standalone-sysusers",
    "systemd | systemd-standalone-tmpfiles",
  ];
  return [
    `Package: ${name}`,
    `Version: ${version}`,
    `Architecture: ${architecture}`,
    `Maintainer: ${maintainer()}`,
    `Installed-Size: ${kib}`,
    `Depends: ${depends.join(", ")}`,
    "Recommends: systemd, udev, ca-certificates",
    "Suggests: python3, qemu-system-arm, u-boot-qemu, qemu-utils, dnsmasq-base, nftables, ustreamer, sshfs, adb, fastboot",
    "Section: net",
    "Priority: optional",
    "Description: Jumpstarter exporter for lab hosts",
    " Serves boards to unmodified Jumpstarter clients: leases, power, consoles,",
    " flashing and netboot, with TFTP, HTTP and DHCP of its own. It reads the",
    " configuration files of the Python exporter.",
    "",
  ].join("\n");
}

/** That of package.json, and the commit unless this is the tagged release itself. */
function versionOfCommit() {
  const { version } = JSON.parse(readFileSync("package.json", "utf8"));
  const tags = output("git", "tag", "--points-at", "HEAD").split("\n");
  const changed = output("git", "status", "--porcelain", "--untracked-files=no") !== "";
  if (tags.includes(`v${version}`) && !changed) return version;
  const [time, commit] = output("git", "log", "-1", "--date=format-local:%Y%m%d%H%M%S", "--format=%cd %h").split(" ");
  return `${version}+git${time}.${commit}${changed ? ".changed" : ""}`;
}

function changelog() {
  const commit = output("git", "rev-parse", "--short", "HEAD");
  const date = new Date(epoch * 1000).toUTCString().replace("GMT", "+0000");
  return `${name} (${version}) unstable; urgency=medium\n\n  * Built from commit ${commit}.\n\n -- ${maintainer()}  ${date}\n`;
}

function maintainer() {
  const { DEBFULLNAME, DEBEMAIL } = process.env;
  if (DEBFULLNAME && DEBEMAIL) return `${DEBFULLNAME} <${DEBEMAIL}>`;
  return output("git", "log", "-1", "--format=%cn <%ce>");
}

/** The gzip program's bytes are the same everywhere; those of Node's zlib differ between its releases. */
function zipped(content) {
  return execFileSync("gzip", ["-9nc"], { input: content });
}

function everything(folder) {
  return readdirSync(folder, { recursive: true })
    .sort()
    .map((path) => join(folder, path));
}

function setModeAndTime(path) {
  const status = lstatSync(path);
  if (!status.isSymbolicLink()) chmodSync(path, (status.mode & 0o100) !== 0 ? 0o755 : 0o644);
  lutimesSync(path, epoch, epoch);
}

function output(command, ...words) {
  const env = { ...process.env, TZ: "UTC" };
  return execFileSync(command, words, { encoding: "utf8", env, maxBuffer: 2 ** 24 }).trim();
}
