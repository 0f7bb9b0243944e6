import { close, constants, open, readSync, write } from "node:fs";
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { AgentError, DeviceOffline, isSystemError } from "../driver/errors.ts";
import { loadKoffi } from "./native.ts";
import { watchDescriptor } from "./poll.ts";

/** HID devices through the kernel's hidraw (Documentation/hid/hidraw.rst): reports as they are on the wire. */

export interface HidHandle {
  /** Sends an output report. @param report without the report number; devices without numbers get 0 before it */
  write(report: Uint8Array): Promise<void>;
  /**
   * The next input report, without a report number. Reports that came before the call count.
   * @throws AgentError E_TIMEOUT; DeviceOffline when it was unplugged
   */
  read(timeoutMs: number, signal?: AbortSignal): Promise<Buffer>;
  /** Forgets what has come and was not read: answers to questions that nobody waits for any more. */
  flush(): void;
  close(): Promise<void>;
}

/** HID_MAX_BUFFER_SIZE of the kernel. */
const longestReportBytes = 16_384;
const gone = new Set(["ENODEV", "ENXIO", "EIO", "ENOENT", "ESHUTDOWN"]);

/** Node of the HID interface of a USB device, from the directory of the interface in sysfs: `/dev/hidraw0`. */
export async function hidrawNode(interfaceSysfs: string): Promise<string | undefined> {
  for (const name of await readdir(interfaceSysfs).catch(() => [])) {
    // `0003:04D8:F2F7.0001` is the HID device.
    if (!/^[0-9A-F]{4}:[0-9A-F]{4}:[0-9A-F]{4}\.[0-9A-F]{4}$/i.test(name)) continue;
    const [node] = await readdir(join(interfaceSysfs, name, "hidraw")).catch(() => []);
    if (node !== undefined) return `/dev/${node}`;
  }
  return undefined;
}

/**
 * @param node `/dev/hidraw0`
 * @param name the device, for errors
 * @throws DeviceOffline when it has gone; AgentError E_IO when this user may not open it
 */
export async function openHidraw(node: string, name: string): Promise<HidHandle> {
  const koffi = await loadKoffi();
  const explain = (error: unknown): Error => {
    if (isSystemError(error) && gone.has(error.code)) return new DeviceOffline(`${name} has gone`, { cause: error });
    if (isSystemError(error) && error.code === "EACCES") {
      const hint = `give this user access to ${node}, by a udev rule for the device`;
      return new AgentError("E_IO", `${name} may not be opened by this user`, { hint, cause: error });
    }
    return error as Error;
  };
  const fd = await promisify(open)(node, constants.O_RDWR | constants.O_NONBLOCK).catch((error: unknown) => {
    throw explain(error);
  });
  const buffer = Buffer.alloc(longestReportBytes);
  /** @returns undefined when there is nothing now. */
  const readNow = (): Buffer | undefined => {
    try {
      return Buffer.from(buffer.subarray(0, readSync(fd, buffer)));
    } catch (error) {
      if (isSystemError(error) && error.code === "EAGAIN") return undefined;
      throw explain(error);
    }
  };

  return {
    async write(report) {
      const bytes = Buffer.concat([Buffer.from([0]), report]);
      await promisify(write)(fd, bytes).catch((error: unknown) => {
        throw explain(error);
      });
    },
    read(timeoutMs, signal) {
      return new Promise((resolve, reject) => {
        const already = readNow();
        if (already !== undefined) return resolve(already);
        signal?.throwIfAborted();
        const over = () => {
          clearTimeout(timer);
          signal?.removeEventListener("abort", onAbort);
          unwatch();
        };
        const fail = (error: Error) => {
          over();
          reject(error);
        };
        const onAbort = () => fail(signal?.reason as Error);
        const timer = setTimeout(() => fail(new AgentError("E_TIMEOUT", `${name} did not answer`)), timeoutMs);
        signal?.addEventListener("abort", onAbort);
        const unwatch = watchDescriptor(koffi, fd, "readable", () => {
          try {
            const report = readNow();
            if (report === undefined) return;
            over();
            resolve(report);
          } catch (error) {
            fail(error as Error);
          }
        });
      });
    },
    flush() {
      while (readNow() !== undefined);
    },
    close: () => promisify(close)(fd),
  };
}
