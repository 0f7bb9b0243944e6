// Makes virtual environments with the real Python clients, one per release we promise to serve.
// usage: node scripts/python-clients.mjs [VERSION ...]        prints one `VERSION DIRECTORY` line each
// They are kept outside the repository: JMP_PYTHON_CLIENTS, else $XDG_CACHE_HOME/jumpstarter-agent.
import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { homedir } from "node:os";
import { basename, join } from "node:path";

export const clientVersions = ["0.9.0", "0.8.1", "0.7.4"];

/** What a release cannot live with any more: its own requirement has no upper bound. */
const pinned = { "0.7.4": ["opendal==0.45.20"] };

/** What only one release is tested with: the packages around it, and all of its other drivers. */
const extra = {
  "0.9.0": [
    "jumpstarter-testing",
    "jumpstarter-imagehash",
    ...[
      ...["adb", "androidemulator", "ble", "can", "corellium", "doip", "dut-network", "dutlink", "energenie", "esp32"],
      ...["gpiod", "http-power", "iscsi", "noyito-relay", "obd", "pi-pico", "probe-rs", "qemu", "renode", "ridesx"],
      ...["sdwire", "snmp", "someip", "ssh", "ssh-mitm", "ssh-mount", "stlink-msd", "tasmota", "tmt", "uds"],
      ...["uds-can", "uds-doip", "ustreamer", "vnc", "xcp", "yepkit"],
    ].map((name) => `jumpstarter-driver-${name}`),
  ].map((name) => `${name}==0.9.0`),
};

/** Packages whose requirements contradict Jumpstarter's own: without what they require. */
const alone = { "0.9.0": ["jumpstarter-driver-mitmproxy==0.9.0"] };

const drivers = ["power", "network", "composite", "opendal", "pyserial", "tftp", "http", "uboot", "flashers", "shell"];

export function clientDirectory(version) {
  const cache = process.env.XDG_CACHE_HOME || join(homedir(), ".cache");
  return join(process.env.JMP_PYTHON_CLIENTS || join(cache, "jumpstarter-agent"), `py-${version}`);
}

/** Installs what is missing; a finished environment's stamp says what it holds, and a broken-off one is made anew. */
export function installClients(versions = clientVersions) {
  for (const version of versions) {
    const directory = clientDirectory(version);
    const packages = [
      `jumpstarter-cli==${version}`,
      ...drivers.map((name) => `jumpstarter-driver-${name}==${version}`),
      ...(pinned[version] ?? []),
      ...(extra[version] ?? []),
    ];
    const stamp = join(directory, "complete");
    const single = alone[version] ?? [];
    const contents = [...packages, ...single].join("\n") + "\n";
    if (existsSync(stamp) && readFileSync(stamp, "utf8") === contents) continue;
    if (!existsSync(stamp)) {
      rmSync(directory, { recursive: true, force: true });
      mkdirSync(join(directory, ".."), { recursive: true });
      run("python3", "-m", "venv", directory);
    }
    const pip = [join(directory, "bin/pip"), "install", "--quiet", "--disable-pip-version-check"];
    run(...pip, ...packages);
    if (single.length > 0) run(...pip, "--no-deps", ...single);
    writeFileSync(stamp, contents);
  }
}

function run(command, ...words) {
  execFileSync(command, words, { stdio: "inherit" });
}

// By name: in a bundle of the tests this file is not itself.
if (basename(process.argv[1] ?? "") === "python-clients.mjs") {
  const versions = process.argv.length > 2 ? process.argv.slice(2) : clientVersions;
  installClients(versions);
  for (const version of versions) console.log(version, clientDirectory(version));
}
