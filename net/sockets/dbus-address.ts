/** Server addresses of D-Bus (D-Bus specification, "Server Addresses"): `transport:key=value,key=value`, several with `;`. */

/** Where a bus listens, as far as we can connect there. */
export type BusAddress =
  | { readonly kind: "unix"; readonly path: string }
  /** A name in Linux' own namespace of sockets, without a file. */
  | { readonly kind: "abstract"; readonly name: string }
  | { readonly kind: "tcp"; readonly host: string; readonly port: number; readonly family: 0 | 4 | 6 };

/**
 * The addresses of a list, in their order. Those that others may know how to use (`launchd:`, `autolaunch:`, …) are left
 * out, if one of the list is left.
 * @throws Error saying which part is wrong, or that no address can be used
 */
export function parseBusAddresses(text: string): BusAddress[] {
  const addresses: BusAddress[] = [];
  const unusable: string[] = [];
  for (const one of text.split(";")) {
    if (one === "") continue;
    const address = parseBusAddress(one);
    if (typeof address === "string") unusable.push(address);
    else addresses.push(address);
  }
  if (addresses.length > 0) return addresses;
  throw new Error(
    unusable.length > 0 ? `invalid bus scheme: ${unusable.join(", ")}` : "invalid bus addr: there is none in it",
  );
}

/** @returns the scheme, if it is none that we can use */
function parseBusAddress(text: string): BusAddress | string {
  const colon = text.indexOf(":");
  if (colon < 1) throw new Error(`invalid bus addr: ${text} has no transport`);
  const scheme = text.slice(0, colon);
  const values = new Map<string, string>();
  for (const pair of text.slice(colon + 1).split(",")) {
    if (pair === "") continue;
    const at = pair.indexOf("=");
    if (at < 1) throw new Error(`invalid bus addr: ${pair} is not key=value`);
    const key = pair.slice(0, at);
    if (values.has(key)) throw new Error(`invalid bus addr: ${key} is given twice`);
    values.set(key, unescape(pair.slice(at + 1)));
  }
  if (scheme === "unix") {
    const [path, name] = [values.get("path"), values.get("abstract")];
    if (path !== undefined && name !== undefined) throw new Error("invalid bus addr: both path and abstract");
    if (path) return { kind: "unix", path };
    if (name) return { kind: "abstract", name };
    throw new Error("invalid bus addr: unix needs path or abstract");
  }
  if (scheme !== "tcp") return scheme;
  const [host, port, family] = [values.get("host"), values.get("port") ?? "", values.get("family")];
  if (!host) throw new Error("invalid bus addr: tcp needs host");
  if (!/^\d{1,5}$/.test(port) || Number(port) < 1 || Number(port) > 65_535) {
    throw new Error("invalid bus addr: tcp needs port, a number from 1 to 65535");
  }
  if (family !== undefined && family !== "ipv4" && family !== "ipv6") {
    throw new Error(`invalid bus addr: family ${family}`);
  }
  return { kind: "tcp", host, port: Number(port), family: family === "ipv4" ? 4 : family === "ipv6" ? 6 : 0 };
}

/** `%xx` are bytes; together they are UTF-8. */
function unescape(value: string): string {
  if (/%(?![0-9a-fA-F]{2})/.test(value)) throw new Error(`invalid bus addr: a % in ${value} is followed by no byte`);
  try {
    return decodeURIComponent(value);
  } catch {
    throw new Error(`invalid bus addr: ${value} is not UTF-8`);
  }
}

/** For texts. */
export function describeBusAddress(address: BusAddress): string {
  if (address.kind === "unix") return address.path;
  if (address.kind === "abstract") return `@${address.name}`;
  return `${address.host}:${address.port}`;
}
