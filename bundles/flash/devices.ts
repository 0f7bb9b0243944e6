import type { Readable } from "node:stream";
import type { Calls, Interface } from "../../agent/driver/interface.ts";
import type { ResourceHandle } from "../../agent/driver/resource.ts";
import { power } from "../../boards/power/interface.ts";
import { serialConsole } from "../../boards/serial/interface.ts";
import { opendal } from "../../boards/storage/interface.ts";
import { ubootConsole } from "../../boards/uboot/interface.ts";
import { http } from "../../net/http/interface.ts";
import { tftp } from "../../net/tftp/interface.ts";
import { flasher } from "../flasher/interface.ts";

/** All that a flash touches, by interface: whether the drivers are in this process or behind a session is the same. */
export interface FlashDevices {
  readonly flasher: Calls<typeof flasher>;
  readonly power: Calls<typeof power>;
  readonly serial: Calls<typeof serialConsole>;
  readonly uboot: Calls<typeof ubootConsole>;
  readonly tftp: Calls<typeof tftp>;
  readonly tftpFiles: Calls<typeof opendal>;
  readonly http: Calls<typeof http>;
  readonly httpFiles: Calls<typeof opendal>;
  /** Lends a local stream to one call of `httpFiles`. */
  lend<T>(source: Readable, use: (handle: ResourceHandle) => Promise<T>): Promise<T>;
}

/**
 * The devices of the flasher at a dotted path.
 * @param calls typed calls on the driver at a path, here or over a session
 */
export function flashDevices(
  path: string,
  calls: <I extends Interface>(path: string, wanted: I) => Calls<I>,
  lend: FlashDevices["lend"],
): FlashDevices {
  return {
    flasher: calls(path, flasher),
    power: calls(`${path}.power`, power),
    serial: calls(`${path}.serial`, serialConsole),
    uboot: calls(`${path}.uboot`, ubootConsole),
    tftp: calls(`${path}.tftp`, tftp),
    tftpFiles: calls(`${path}.tftp.storage`, opendal),
    http: calls(`${path}.http`, http),
    httpFiles: calls(`${path}.http.storage`, opendal),
    lend,
  };
}
