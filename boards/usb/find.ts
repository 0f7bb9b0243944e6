import type { Finding, Suggestion } from "../../agent/driver/driver.ts";
import { toAgentError } from "../../agent/driver/errors.ts";
import { describeUsb, listUsbDevices, type UsbDevice } from "../../agent/sys/usb-devices.ts";
import { chooseDevice, matchDevices, type Fingerprint, type Match, type Wanted } from "./match.ts";

/** One kind of USB device, and what a configuration says of it. */
export interface Search {
  /** For people, as the Python driver calls it. */
  readonly what: string;
  readonly prints: readonly Fingerprint[];
  readonly wanted: Wanted;
}

/** The device as it is plugged in now. @throws DeviceOffline naming what was looked for and what is there instead */
export async function findUsb({ what, prints, wanted }: Search): Promise<Match> {
  return chooseDevice(await listUsbDevices(), prints, wanted, what);
}

/**
 * For `inspect`.
 * @param nodeOf what the driver opens. Throws if it is not there
 */
export async function inspectUsb(search: Search, nodeOf: (device: UsbDevice) => Promise<string>): Promise<Finding[]> {
  try {
    const { device, fingerprint } = await findUsb(search);
    return [{ ok: true, text: `${fingerprint.name} ${describeUsb(device)}`, nodes: [await nodeOf(device)] }];
  } catch (error) {
    const { message, hint } = toAgentError(error);
    return [{ ok: false, text: message, ...(hint === undefined ? {} : { hint }) }];
  }
}

/** For `suggest`: entries for every device of a kind, with what tells it from its like. */
export async function suggestUsb(
  prints: readonly Fingerprint[],
  entriesOf: (match: Match, wanted: Wanted) => readonly Omit<Suggestion, "why">[],
): Promise<Suggestion[]> {
  const matches = matchDevices(await listUsbDevices(), prints);
  return matches.flatMap((match) => {
    const { serial, path } = match.device;
    const alone = matches.filter(({ device }) => device.serial === serial).length === 1;
    const wanted: Wanted = serial !== undefined && alone ? { serial } : { path };
    const why = `${match.fingerprint.name} ${describeUsb(match.device)}`;
    return entriesOf(match, wanted).map((suggestion) => ({ ...suggestion, why }));
  });
}
