import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { pipeline } from "node:stream/promises";
import type { ChildHandle } from "../../agent/driver/driver.ts";
import { AgentError } from "../../agent/driver/errors.ts";
import { opendal } from "../../boards/storage/interface.ts";

/** A boot service's storage, into which files are put for the board. */
export interface Staging {
  /** Puts a local file there under a name; it is removed with what the lease created. */
  put(file: string, name: string, signal: AbortSignal): Promise<void>;
}

const readBytes = 256 * 1024;

/** @throws AgentError E_CONFIG if the service has no storage */
export function stagingOf(services: ReadonlyMap<string, ChildHandle>, service: string): Staging {
  const storage = services.get(service)?.child("storage");
  if (storage === undefined) throw new AgentError("E_CONFIG", `the flasher's ${service} child has no storage`);
  storage.as(opendal);
  return {
    put: async (file, name, signal) => {
      const calls = storage.as(opendal, { signal });
      // An SD card is quicker read than written, and a board may be loading the file right now.
      if ((await calls.exists(name)) && (await calls.hash(name)) === (await sha256(file, signal))) {
        await calls.register_path(name);
        return;
      }
      const fd = await calls.open(name, "wb");
      try {
        await calls.file_write(fd, storage.lend(createReadStream(file, { highWaterMark: readBytes })));
      } finally {
        await calls.file_close(fd);
      }
    },
  };
}

async function sha256(file: string, signal: AbortSignal): Promise<string> {
  const hash = createHash("sha256");
  await pipeline(createReadStream(file, { highWaterMark: readBytes }), hash, { signal });
  return hash.digest("hex");
}
