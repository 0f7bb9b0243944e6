import { access, constants, mkdir } from "node:fs/promises";
import { homedir } from "node:os";
import { join, resolve } from "node:path";
import { AgentError } from "../agent/driver/errors.ts";

/**
 * Where bundles are kept: the first place that can be written to of the Python exporter's, systemd's and the user's.
 * @param configured wins over all of them
 * @throws AgentError E_IO if there is none
 */
export async function cacheDirectory(configured: string | undefined): Promise<string> {
  if (configured !== undefined) return resolve(configured);
  const { CACHE_DIRECTORY, XDG_CACHE_HOME } = process.env;
  const [assigned] = CACHE_DIRECTORY?.split(":") ?? [];
  const places = [
    "/var/lib/jumpstarter/flasher",
    ...(assigned ? [join(assigned, "flasher")] : []),
    join(XDG_CACHE_HOME || join(homedir(), ".cache"), "jumpstarter", "flasher"),
  ];
  for (const place of places) {
    if (await canBeWrittenTo(place)) return place;
  }
  throw new AgentError("E_IO", `no place for bundles: none of ${places.join(", ")} can be written to`, {
    hint: "name one: cache_dir in a flasher's config, --cache-dir on the command line",
  });
}

async function canBeWrittenTo(place: string): Promise<boolean> {
  try {
    await mkdir(place, { recursive: true });
    await access(place, constants.W_OK);
    return true;
  } catch {
    return false;
  }
}
