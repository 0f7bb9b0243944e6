import { AgentError } from "../../agent/driver/errors.ts";
import type { OpenContext } from "../../agent/driver/driver.ts";
import type { CanBus } from "./bus.ts";
import type { LinkSettings } from "./link.ts";
import { createVirtualBuses } from "./virtual.ts";

export interface BusSettings extends LinkSettings {
  /** In python-can's words: `virtual`, `socketcan`; null takes it from the environment (CAN_INTERFACE). */
  readonly interface: string | null;
  /** Null takes it from the environment (CAN_CHANNEL). */
  readonly channel: string | number | null;
  readonly receiveOwnMessages?: boolean | undefined;
}

/** Where a bus is, with what the environment says of it. */
export interface BusAddress {
  readonly interface: string;
  readonly channel: string | number | null;
}

/** @throws AgentError E_CONFIG if neither the configuration nor the environment names an interface that there is */
export function busAddress(
  settings: Pick<BusSettings, "interface" | "channel">,
  environment: NodeJS.ProcessEnv,
): BusAddress {
  const kind = settings.interface ?? environment["CAN_INTERFACE"];
  const channel = settings.channel ?? environment["CAN_CHANNEL"] ?? null;
  if (kind === undefined || kind === "") {
    throw new AgentError("E_CONFIG", "no CAN interface is named, neither by `interface` nor by CAN_INTERFACE");
  }
  if (kind !== "virtual" && kind !== "socketcan") {
    throw new AgentError("E_CONFIG", `CAN interface '${kind}' is not supported`, {
      hint: "use socketcan, which has drivers for most adapters (slcan: slcand), or virtual",
    });
  }
  if (kind === "socketcan" && (typeof channel !== "string" || !/^[^\s/]{1,15}$/.test(channel))) {
    throw new AgentError(
      "E_CONFIG",
      `socketcan needs the name of a network interface as channel, like can0, not ${channel}`,
    );
  }
  return { interface: kind, channel };
}

/**
 * One more end of a bus, of its own; who asked closes it.
 * @throws DeviceOffline if the interface is missing or down; AgentError E_CONFIG if it cannot be what is configured
 */
export async function openBus(
  settings: BusSettings,
  context: Pick<OpenContext<unknown>, "sharedOnHost" | "log">,
): Promise<CanBus> {
  const { interface: kind, channel } = busAddress(settings, process.env);
  if (kind === "virtual") {
    const buses = context.sharedOnHost("can virtual buses", createVirtualBuses);
    return buses.attach(channel, settings.receiveOwnMessages);
  }
  const { openSocketCan } = await import("./socketcan.ts");
  return openSocketCan({ ...settings, channel: String(channel) }, context.log);
}
