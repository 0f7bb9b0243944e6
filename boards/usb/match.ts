import { DeviceOffline } from "../../agent/driver/errors.ts";
import { describeUsb, usbId, type UsbDevice } from "../../agent/sys/usb-devices.ts";

/** One kind of board, by what its USB device says of itself. */
export interface Fingerprint {
  /** For people: `SDWire`. */
  readonly name: string;
  readonly vendorId: number;
  readonly productId: number;
  /** What its product string must be. */
  readonly product?: RegExp;
  /** What its manufacturer string must be. */
  readonly manufacturer?: RegExp;
  /** The ids are those of a bare chip that many things are made of: such a device is taken only if it was asked for by serial number or path. */
  readonly generic?: true | undefined;
}

/** What a configuration says of the device that it means. */
export interface Wanted {
  readonly serial?: string | null | undefined;
  /** Where it is plugged in: `1-1.2`. */
  readonly path?: string | null | undefined;
}

export interface Match {
  readonly device: UsbDevice;
  readonly fingerprint: Fingerprint;
  /** The surer, the higher. */
  readonly score: number;
}

/** Every strike that speaks for a match, in the order of its weight. */
const points = { path: 8, serial: 8, product: 2, manufacturer: 1, specific: 1 };

/** How well a device fits. @returns undefined if it is another one */
function scoreOf(device: UsbDevice, print: Fingerprint, wanted: Wanted): number | undefined {
  if (device.vendorId !== print.vendorId || device.productId !== print.productId) return undefined;
  if (print.product !== undefined && !print.product.test(device.product ?? "")) return undefined;
  if (print.manufacturer !== undefined && !print.manufacturer.test(device.manufacturer ?? "")) return undefined;
  const { serial, path } = wanted;
  if (typeof serial === "string" && device.serial !== serial) return undefined;
  if (typeof path === "string" && device.path !== path) return undefined;
  const named = typeof serial === "string" || typeof path === "string";
  if (print.generic === true && !named) return undefined;
  return (
    (typeof path === "string" ? points.path : 0) +
    (typeof serial === "string" ? points.serial : 0) +
    (print.product === undefined ? 0 : points.product) +
    (print.manufacturer === undefined ? 0 : points.manufacturer) +
    (print.generic === true ? 0 : points.specific)
  );
}

/** Every device that a table of fingerprints knows, best first; a device is listed once. */
export function matchDevices(
  devices: readonly UsbDevice[],
  prints: readonly Fingerprint[],
  wanted: Wanted = {},
): Match[] {
  const matches = devices.flatMap((device) => {
    const scored = prints.flatMap((fingerprint) => {
      const score = scoreOf(device, fingerprint, wanted);
      return score === undefined ? [] : [{ device, fingerprint, score }];
    });
    return scored.sort((a, b) => b.score - a.score).slice(0, 1);
  });
  return matches.sort((a, b) => b.score - a.score);
}

/**
 * The one device that a configuration means.
 * @param what for people: `SDWire`
 * @throws DeviceOffline when it is not plugged in, with what is there instead; also when several fit equally well, with all of them: a guess
 *   could switch another board
 */
export function chooseDevice(
  devices: readonly UsbDevice[],
  prints: readonly Fingerprint[],
  wanted: Wanted,
  what: string,
): Match {
  const matches = matchDevices(devices, prints, wanted);
  const [best, second] = matches;
  if (best === undefined) throw new DeviceOffline(notFound(devices, prints, wanted, what));
  if (second?.score !== best.score) return best;
  const equal = matches.filter(({ score }) => score === best.score);
  const distinct = new Set(equal.map(({ device }) => device.serial)).size === equal.length;
  throw new DeviceOffline(
    `found multiple ${what} devices; specify a ${distinct ? "serial" : "path"}: ` +
      equal.map(({ device }) => describeUsb(device)).join(" and "),
  );
}

function notFound(
  devices: readonly UsbDevice[],
  prints: readonly Fingerprint[],
  { serial, path }: Wanted,
  what: string,
): string {
  const ids = [...new Set(prints.map(({ vendorId, productId }) => usbId(vendorId, productId)))].join(", ");
  const named = [
    ...(typeof serial === "string" ? [` with serial ${serial}`] : []),
    ...(typeof path === "string" ? [` at ${path}`] : []),
  ].join("");
  const any = prints.map((print) => ({ ...print, generic: undefined }));
  const others = matchDevices(devices, any, {}).map(({ device }) => describeUsb(device));
  const instead = others.length === 0 ? "" : `; there is ${others.join(" and ")}`;
  return `failed to find ${what} device${named} (checked ${ids})${instead}`;
}
