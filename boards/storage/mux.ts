import * as z from "zod";
import { join } from "node:path";
import type { Readable, Writable } from "node:stream";
import type { Call, Cancellable, OpenContext, OpenDriver } from "../../agent/driver/driver.ts";
import * as lax from "../../agent/driver/lax.ts";
import { AgentError } from "../../agent/driver/errors.ts";
import type { RunningFlash } from "../../agent/driver/shown.ts";
import type { Logger } from "../../agent/driver/log.ts";
import type { FlashReceipt } from "../../agent/driver/receipt.ts";
import type { CheckedResourceHandle } from "../../agent/driver/resource.ts";
import { anySignal } from "../../agent/sys/any-signal.ts";
import { stateDirectory } from "../../agent/sys/state-directory.ts";
import type { DiskOptions } from "./block/disk.ts";
import type { Progress } from "./block/progress.ts";
import { readImage } from "./block/read.ts";
import { writtenBlocksIn } from "./block/remembered.ts";
import { writeImage } from "./block/write.ts";
import { flashMedium, type Flashed } from "./flash-medium.ts";
import { maxBmapBytes, parseBmap } from "./image/bmap.ts";
import type { ImageOptions, imageStorageMux } from "./interface.ts";
import { MuxQueue } from "./mux-queue.ts";
import { whileItRuns } from "./while-it-runs.ts";

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
  skip_unchanged: lax
    .boolean()
    .prefault(false)
    .describe(
      "remember what was written, and next time write only what differs; nothing counts unless it is read back",
    ),
  direct: lax.boolean().prefault(true).describe("read and write past the page cache, where the device can"),
};

/** What {@link muxConfig} makes of a configuration. */
export interface MuxSettings {
  readonly storage_timeout: number;
  readonly storage_leeway: number;
  readonly storage_fsync_timeout: number;
  readonly verify: boolean;
  readonly skip_unchanged: boolean;
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
export type Mux = Required<
  Pick<OpenDriver<typeof imageStorageMux>, "methods" | "release" | "close" | "check" | "shows">
>;

/**
 * Gives a mux its methods: those that write and read switch to the host first and leave it there, as clients expect. Each write makes a
 * receipt. At the end of a lease what runs is given up, and when `release` has resolved nothing touches the disk any more.
 */
export function openMux(
  hardware: MuxHardware,
  settings: MuxSettings,
  context: Pick<OpenContext<unknown>, "sharedOnHost" | "signal" | "receipts" | "path" | "log">,
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
    const signal = anySignal([call.signal, lease.signal, context.signal]);
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

  let running: RunningFlash | undefined;

  const remembered = writtenBlocksIn(join(stateDirectory(), "written-blocks"), context.log);

  const flash = (
    call: Pick<Call, "signal" | "log">,
    source: Readable,
    image: ImageOptions,
    {
      map,
      onProgress,
    }: { readonly map?: Readable | undefined; readonly onProgress?: (progress: Progress) => void } = {},
  ): Promise<Flashed> =>
    inTurn(call, (signal) =>
      flashMedium(
        {
          receipts: context.receipts,
          driver: context.path,
          image: { name: image.name ?? undefined, bytes: image.bytes ?? undefined, encoding: null },
          show: (flash) => (running = flash),
        },
        async ({ enter, onReady, onProgress: onStep }) => {
          const bmap = map === undefined ? undefined : parseBmap(await readAll(map));
          enter("switch to host");
          await hardware.select("host", { signal, log: call.log });
          enter("wait");
          return await writeImage(
            source,
            target,
            {
              ...options,
              verify: image.verify ?? settings.verify,
              leewayMs: settings.storage_leeway * 1_000,
              fsyncTimeoutMs: settings.storage_fsync_timeout * 1_000,
              format: image.format ?? "auto",
              bmap,
              remembered: (image.skip_unchanged ?? settings.skip_unchanged) ? remembered : undefined,
              givenBytes: image.bytes ?? undefined,
              imagePath: image.host_path ?? undefined,
            },
            {
              signal,
              log: call.log,
              onReady,
              onProgress(progress) {
                onStep(progress);
                onProgress?.(progress);
              },
            },
          );
        },
      ),
    );
  const dump = (
    call: Pick<Call, "signal" | "log">,
    sink: Writable,
    format: "raw" | "android-sparse",
    onProgress?: (progress: Progress) => void,
  ) =>
    inTurn(call, async (signal) => {
      await hardware.select("host", { signal, log: call.log });
      return await readImage(target, sink, { ...options, format }, { signal, log: call.log, onProgress });
    });

  return {
    methods: {
      host: (call) => select(call, "host"),
      dut: (call) => select(call, "dut"),
      off: (call) => select(call, "off"),
      async write(call, handle: CheckedResourceHandle) {
        // As the Python exporter: byte for byte.
        const { error } = await flash(call, await lentSource(call, handle), { format: "raw" });
        if (error !== undefined) throw error;
      },
      async read(call, handle: CheckedResourceHandle) {
        await dump(call, await lentSink(call, handle), "raw");
      },
      async *write_image(call, handle: CheckedResourceHandle, bmapHandle, image) {
        const source = await lentSource(call, handle);
        const map = bmapHandle == null ? undefined : await lentSource(call, bmapHandle);
        let error: Flashed["error"];
        yield* whileItRuns(async (tell, signal) => {
          let last: Progress | undefined;
          const onProgress = (progress: Progress): void => {
            last = progress;
            tell({ ...writeProgress(progress), receipt: null });
          };
          const scope = { signal: anySignal([call.signal, signal]), log: call.log };
          const flashed = await flash(scope, source, image ?? {}, { map, onProgress });
          error = flashed.error;
          return { ...writeProgress(last), receipt: withoutGaps(flashed.receipt) };
        });
        if (error !== undefined) throw error;
      },
      async *read_image(call, handle: CheckedResourceHandle, wanted) {
        const sink = await lentSink(call, handle);
        yield* whileItRuns(async (tell, signal) => {
          const onProgress = (progress: Progress): void => tell({ ...onTheWire(progress), sha256: null });
          const scope = { signal: anySignal([call.signal, signal]), log: call.log };
          const { bytes, sha256 } = await dump(scope, sink, wanted?.format ?? "raw", onProgress);
          return { bytes, total_bytes: bytes, remaining_ms: 0, sha256 };
        });
      },
    },
    shows: () => ({ flash: running }),
    async check() {
      if (!queue.isBusy) await hardware.check?.();
    },
    release: () => giveUp(new AgentError("E_CANCELLED", "the lease has ended")),
    close: () => giveUp(new AgentError("E_CANCELLED", "the driver is closing")),
  };
}

/** Opened before the call's turn: a handle that is not there needs no turn. */
async function lentSource(call: Call, handle: CheckedResourceHandle): Promise<Readable> {
  const source = await call.source(handle);
  // It may fail while it waits for its turn; who reads it then is told.
  source.on("error", () => {});
  return source;
}

async function lentSink(call: Call, handle: CheckedResourceHandle): Promise<Writable> {
  const sink = await call.sink(handle);
  sink.on("error", () => {});
  return sink;
}

/** @throws AgentError E_INVALID for more than a block map ever has */
async function readAll(source: Readable): Promise<Buffer> {
  const pieces: Buffer[] = [];
  let bytes = 0;
  for await (const piece of source as AsyncIterable<Buffer>) {
    pieces.push(piece);
    bytes += piece.length;
    if (bytes > maxBmapBytes) throw new AgentError("E_INVALID", `the block map is larger than ${maxBmapBytes} bytes`);
  }
  return Buffer.concat(pieces);
}

function onTheWire({ bytes, totalBytes, remainingMs }: Progress) {
  return { bytes, total_bytes: totalBytes ?? null, remaining_ms: remainingMs ?? null };
}

/** @param progress undefined when there was none yet */
function writeProgress(progress: Progress | undefined) {
  if (progress === undefined) return { phase: "write" as const, bytes: 0, total_bytes: null, remaining_ms: null };
  const { phase } = progress;
  return { phase: phase === "read" ? ("write" as const) : phase, ...onTheWire(progress) };
}

/** What is missing would be null on the wire. */
function withoutGaps(receipt: FlashReceipt): FlashReceipt {
  return JSON.parse(JSON.stringify(receipt)) as FlashReceipt;
}
