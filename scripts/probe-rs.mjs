// Builds the probe-rs program that tests run, where crates can be had: some ten minutes, so CI does not wait for it.
// usage: node scripts/probe-rs.mjs        prints the program's path
// It is kept outside the repository, beside the Python clients. It needs cargo, and Debian's pkg-config and libudev-dev.
import { execFileSync } from "node:child_process";
import { existsSync } from "node:fs";
import { homedir } from "node:os";
import { basename, join } from "node:path";

const version = "0.32.0";

const cache = process.env.XDG_CACHE_HOME || join(homedir(), ".cache");
const root = join(process.env.JMP_PYTHON_CLIENTS || join(cache, "jumpstarter-agent"), "probe-rs");
const program = join(root, "bin/probe-rs");

/** The program that was built here, or undefined. */
export function builtProbeRs() {
  return existsSync(program) ? program : undefined;
}

// By name: in a bundle of the tests this file is not itself.
if (basename(process.argv[1] ?? "") === "probe-rs.mjs") {
  if (builtProbeRs() === undefined) {
    const words = ["install", "probe-rs-tools", "--version", version, "--locked", "--root", root];
    // A build that is made for tests need not be fast.
    const env = { ...process.env, CARGO_PROFILE_RELEASE_LTO: "off", CARGO_PROFILE_RELEASE_OPT_LEVEL: "1" };
    execFileSync("cargo", words, { stdio: "inherit", env });
  }
  console.log(program);
}
