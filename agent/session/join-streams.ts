import type { Duplex } from "node:stream";
import { AgentError } from "../driver/errors.ts";

/**
 * Connects a client's stream with a driver's, both ways, until both directions are finished. The end of one
 * direction ends only that direction. The driver's stream is destroyed in every case.
 * @throws AgentError if the device side breaks, after the client was told EOF.
 */
export async function joinStreams(client: Duplex, device: Duplex): Promise<void> {
  try {
    await new Promise<void>((resolve, reject) => {
      let toClientOver = false;
      let toDeviceOver = false;
      const over = () => {
        if (toClientOver && toDeviceOver) resolve();
      };
      const toClientEnds = (then: () => void) => {
        if (client.destroyed || client.writableFinished) then();
        else client.end(then);
      };
      copy(client, device);
      copy(device, client);
      client.once("end", () => {
        toDeviceOver = true;
        if (!device.writableEnded && !device.destroyed) device.end();
        over();
      });
      client.once("error", reject);
      client.once("close", resolve);
      device.once("end", () => {
        toClientEnds(() => {
          toClientOver = true;
          over();
        });
      });
      device.once("error", (error) => toClientEnds(() => reject(error)));
      device.once("close", () => {
        const complete = device.readableEnded;
        toClientEnds(() => {
          if (complete) resolve();
          else reject(new AgentError("E_CONNECTION", "the device closed the stream"));
        });
      });
    });
  } finally {
    device.destroy();
  }
}

/** Copies chunk by chunk; the source rests while the target does not take more. */
function copy(from: Duplex, to: Duplex): void {
  from.on("data", (chunk: unknown) => {
    if (to.destroyed || to.writableEnded) return;
    if (!to.write(chunk)) from.pause();
  });
  to.on("drain", () => from.resume());
}
