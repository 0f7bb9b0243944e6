/** What is said to the test harness, and what fastboot prints. */

/** A command, and how long the board gets after it. */
export type Step = readonly [command: string, seconds: number];

export const prompt = "CMD >> ";

export const powerOn: readonly Step[] = [
  ["devicePower 1", 0.9],
  ["usbDevicePower 1", 0],
  ["gpio vbusdis1 0", 0.03],
];

export const powerOff: readonly Step[] = [
  ["gpio vbusdis1 0", 0],
  ["usbDevicePower 1", 0],
  ["devicePower 0", 0.5],
];

/** Off; on with the volume key's and the boot's lines held; the power key for 0.8 s; the boot's line for 8 s more. */
export const bootToFastboot: readonly Step[] = [
  ["devicePower 0", 0],
  ["gpio vbusdis1 0", 0],
  ["usbDevicePower 1", 0],
  ["ttl outputBit 1 0", 0],
  ["gpio volup 0", 0],
  ["ttl outputBit 2 1", 0],
  ["ttl outputBit 4 0", 0.5],
  ...powerOn,
  ["ttl outputBit 1 1", 0.8],
  ["ttl outputBit 1 0", 8],
  ["ttl outputBit 2 0", 0.5],
];

/** True when the harness has done what it was told, and (`prompted`) asks for more. */
export function isAcknowledged(answer: string, prompted: boolean): boolean {
  const ok = answer.indexOf("ok");
  return ok !== -1 && (!prompted || answer.includes(prompt));
}

/** What `fastboot devices -l` lists: serial numbers of what can be talked to, and lines that say why something cannot. */
export function parseDevices(listing: string): {
  readonly devices: readonly string[];
  readonly problems: readonly string[];
} {
  const devices: string[] = [];
  const problems: string[] = [];
  for (const line of listing.split(/\r?\n/)) {
    const text = line.trim();
    if (text === "") continue;
    const [, serial] = /^(\S+)\s+fastbootd?(?:\s|$)/.exec(text) ?? [];
    if (serial === undefined || serial.startsWith("?")) problems.push(text);
    else devices.push(serial);
  }
  return { devices, problems };
}

/** Why the board refuses, of what fastboot prints: `FAILED (remote: 'unknown partition')`. */
export function refusal(output: string): string | undefined {
  return /^(?:.*\s)?(FAILED \(.*\))\s*$/m.exec(output)?.[1] ?? /^fastboot: error: (.+)$/m.exec(output)?.[1];
}

/** Why this is no reference to an OCI image, in the words of the Python driver; undefined if it is one. */
export function referenceProblem(url: string): string | undefined {
  if (/^oci:\/\/\S+$/.test(url)) return undefined;
  const mapping = /^[^:]*:(\/|\.\/|\.\.\/|~)/.test(url) && !url.startsWith("oci://");
  const hint = mapping
    ? `\n\nIt looks like '${url}' is a partition:path mapping, not an OCI reference.\n` +
      `For local files, use: j storage flash -t ${url}`
    : "";
  return `OCI URL must start with oci://, got: ${url}${hint}`;
}

export type Compression = "gzip" | "xz" | null;

/** By the name, as the Python driver does. */
export function compressionOf(name: string): Compression {
  if (/\.gz(ip)?$/.test(name)) return "gzip";
  return name.endsWith(".xz") ? "xz" : null;
}

/** A partition's name; what programs would take for an option is none. */
export const isPartition = (name: string): boolean => /^[A-Za-z0-9_][A-Za-z0-9_.:-]{0,254}$/.test(name);
