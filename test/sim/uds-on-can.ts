import type { Calls } from "../../agent/driver/interface.ts";
import { setTimeout as sleep } from "node:timers/promises";
import type { isoTp } from "../../boards/isotp/interface.ts";
import type { UdsServer } from "./uds-server.ts";

/** Lets an ECU live behind an ISO-TP driver, of any exporter, until the signal is aborted. */
export async function serveOnIsoTp(driver: Calls<typeof isoTp>, ecu: UdsServer, signal: AbortSignal): Promise<void> {
  await driver.start();
  while (!signal.aborted) {
    const { data } = await driver.recv(true, 0.05);
    if (data === null) continue;
    for (const { afterMs, message } of ecu.respond(Buffer.from(data, "base64"))) {
      if (afterMs > 0) await sleep(afterMs);
      await driver.send({ data: Buffer.from(message).toString("base64") });
    }
  }
}
