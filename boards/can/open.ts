import { AgentError } from "../../agent/driver/errors.ts";
import type { OpenContext } from "../../agent/driver/driver.ts";
import type { CanBus } from "./bus.ts";
import { createVirtualBuses } from "./virtual.ts";

export interface BusSettings {
  /** In python-can's words: `virtual`, `socketcan`. */
  readonly interface: string;
  readonly channel: string | number | null;
}

/**
 * One more end of a bus, of its own; who asked closes it.
 * @throws DeviceOffline if the interface is missing or down; AgentError E_CONFIG for an unknown kind of interface
 */
export async function openBus(
  settings: BusSettings,
  context: Pick<OpenContext<unknown>, "sharedOnHost" | "log">,
): Promise<CanBus> {
  switch (settings.interface) {
    case "virtual":
      return context.sharedOnHost("can virtual buses", createVirtualBuses).attach(settings.channel);
    default:
      throw new AgentError("E_CONFIG", `CAN interface '${settings.interface}' is not supported`, {
        hint: "use socketcan (slcan and others by slcand) or virtual",
      });
  }
}
