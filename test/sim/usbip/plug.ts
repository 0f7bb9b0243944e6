/** Plugs simulated USB devices into the kernel that we run on: they hang on the ports of its virtual host controller. */
import { execFileSync } from "node:child_process";
import { closeSync, existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { Socket } from "node:net";
import type { TestContext } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import koffi from "koffi";
import type { DeviceModel } from "./device.ts";
import { serveDevice } from "./server.ts";

const controller = "/sys/devices/platform/vhci_hcd.0";
/** enum usb_device_speed of the kernel. */
const speeds = { low: 1, full: 2, high: 3 };
/** enum usbip_device_status: a port that nothing is plugged into. */
const free = 4;
const limitMs = 20_000;

export interface Plugged {
  /** As sysfs names it: `3-1`. */
  readonly path: string;
  /** Pulls it out; done when the kernel has noticed. */
  readonly unplug: () => Promise<void>;
  /** Plugs it in again, into the same port. */
  readonly plug: () => Promise<void>;
}

/**
 * Plugs it in; done when the kernel has configured it. It is pulled out with the test. Needs root and module vhci_hcd.
 * The device answers from this thread: what makes the kernel talk to it (open, ioctl) must not block it, so no `Sync`.
 */
export async function plugUsb(t: Pick<TestContext, "after">, model: DeviceModel): Promise<Plugged> {
  if (!existsSync(controller)) execFileSync("modprobe", ["vhci_hcd"]);
  const port = freePort();
  const path = `${rootHub()}-${port + 1}`;
  const configured = `/sys/bus/usb/devices/${path}/bConfigurationValue`;
  let socket: Socket | undefined;
  const plug = async () => {
    if (socket !== undefined) return;
    socket = attach(port, model);
    await until(
      `USB device ${path} is configured`,
      async () => (await readFile(configured, "utf8").catch(() => "")).trim() !== "",
    );
  };
  const unplug = async () => {
    socket?.destroy();
    socket = undefined;
    await until(`USB port ${port} is free`, () => ports().some((one) => one.number === port && one.status === free));
    await until(`USB device ${path} has gone`, () => !existsSync(configured));
  };
  t.after(unplug);
  await plug();
  return { path, plug, unplug };
}

/** Hands the kernel one end of a pair of sockets. @returns the other end */
function attach(port: number, model: DeviceModel): Socket {
  const libc = koffi.load(null);
  const socketpair = libc.func("int socketpair(int domain, int type, int protocol, _Out_ int *fds)");
  const [AF_UNIX, SOCK_STREAM, SOCK_CLOEXEC] = [1, 1, 0o2000000];
  const fds = [0, 0];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) !== 0) throw new Error(`socketpair: ${koffi.errno()}`);
  const [ours = 0, kernels = 0] = fds;
  const socket = new Socket({ fd: ours, readable: true, writable: true });
  serveDevice(socket, model);
  // Bus and device number at the far end; nobody looks there.
  const deviceId = (1 << 16) | (port + 2);
  writeFileSync(`${controller}/attach`, `${port} ${kernels} ${deviceId} ${speeds[model.speed ?? "high"]}`);
  closeSync(kernels);
  return socket;
}

/** The bus of the ports for devices up to high speed. */
function rootHub(): number {
  const buses = readdirSync(controller).flatMap((name) => /^usb(\d+)$/.exec(name)?.[1] ?? []);
  return Math.min(...buses.map(Number));
}

function ports(): { number: number; status: number }[] {
  const lines = readFileSync(`${controller}/status`, "utf8").split("\n");
  return lines.flatMap((line) => {
    const [hub, number, status] = line.split(/\s+/);
    return hub === "hs" ? [{ number: Number(number), status: Number(status) }] : [];
  });
}

function freePort(): number {
  const port = ports().find(({ status }) => status === free);
  if (port === undefined) throw new Error("all ports of the virtual USB controller are taken");
  return port.number;
}

async function until(what: string, holds: () => boolean | Promise<boolean>): Promise<void> {
  for (const began = performance.now(); !(await holds()); await sleep(20)) {
    if (performance.now() - began > limitMs) throw new Error(`not within ${limitMs / 1000} s: ${what}`);
  }
}
