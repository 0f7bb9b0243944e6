/** Where a session is served. */
export type Address =
  | { readonly kind: "unix"; readonly path: string }
  | { readonly kind: "tcp"; readonly host: string; readonly port: number };

/** Reads `JUMPSTARTER_HOST`: `host:port` (`[v6]:port`) if it ends in a port number, else the path of a unix socket. */
export function parseAddress(text: string): Address {
  const [, host, digits] = /^(.+):(\d+)$/.exec(text) ?? [];
  const port = Number(digits);
  if (host !== undefined && port >= 1 && port <= 65_535) {
    return { kind: "tcp", host: host.replace(/^\[(.*)\]$/, "$1"), port };
  }
  return { kind: "unix", path: text.replace(/^unix:(\/\/(?=\/))?/, "") };
}
