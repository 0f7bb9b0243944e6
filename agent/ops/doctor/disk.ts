import { constants } from "node:fs";
import { access, statfs } from "node:fs/promises";
import { homedir } from "node:os";
import { dirname, resolve } from "node:path";
import { isSystemError, toAgentError } from "../../driver/errors.ts";
import { driverName, needsOf, type Configured } from "./configured.ts";
import { findingsOf, type DoctorFinding } from "./finding.ts";

const MiB = 1024 * 1024;

/** An image that is flashed is not copied here; logs, bundles and what boards send have to have a place. */
const scarceBytes = 512 * MiB;
const scarceShare = 0.1;
const tooFewBytes = 32 * MiB;

/** How much room a file system has. */
export interface Room {
  readonly freeBytes: number;
  readonly sizeBytes: number;
  /** 0 of 0: it does not count files. */
  readonly freeFiles: number;
  readonly files: number;
}

/**
 * Room where exporters write, once for each file system, and whether they may write there.
 * @param agentDirectories those of the agent itself, with what they are for
 */
export async function checkDisk(
  configured: readonly Configured[],
  agentDirectories: readonly { readonly path: string; readonly use: string }[],
): Promise<DoctorFinding[]> {
  const { warning, problem } = findingsOf("disk");
  const wanted = [
    ...agentDirectories,
    ...configured.flatMap((exporter) =>
      exporter.drivers.flatMap((driver) => {
        const directories = needsOf(driver).directories ?? [];
        return directories.map((path) => ({ path: resolve(homedir(), path), use: driverName(exporter, driver) }));
      }),
    ),
  ];
  const findings: DoctorFinding[] = [];
  const rooms = new Map<string, Room & { paths: Set<string> }>();
  for (const { path, use } of wanted) {
    try {
      const place = await existing(path, async (there) => {
        await access(there, constants.W_OK | constants.X_OK);
        return there;
      });
      const { bsize, bavail, blocks, ffree, files, type } = await statfs(place);
      const room = { freeBytes: bavail * bsize, sizeBytes: blocks * bsize, freeFiles: ffree, files };
      const key = [type, blocks, files, bavail].join();
      const known = rooms.get(key) ?? { ...room, paths: new Set<string>() };
      known.paths.add(path);
      rooms.set(key, known);
    } catch (thrown) {
      const denied = isSystemError(thrown) && ["EACCES", "EPERM", "EROFS"].includes(thrown.code);
      const hint = "make the directory and give it to the agent's user, or configure another one";
      const said = toAgentError(thrown).message;
      findings.push(
        denied ? problem(`${use}: cannot write to ${path}: ${said}`, hint) : warning(`${use}: ${path}: ${said}`),
      );
    }
  }
  for (const { paths, ...room } of rooms.values()) findings.push(judgeRoom([...paths].join(", "), room));
  return findings;
}

/** @param place for people */
export function judgeRoom(place: string, { freeBytes, sizeBytes, freeFiles, files }: Room): DoctorFinding {
  const { ok, warning, problem } = findingsOf("disk");
  const told = `${place}: ${Math.floor(freeBytes / MiB)} MiB of ${Math.floor(sizeBytes / MiB)} MiB are free`;
  const hint = "remove what is old: logs, cached bundles, files that boards have sent";
  if (files > 0 && freeFiles === 0) return problem(`${place}: no further file can be made`, hint);
  if (freeBytes < tooFewBytes) return problem(told, hint);
  if (freeBytes < scarceBytes && freeBytes < scarceShare * sizeBytes) return warning(told, hint);
  return ok(told);
}

/** Looks at a path, or at the nearest directory above it that is there, where it will be made. */
async function existing<T>(path: string, look: (path: string) => Promise<T>): Promise<T> {
  for (let here = path; ; here = dirname(here)) {
    try {
      return await look(here);
    } catch (error) {
      if (!isSystemError(error) || error.code !== "ENOENT" || dirname(here) === here) throw error;
    }
  }
}
