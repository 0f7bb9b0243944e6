import { AgentError, DeviceOffline, isSystemError } from "../../agent/driver/errors.ts";
import type { Logger } from "../../agent/driver/log.ts";
import type { CanLink, CanLinkChange } from "../../agent/sys/can-link.ts";
import type { CanLinks } from "../../agent/sys/rtnetlink.ts";

/** How an interface is to be set up; what is undefined stays as it is. */
export interface LinkSettings {
  /** Bits a second. */
  readonly bitrate?: number | undefined;
  /** Of the data of FD frames that switch. */
  readonly dbitrate?: number | undefined;
  /** Between 0 and 1. */
  readonly samplePoint?: number | undefined;
  readonly dsamplePoint?: number | undefined;
  readonly fd?: boolean | undefined;
  readonly listenOnly?: boolean | undefined;
  readonly restartMs?: number | undefined;
}

/** @throws DeviceOffline that tells which interfaces there are */
export function findLink(links: CanLinks, name: string): CanLink {
  const all = links.list();
  const found = all.find((link) => link.name === name);
  if (found !== undefined) return found;
  const others = all.map((link) => link.name).join(", ");
  throw new DeviceOffline(`no CAN interface ${name}; ${others === "" ? "there is none" : `there is ${others}`}`);
}

/**
 * The interface, up. It is touched only if it is not yet as it shall be, and brought up only if the settings have a bit rate.
 * @throws DeviceOffline if it is missing or down; AgentError E_CONFIG if it cannot be so, E_IO without the rights
 */
export function prepareLink(links: CanLinks, name: string, settings: LinkSettings, log: Logger): CanLink {
  const link = findLink(links, name);
  const change = neededChange(link, settings);
  if (change !== undefined || (settings.bitrate !== undefined && !link.up)) {
    apply(links, link, change ?? {});
    log.info(`set up ${name}: ${describeLink(findLink(links, name))}`);
  }
  const now = findLink(links, name);
  if (!now.up) throw new DeviceOffline(`CAN interface ${name} is down`, { hint: downHint(now) });
  return now;
}

/** What a person can do about an interface that is down. */
export function downHint({ name, controller }: CanLink): string {
  return controller !== undefined && controller.bitrate === 0
    ? `give the driver a bitrate, or: ip link set ${name} up type can bitrate 500000`
    : `ip link set ${name} up`;
}

function neededChange(link: CanLink, wanted: LinkSettings): CanLinkChange | undefined {
  const { name, controller } = link;
  const { bitrate, dbitrate, samplePoint, dsamplePoint, listenOnly, restartMs } = wanted;
  // Without a data bit rate an interface has no use of FD; a vcan has it without any.
  const fd =
    dbitrate === undefined && (bitrate === undefined || controller?.fd !== true) ? undefined : (wanted.fd ?? true);
  if (controller === undefined) {
    if ([bitrate, dbitrate, listenOnly, restartMs].every((value) => value === undefined)) return undefined;
    throw new AgentError(
      "E_CONFIG",
      `CAN interface ${name} (${link.kind ?? "of an unknown kind"}) has no bit rate to set`,
    );
  }
  const isAsWanted =
    same(bitrate, controller.bitrate) &&
    same(dbitrate, controller.dataBitrate) &&
    same(listenOnly, controller.listenOnly) &&
    same(fd, controller.fd) &&
    same(restartMs, controller.restartMs) &&
    // Controllers round it to what their clock allows.
    (samplePoint === undefined || Math.abs(samplePoint - controller.samplePoint) < 0.03);
  if (isAsWanted) return undefined;
  return {
    bitrate,
    samplePoint,
    dataBitrate: dbitrate,
    dataSamplePoint: dsamplePoint,
    fd,
    listenOnly,
    restartMs,
  };
}

function same<T>(wanted: T | undefined, is: T): boolean {
  return wanted === undefined || wanted === is;
}

function apply(links: CanLinks, link: CanLink, change: CanLinkChange): void {
  try {
    if (link.up) links.change(link.index, { up: false });
    links.change(link.index, change);
    links.change(link.index, { up: true });
  } catch (error) {
    if (link.up) bringUp(links, link.index);
    throw explainChange(link.name, error);
  }
}

/** After a failure; a second one has nothing to add. */
function bringUp(links: CanLinks, index: number): void {
  try {
    links.change(index, { up: true });
  } catch (error) {
    if (!isSystemError(error)) throw error;
  }
}

function explainChange(name: string, error: unknown): unknown {
  if (!isSystemError(error)) return error;
  if (error.code === "EPERM") {
    return new AgentError("E_IO", `CAN interface ${name} may not be set up by this user`, {
      hint: `give the agent CAP_NET_ADMIN, or set up ${name} at boot and leave out bitrate`,
      cause: error,
    });
  }
  return new AgentError("E_CONFIG", `CAN interface ${name} cannot be set up so: ${error.message}`, { cause: error });
}

/** Ends bus-off. @throws AgentError E_FAILED if it is not bus-off, E_IO without the rights */
export function restartLink(links: CanLinks, name: string): void {
  const link = findLink(links, name);
  if (link.controller?.state !== "BUS-OFF") throw new AgentError("E_FAILED", `CAN interface ${name} is not bus-off`);
  try {
    links.change(link.index, { restart: true });
  } catch (error) {
    throw explainChange(name, error);
  }
}

/** `can0 up, ERROR-ACTIVE, 500 kbit/s, restarts 100 ms after bus-off` */
export function describeLink({ name, up, kind, mtuBytes, controller }: CanLink): string {
  const parts = [`${name} ${up ? "up" : "down"}`];
  if (controller === undefined) parts.push(kind ?? "no controller", ...(mtuBytes > 16 ? ["FD"] : []));
  else {
    parts.push(controller.state);
    parts.push(controller.bitrate === 0 ? "no bit rate" : kilobits(controller.bitrate));
    if (controller.fd) parts.push(`FD data ${kilobits(controller.dataBitrate)}`);
    if (controller.listenOnly) parts.push("listens only");
    if (controller.restartMs > 0) parts.push(`restarts ${controller.restartMs} ms after bus-off`);
  }
  return parts.join(", ");
}

function kilobits(bitsPerSecond: number): string {
  return `${bitsPerSecond / 1000} kbit/s`;
}
