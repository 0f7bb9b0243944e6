import type { Setup } from "../../agent/sys/usbfs.ts";

/** Requests to hubs: USB 2.0 chapter 11.24, USB 3.2 chapter 10.16. */

export const hubClass = 9;

const getStatus = 0;
const clearFeature = 1;
const setFeature = 3;
const getDescriptor = 6;
const portPower = 8;
/** Class requests: to the device, or (3) to one of its ports. */
const fromHub = 0xa0;
const fromPort = 0xa3;
const toPort = 0x23;

/** USB 3 hubs have a descriptor of their own. */
export const hubDescriptorRequest = (superSpeed: boolean): Setup => ({
  requestType: fromHub,
  request: getDescriptor,
  value: (superSpeed ? 0x2a : 0x29) << 8,
  index: 0,
});
/** Its lists of ports make it no longer than that. */
export const longestHubDescriptorBytes = 71;

export const portPowerRequest = (port: number, on: boolean): Setup => ({
  requestType: toPort,
  request: on ? setFeature : clearFeature,
  value: portPower,
  index: port,
});

export const portStatusRequest = (port: number): Setup => ({
  requestType: fromPort,
  request: getStatus,
  value: 0,
  index: port,
});
export const portStatusBytes = 4;

export interface HubFacts {
  readonly ports: number;
  /** How it switches power: each port by itself, all together, or not at all. */
  readonly switching: "individual" | "ganged" | "none";
}

/** @returns undefined if it is not the descriptor of a hub */
export function parseHubDescriptor(bytes: Uint8Array): HubFacts | undefined {
  const [length, type, ports, characteristics] = bytes;
  if (length === undefined || type === undefined || ports === undefined || characteristics === undefined)
    return undefined;
  if ((type !== 0x29 && type !== 0x2a) || ports === 0) return undefined;
  // Logical Power Switching Mode; 1X is reserved, and what hubs without switches say.
  const mode = characteristics & 0x03;
  return { ports, switching: mode === 0 ? "ganged" : mode === 1 ? "individual" : "none" };
}

/** Whether a port has power; the bit lies elsewhere in USB 3. @returns undefined if it is not a port's status */
export function hasPower(status: Uint8Array, superSpeed: boolean): boolean | undefined {
  const high = status[1];
  if (status.length < portStatusBytes || high === undefined) return undefined;
  return (high & (superSpeed ? 0x02 : 0x01)) !== 0;
}
