import { posix } from "node:path";
import { AgentError } from "../../../agent/driver/errors.ts";

/** A path inside a store, in its only spelling. */
export interface StorePath {
  /** `a/b`, `a/b/` for a directory, `/` for the root. */
  readonly text: string;
  /** Empty for the root. */
  readonly segments: readonly string[];
  /** Whether it is spelled as a directory: ends in `/`, or is the root. */
  readonly isDirectory: boolean;
}

/**
 * Trims white space, leading and repeated slashes and `.` segments.
 * @throws AgentError E_INVALID for `..` segments and NUL: no path leads out of the store
 */
export function parsePath(given: string): StorePath {
  if (given.includes("\0")) throw new AgentError("E_INVALID", "a path must not contain NUL");
  const trimmed = given.trim();
  const segments = trimmed.split("/").filter((segment) => segment !== "" && segment !== ".");
  if (segments.includes("..")) throw new AgentError("E_INVALID", `a path must not contain '..': ${given}`);
  if (segments.length === 0) return { text: "/", segments, isDirectory: true };
  const isDirectory = trimmed.endsWith("/");
  return { text: segments.join("/") + (isDirectory ? "/" : ""), segments, isDirectory };
}

/** The same path spelled as a directory; as an object key prefix, the root is empty. */
export function directoryKey(path: StorePath): string {
  return path.segments.map((segment) => `${segment}/`).join("");
}

/** The directory above; the root's is the root. */
export function parentOf(path: StorePath): StorePath {
  return parsePath(`${path.segments.slice(0, -1).join("/")}/`);
}

/** The form in which `get_created_resources` names a path: no slashes around, backslashes as slashes, `a/../b` as `b`. */
export function reportedForm(given: string): string {
  const normal = posix.normalize(given.replaceAll("\\", "/")).replace(/^\/+|\/+$/g, "");
  return normal === "." ? "" : normal;
}
