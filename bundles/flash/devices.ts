import type { Readable } from "node:stream";
import type { Calls } from "../../agent/driver/interface.ts";
import type { ResourceHandle } from "../../agent/driver/resource.ts";
import type { power } from "../../boards/power/interface.ts";
import type { serialConsole } from "../../boards/serial/interface.ts";
import type { opendal } from "../../boards/storage/interface.ts";
import type { ubootConsole } from "../../boards/uboot/interface.ts";
import type { http } from "../../net/http/interface.ts";
import type { tftp } from "../../net/tftp/interface.ts";
import type { flasher } from "../flasher/interface.ts";

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
