import type { Duplex } from "node:stream";
import { AgentError } from "../driver/errors.ts";

export interface JoinOptions {
  /**
   * For devices that cannot be told that the client is done (a serial line has no end of file): how long a stream
   * stays open after the client's end when nothing comes from the device.
   */
  readonly lingerMs?: number | undefined;
}

/**
 * Connects a client's stream with a driver's, both ways, until both directions are finished. The end of one
 * direction ends only that direction. The driver's stream is destroyed in every case.
 * @throws AgentError if the device side breaks, after the client was told EOF.
 */
export async function joinStreams(client: Duplex, device: Duplex, { lingerMs }: JoinOptions = {}): Promise<void> {
  let linger: NodeJS.Timeout | undefined;
  device.on("error", () => {});
  try {
    await new Promise<void>((resolve, reject) => {
      let toClientOver = false;
      let toDeviceOver = false;
      const endClient = (then: () => void) => {
        if (client.destroyed || client.writableFinished) then();
        else client.end(then);
      };
      copy(client, device);
      copy(device, client);
      client.once("end", () => {
        toDeviceOver = true;
        if (!device.writableEnded && !device.destroyed) device.end();
        if (toClientOver) resolve();
        else if (lingerMs !== undefined) {
          linger = setTimeout(() => endClient(resolve), lingerMs);
          device.on("data", () => linger?.refresh());
        }
      });
      client.once("error", reject);
      client.once("close", resolve);
      device.once("end", () => {
        endClient(() => {
          toClientOver = true;
          if (toDeviceOver) resolve();
        });
      });
      device.once("error", (error) => endClient(() => reject(error)));
      device.once("close", () => {
        const complete = device.readableEnded;
        endClient(() => {
          if (complete) resolve();
          else reject(new AgentError("E_CONNECTION", "the device closed the stream"));
        });
      });
    });
  } finally {
    clearTimeout(linger);
    device.destroy();
  }
}

/**
 * Copies chunk by chunk; the source rests while the target does not take more. What comes in one turn of the event
 * loop is written at once: a frame of 64 KiB comes in five pieces, and a system call for each costs more than the copy.
 */
function copy(from: Duplex, to: Duplex): void {
  const uncork = () => to.uncork();
  from.on("data", (chunk: unknown) => {
    if (to.destroyed || to.writableEnded) return;
    if (to.writableCorked === 0) {
      to.cork();
      setImmediate(uncork);
    }
    if (!to.write(chunk)) from.pause();
  });
  to.on("drain", () => from.resume());
}
