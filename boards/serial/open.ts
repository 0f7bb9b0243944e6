import * as z from "zod";
import type { OpenContext } from "../../agent/driver/driver.ts";
import * as lax from "../../agent/driver/lax.ts";
import { loadTermios, type Termios } from "../../agent/sys/termios.ts";
import { Pacer } from "./pacing.ts";
import { SerialPort } from "./port.ts";
import { openLoop, openSocket, openTty, type OpenHandle } from "./transport.ts";

/** `loop://`, `socket://host:port` or a device path: the URLs of pyserial that an exporter on Linux needs. */
export const serialUrl = z
  .string()
  .min(1)
  .superRefine((url, context) => {
    const message = urlProblem(url);
    if (message !== undefined) context.addIssue({ code: "custom", message });
  });

/** Config keys of every serial driver. */
export const lineConfig = {
  baudrate: lax.int(50, 100_000_000).prefault(115_200),
  cps: lax.number().nullish().describe("characters per second towards the board; null or 0: as fast as the line"),
};

const schemePattern = /^([a-z][a-z0-9+.-]*):\/\//i;

function urlProblem(url: string): string | undefined {
  const scheme = schemePattern.exec(url)?.[1]?.toLowerCase();
  if (scheme === undefined || scheme === "loop") return undefined;
  if (scheme !== "socket") return `${scheme}:// is not supported; use a device path, loop:// or socket://HOST:PORT`;
  return socketAddress(url) === undefined ? "must be socket://HOST:PORT" : undefined;
}

function socketAddress(url: string): { host: string; port: number } | undefined {
  if (schemePattern.exec(url)?.[1]?.toLowerCase() !== "socket" || !URL.canParse(url)) return undefined;
  const { hostname, port } = new URL(url);
  if (hostname === "" || port === "") return undefined;
  return { host: hostname.replace(/^\[(.*)\]$/, "$1"), port: Number(port) };
}

/** True if the URL is the path of a device on this machine. */
export function isDevicePath(url: string): boolean {
  return !schemePattern.test(url);
}

/** The port behind a URL, shared by all drivers of the exporter that name it. Nothing is opened yet. */
export function sharedPort(url: string, context: OpenContext<unknown>): SerialPort {
  const { log, uuid } = context;
  // Every driver has a loop of its own; a device or server is one and the same for all.
  const key = isDevicePath(url) || socketAddress(url) !== undefined ? `serial ${url}` : `serial ${url} ${uuid}`;
  return context.shared(key, () => new SerialPort(url, opener(url, log), log));
}

function opener(url: string, log: OpenContext<unknown>["log"]): OpenHandle {
  const address = socketAddress(url);
  if (address !== undefined) return (_settings, _lines, signal) => openSocket(address.host, address.port, signal);
  if (!isDevicePath(url)) return async () => openLoop();
  let termios: Termios | undefined;
  return async (settings, lines) => openTty(url, settings, lines, (termios ??= await loadTermios()), log);
}

/** Paces a driver's streams together, so that a client cannot double the rate with a second stream. */
export function makePacer(cps: number | null | undefined): Pacer | undefined {
  return typeof cps === "number" && cps > 0 ? new Pacer(cps, performance.now()) : undefined;
}
