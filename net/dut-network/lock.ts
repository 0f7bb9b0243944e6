import { DeviceOffline } from "../../agent/driver/errors.ts";
import { lockOnHost } from "../host-lock.ts";

/**
 * Keeps an interface of this network namespace for this process.
 * @returns a function that gives it back. @throws DeviceOffline while another one has it
 */
export async function lockInterface(name: string): Promise<() => Promise<void>> {
  const unlock = await lockOnHost(`dut-network ${name}`);
  if (unlock === undefined) throw new DeviceOffline(`${name} is in use by another DUT network on this host`);
  return unlock;
}
