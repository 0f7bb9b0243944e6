import { setTimeout as sleep } from "node:timers/promises";
import type { Calls } from "../../agent/driver/interface.ts";
import type { CanBus, CanFrame } from "../../boards/can/bus.ts";
import type { can } from "../../boards/can/interface.ts";
import { toFrame, toMessage } from "../../boards/can/messages.ts";
import { isoTpAddress, isoTpParams, machineSettings } from "../../boards/isotp/schema.ts";
import { IsoTpConnection } from "../../boards/isotp/transport.ts";
import type { UdsServer } from "./uds-server.ts";

/** The CAN ids of an ECU and of whoever asks it. */
export const ecuIds = { rxid: 0x7e8, txid: 0x7e0 };

/** Lets an ECU live behind a CAN driver, of any exporter, until the signal is aborted. */
export async function serveOnCan(driver: Calls<typeof can>, ecu: UdsServer, signal: AbortSignal): Promise<void> {
  let onFrame: (frame: CanFrame) => void = () => {};
  const bus: CanBus = {
    channelInfo: "remote",
    fd: false,
    lostFrames: 0,
    send: async (frame) => void (await driver.send(toMessage(frame))),
    listen(listener) {
      onFrame = listener;
      return () => {};
    },
    state: () => Promise.resolve("error-active"),
    close: () => {},
  };
  const address = isoTpAddress.parse({ txid: ecuIds.rxid, rxid: ecuIds.txid });
  const connection = new IsoTpConnection(bus, machineSettings(isoTpParams.parse({})), address, {
    deliver: (message) => void answer(message),
    hasRoom: () => true,
    problem: () => {},
  });
  const answer = async (request: Uint8Array) => {
    for (const { afterMs, message } of ecu.respond(request)) {
      if (afterMs > 0) await sleep(afterMs);
      connection.submit({ message, target: "physical", done: () => {} });
    }
  };
  connection.start(() => {});
  while (!signal.aborted) {
    const [message] = await driver._recv_internal(0.05);
    if (message !== null) onFrame(toFrame(message));
  }
  connection.stop({ result: "N_ERROR", text: "stopped" });
}
