import * as z from "zod";
import type { Call, Cancellable, OpenContext, OpenDriver } from "../../agent/driver/driver.ts";
import * as lax from "../../agent/driver/lax.ts";
import { AgentError } from "../../agent/driver/errors.ts";
import type { Logger } from "../../agent/driver/log.ts";
import type { CheckedResourceHandle } from "../../agent/driver/resource.ts";
import type { DiskOptions } from "./block/disk.ts";
import { readImage } from "./block/read.ts";
import { writeImage } from "./block/write.ts";
import type { storageMuxFlasher } from "./interface.ts";
import { MuxQueue } from "./mux-queue.ts";

/** The keys that all muxes have in their `config:`. */
export const muxConfig = {
  storage_timeout: lax
    .number()
    .pipe(z.number().min(0).max(3_600))
    .prefault(10)
    .describe("seconds that the disk and its medium may take to appear at the host"),
  storage_leeway: lax
    .number()
    .pipe(z.number().min(0).max(3_600))
    .prefault(6)
    .describe("seconds to wait after a write before the storage is switched away"),
  storage_fsync_timeout: lax
    .number()
    .pipe(z.number().min(0).max(86_400))
    .prefault(900)
    .describe("seconds for which fsync is repeated while the device answers EIO"),
  verify: lax.boolean().prefault(true).describe("read everything that was written back from the medium and compare"),
  direct: lax.boolean().prefault(true).describe("read and write past the page cache, where the device can"),
};

/** What {@link muxConfig} makes of a configuration. */
export interface MuxSettings {
  readonly storage_timeout: number;
  readonly storage_leeway: number;
  readonly storage_fsync_timeout: number;
  readonly verify: boolean;
  readonly direct: boolean;
}

export type Side = "host" | "dut" | "off";

/** What differs between muxes. */
export interface MuxHardware {
  /** Muxes with the same key are one device: whatever is asked of them is done one after the other. */
  readonly key: string;
  /** Switches the storage; resolves when it has moved. The signal is that of the call. @throws DeviceOffline, E_IO, … naming the device */
  select(side: Side, context: { readonly signal: AbortSignal; readonly log: Logger }): Promise<void>;
  /**
   * Path of the whole disk now (`/dev/sda`, or what the configuration says); undefined while there is none, and it is asked again until
   * `storage_timeout`.
   */
  locate(): Promise<string | undefined> | string | undefined;
  /** What the card at the host says of itself, for the log. A failure does not keep it from being written. */
  describeMedium?(context: { readonly signal: AbortSignal }): Promise<string | undefined>;
  /** Looks whether it is still plugged in. Not asked while something is done with it: it may be away for a moment then. @throws DeviceOffline */
  check?(): Promise<unknown>;
}

/** A mux that is open: what a driver's `open` returns. */
export type Mux = Required<Pick<OpenDriver<typeof storageMuxFlasher>, "methods" | "release" | "close" | "check">>;

/**
 * Gives a mux its methods: `write` and `read` switch to the host first and leave it there, as clients expect. At the end of a lease what
 * runs is given up, and when `release` has resolved nothing touches the disk any more.
 */
export function openMux(
  hardware: MuxHardware,
  settings: MuxSettings,
  context: Pick<OpenContext<unknown>, "sharedOnHost" | "signal">,
): Mux {
  const queue = context.sharedOnHost(`storage mux ${hardware.key}`, () => new MuxQueue());
  let lease = new AbortController();
  /** The queue is also that of other drivers of the same device, for which a lease does not wait. */
  const ours = new Set<Promise<unknown>>();
  const giveUp = async (reason: AgentError): Promise<void> => {
    lease.abort(reason);
    lease = new AbortController();
    await Promise.allSettled(ours);
  };

  const inTurn = async <T>(call: Cancellable, work: (signal: AbortSignal) => Promise<T>): Promise<T> => {
    const signal = AbortSignal.any([call.signal, lease.signal, context.signal]);
    const result = queue.run(signal, () => work(signal));
    ours.add(result);
    try {
      return await result;
    } finally {
      ours.delete(result);
    }
  };
  const select = (call: Call, side: Side) => inTurn(call, (signal) => hardware.select(side, { signal, log: call.log }));

  const options: DiskOptions = { timeoutMs: settings.storage_timeout * 1_000, direct: settings.direct };
  const target = {
    locate: () => hardware.locate(),
    describeMedium: hardware.describeMedium?.bind(hardware),
    // The words of the Python exporter.
    absent: "SD card disk did not become available on host within storage_timeout",
  };

  return {
    methods: {
      host: (call) => select(call, "host"),
      dut: (call) => select(call, "dut"),
      off: (call) => select(call, "off"),
      async write(call, handle: CheckedResourceHandle) {
        // Before its turn: a handle that is not there needs no turn.
        const source = await call.source(handle);
        // It may fail while it waits for its turn; who reads it then is told.
        source.on("error", () => {});
        await inTurn(call, async (signal) => {
          await hardware.select("host", { signal, log: call.log });
          await writeImage(
            source,
            target,
            {
              ...options,
              verify: settings.verify,
              leewayMs: settings.storage_leeway * 1_000,
              fsyncTimeoutMs: settings.storage_fsync_timeout * 1_000,
            },
            { signal, log: call.log },
          );
        });
      },
      async read(call, handle: CheckedResourceHandle) {
        const sink = await call.sink(handle);
        sink.on("error", () => {});
        await inTurn(call, async (signal) => {
          await hardware.select("host", { signal, log: call.log });
          await readImage(target, sink, options, { signal, log: call.log });
        });
      },
    },
    async check() {
      if (!queue.isBusy) await hardware.check?.();
    },
    release: () => giveUp(new AgentError("E_CANCELLED", "the lease has ended")),
    close: () => giveUp(new AgentError("E_CANCELLED", "the driver is closing")),
  };
}
