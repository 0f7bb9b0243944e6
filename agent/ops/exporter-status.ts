import type { RunningFlash, RunningTransfer } from "../driver/shown.ts";
import type { DriverTree } from "../driver/tree.ts";

/** What an exporter does now. Goes over the control socket and to the status page as JSON. */
export interface ExporterStatus {
  readonly exporter: string;
  /** Path of its configuration. */
  readonly config: string;
  /** A phase of the lease machine; `starting`, `stopped`, or `serving` without a controller. */
  readonly state: string;
  /** Whether the controller has ever taken its registration. */
  readonly registered: boolean;
  /** Whether the controller is heard now. */
  readonly online: boolean;
  /** How often the controller was reached, since the exporter began. */
  readonly connections: number;
  readonly lease: string | null;
  readonly client: string | null;
  /** RFC 3339 */
  readonly leaseSince: string | null;
  /** Drivers that cannot be used now, and why. */
  readonly offline: readonly { readonly driver: string; readonly reason: string }[];
  readonly drivers: readonly DriverStatus[];
  readonly transfers: readonly TransferStatus[];
  /** Media that are written now. */
  readonly flashing: readonly FlashingStatus[];
}

export interface DriverStatus {
  /** Dotted path from the root; empty for the root itself. */
  readonly driver: string;
  readonly type: string;
  /** Why it cannot be used now. */
  readonly offline: string | null;
  readonly console: ConsoleStatus | null;
}

export interface ConsoleStatus {
  /** Whether {@link ShownConsole.read} has something to read. */
  readonly recorded: boolean;
  readonly state: string;
  readonly receivedBytes: number;
  readonly sentBytes: number;
  readonly lines: number;
}

export interface TransferStatus extends Pick<RunningTransfer, "protocol" | "peer" | "name" | "direction"> {
  readonly sizeBytes: number | null;
  readonly movedBytes: number;
  /** How long it has been going on. */
  readonly seconds: number;
}

export interface FlashingStatus extends Pick<RunningFlash, "step" | "movedBytes"> {
  /** Dotted path of the driver that has the medium. */
  readonly driver: string;
  readonly image: string | null;
  readonly target: string | null;
  readonly sizeBytes: number | null;
  /** Estimated, of this step. */
  readonly remainingSeconds: number | null;
  /** How long it has been going on, all steps together. */
  readonly seconds: number;
}

/** What the drivers of an exporter show; of one that is not open, nothing. */
export function driversStatus(
  tree: DriverTree | undefined,
): Pick<ExporterStatus, "offline" | "drivers" | "transfers" | "flashing"> {
  const drivers: DriverStatus[] = [];
  const transfers: TransferStatus[] = [];
  const flashing: FlashingStatus[] = [];
  for (const live of tree?.drivers ?? []) {
    const { planned, offlineReason: offline = null, shown } = live;
    // The root is there only to hold the others.
    if (planned.path === "" && offline === null) continue;
    const { console, flash } = shown ?? {};
    drivers.push({
      driver: planned.path,
      type: planned.type,
      offline,
      console: console === undefined ? null : { recorded: "read" in console, state: console.state, ...console.counts },
    });
    transfers.push(...(shown?.transfers ?? []).map(transferStatus));
    if (flash !== undefined) flashing.push(flashingStatus(planned.path, flash));
  }
  const offline = drivers.flatMap(({ driver, offline: reason }) => (reason === null ? [] : [{ driver, reason }]));
  return { offline, drivers: drivers.sort((one, other) => (one.driver < other.driver ? -1 : 1)), transfers, flashing };
}

export function transferStatus(transfer: RunningTransfer): TransferStatus {
  const { protocol, peer, name, direction, sizeBytes = null, movedBytes, startedMs } = transfer;
  return { protocol, peer, name, direction, sizeBytes, movedBytes, seconds: secondsSince(startedMs) };
}

function flashingStatus(driver: string, flash: RunningFlash): FlashingStatus {
  const { image = null, target = null, step, movedBytes, sizeBytes = null, remainingMs, startedMs } = flash;
  const remainingSeconds = remainingMs === undefined ? null : Math.ceil(remainingMs / 1_000);
  return { driver, image, target, step, movedBytes, sizeBytes, remainingSeconds, seconds: secondsSince(startedMs) };
}

function secondsSince(startedMs: number): number {
  return Math.round((performance.now() - startedMs) / 100) / 10;
}
