import { mkdtempSync, rmSync } from "node:fs";
import { homedir, tmpdir } from "node:os";
import { join } from "node:path";
import { after } from "node:test";
import { missingPrograms } from "../../scripts/programs.mjs";

/** Why tests with the real `adb` cannot run here, or false. Never a reason in CI. */
export function missingAdb(): string | false {
  if (missingPrograms(["adb"]).length === 0) return false;
  if (process.env["CI"]) throw new Error("adb is missing: apt-get install adb");
  return "adb is not installed: apt-get install adb";
}

/** A home for the keys that ADB servers make, instead of the user's own. For this process and what it starts. */
export function adbHome(): void {
  const home = mkdtempSync(join(tmpdir(), "jmp-agent-adb-"));
  // What tests install stays where it is.
  process.env["XDG_CACHE_HOME"] ||= join(homedir(), ".cache");
  process.env["HOME"] = home;
  after(() => rmSync(home, { recursive: true, force: true }));
}
