import { createHmac, randomBytes, timingSafeEqual } from "node:crypto";
import type { IncomingMessage } from "node:http";
import { BlockList, isIP } from "node:net";
import { hostname } from "node:os";

/** Who may ask, and by which name. */
export interface Access {
  /** Whether a browser was led here by the name it asks for; a foreign name that leads here is an attack (DNS rebinding). */
  isOurName(request: IncomingMessage): boolean;
  /** Whether it shows the token, or the cookie that one who has shown it was given. */
  isAllowed(request: IncomingMessage): boolean;
  /** What a browser that has shown the token gets, so that it need not show it again. */
  cookie(): string;
}

const cookieName = "jumpstarter_operations";
const cookieSeconds = 12 * 3_600;

/** True for the addresses that only this host reaches. */
export function isLoopback(host: string): boolean {
  if (host === "localhost") return true;
  const loopback = new BlockList();
  loopback.addSubnet("127.0.0.0", 8, "ipv4");
  loopback.addAddress("::1", "ipv6");
  const family = isIP(host);
  return family !== 0 && loopback.check(host, family === 6 ? "ipv6" : "ipv4");
}

/**
 * @param token undefined: everybody who reaches the listener may read
 * @param names by which it is reached, beside addresses, `localhost` and the host's own names
 * @param isSecure whether it is reached over TLS only
 */
export function createAccess(
  token: string | undefined,
  names: readonly string[],
  { isSecure }: { readonly isSecure: boolean },
): Access {
  // Digests are of one length, whatever was shown; and what the cookie says is worth nothing after a restart.
  const key = randomBytes(32);
  const digest = (text: string) => createHmac("sha256", key).update(text).digest();
  const expected = token === undefined ? undefined : digest(token);
  const session = digest(`session ${token ?? ""}`).toString("hex");
  const expectedSession = digest(session);
  const own = hostname().toLowerCase();
  const short = own.split(".", 1)[0] ?? own;
  const ours = new Set(["localhost", own, short, `${short}.local`, ...names.map((name) => name.toLowerCase())]);
  return {
    isOurName({ headers }) {
      const name = nameOf(headers.host ?? "");
      return name !== undefined && (isIP(name) !== 0 || ours.has(name));
    },
    isAllowed({ headers }) {
      if (expected === undefined) return true;
      const shown = /^Bearer +(\S+) *$/i.exec(headers.authorization ?? "")?.[1];
      if (shown !== undefined) return timingSafeEqual(digest(shown), expected);
      const cookie = cookieOf(headers.cookie ?? "");
      return cookie !== undefined && timingSafeEqual(digest(cookie), expectedSession);
    },
    cookie: () =>
      `${cookieName}=${session}; Path=/; Max-Age=${cookieSeconds}; HttpOnly; SameSite=Strict${isSecure ? "; Secure" : ""}`,
  };
}

/** `[::1]:80` and `name:80` without what is not the name. */
function nameOf(host: string): string | undefined {
  const [, bracketed, plain] = /^(?:\[([0-9a-f:.]+)\]|([^:[\]]+))(?::\d{1,5})?$/i.exec(host) ?? [];
  return (bracketed ?? plain)?.toLowerCase();
}

function cookieOf(header: string): string | undefined {
  for (const part of header.split(";")) {
    const [name, value] = part.trim().split("=", 2);
    if (name === cookieName) return value;
  }
  return undefined;
}
