import { constants } from "node:fs";
import { access } from "node:fs/promises";
import * as z from "zod";
import type { HostRight, OpenContext } from "../../agent/driver/driver.ts";
import { DeviceOffline, toAgentError } from "../../agent/driver/errors.ts";
import * as lax from "../../agent/driver/lax.ts";
import { loadTermios, type Termios } from "../../agent/sys/termios.ts";
import { choosePort, listUsbPorts, parseHwgrepUrl, parseUsbUrl, type PortMatcher } from "./find.ts";
import { Pacer } from "./pacing.ts";
import { SerialPort } from "./port.ts";
import { openLoop, openSocket, openTty, type OpenHandle } from "./transport.ts";

/** The URLs of pyserial that an exporter on Linux needs, and one of our own. */
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

function schemeOf(url: string): string | undefined {
  return schemePattern.exec(url)?.[1]?.toLowerCase();
}

function urlProblem(url: string): string | undefined {
  switch (schemeOf(url)) {
    case undefined:
    case "loop":
      return undefined;
    case "socket":
      return socketAddress(url) === undefined ? "must be socket://HOST:PORT" : undefined;
    case "usb":
      return matcherOf(url) === undefined ? "must be usb://VID:PID?serial=…&path=…&interface=…" : undefined;
    case "hwgrep":
      return matcherOf(url) === undefined ? "must be hwgrep://REGEXP or hwgrep://REGEXP&n=N" : undefined;
    default:
      return `${schemeOf(url)}:// is not supported; use a device path, usb://VID:PID, hwgrep://REGEXP, loop:// or socket://HOST:PORT`;
  }
}

function matcherOf(url: string): PortMatcher | undefined {
  const scheme = schemeOf(url);
  if (scheme === "usb") return parseUsbUrl(url);
  return scheme === "hwgrep" ? parseHwgrepUrl(url) : undefined;
}

function socketAddress(url: string): { host: string; port: number } | undefined {
  if (schemeOf(url) !== "socket" || !URL.canParse(url)) return undefined;
  const { hostname, port } = new URL(url);
  if (hostname === "" || port === "") return undefined;
  return { host: hostname.replace(/^\[(.*)\]$/, "$1"), port: Number(port) };
}

/** True if the URL means a device of this machine, by its path or by what it is. */
export function isLocal(url: string): boolean {
  return schemeOf(url) === undefined || matcherOf(url) !== undefined;
}

/** The path of the device that a local URL means now. @throws DeviceOffline if it is found by what it is, and not there */
export async function devicePath(url: string): Promise<string> {
  const matcher = matcherOf(url);
  return matcher === undefined ? url : `/dev/${choosePort(await listUsbPorts(), matcher).node}`;
}

const usbTtys: readonly HostRight[] = ["tty:ttyUSB", "tty:ttyACM"];

/** Which ports the URL may mean: a link, or what is plugged in, may lead to any of several kinds. */
export function portRights(url: string): readonly HostRight[] {
  if (!isLocal(url)) return [];
  if (matcherOf(url) !== undefined || url.startsWith("/dev/serial/")) return usbTtys;
  if (/^\/dev\/pts\/|^\/dev\/ptmx$/.test(url)) return [];
  const [, name] = /^\/dev\/(tty[A-Za-z]+)\d+$/.exec(url) ?? [];
  return name === undefined ? [...usbTtys, "tty:ttyAMA", "tty:ttyS"] : [`tty:${name}`];
}

/** Looks at the device, without opening it. @throws DeviceOffline if it is not there, or not ours to use */
export async function checkPresent(url: string): Promise<void> {
  const path = await devicePath(url);
  await access(path, constants.R_OK | constants.W_OK).catch((cause: unknown) => {
    throw new DeviceOffline(`serial port ${url} is not usable: ${toAgentError(cause).message}`, { cause });
  });
}

/** The port behind a URL, shared by all drivers of the exporter that name it. Nothing is opened yet. */
export function sharedPort(url: string, context: OpenContext<unknown>): SerialPort {
  const { log, uuid } = context;
  // Every driver has a loop of its own; a device or server is one and the same for all.
  const key = isLocal(url) || socketAddress(url) !== undefined ? serialKey(url) : `${serialKey(url)} ${uuid}`;
  return context.shared(key, () => new SerialPort(url, opener(url, log), log));
}

/** Under which drivers share a port. Whoever has a port that is no device puts it there before. */
export const serialKey = (url: string): string => `serial ${url}`;

function opener(url: string, log: OpenContext<unknown>["log"]): OpenHandle {
  const address = socketAddress(url);
  if (address !== undefined) return (_settings, _lines, signal) => openSocket(address.host, address.port, signal);
  if (!isLocal(url)) return async () => openLoop();
  let termios: Termios | undefined;
  return async (settings, lines) =>
    openTty(await devicePath(url), settings, lines, (termios ??= await loadTermios()), log);
}

/** Paces a driver's streams together, so that a client cannot double the rate with a second stream. */
export function makePacer(cps: number | null | undefined): Pacer | undefined {
  return typeof cps === "number" && cps > 0 ? new Pacer(cps, performance.now()) : undefined;
}
