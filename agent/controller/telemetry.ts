import type { TelemetryEndpoint } from "../../proto/gen/jumpstarter/v1/jumpstarter.ts";
import { TelemetryServiceDefinition, type LogEntry } from "../../proto/gen/jumpstarter/v1/telemetry.ts";
import { parseEndpoint } from "../client/address.ts";
import type { ChannelOptions } from "../client/channel.ts";
import { rpcMethod } from "../client/rpc-method.ts";
import { toAgentError } from "../driver/errors.ts";
import { severities, type LogBus, type Severity } from "../driver/log.ts";
import { Backoff, retry } from "./backoff.ts";
import type { ChannelPool } from "./channel-pool.ts";
import type { Clock } from "./clock.ts";
import type { ControllerClient } from "./controller-client.ts";
import { logEntry } from "./log-entry.ts";
import type { ControllerSettings } from "./settings.ts";

export interface TelemetryOptions {
  readonly controller: Pick<ControllerClient, "serviceEndpoints">;
  readonly settings: () => ControllerSettings;
  readonly channels: ChannelPool;
  readonly logs: LogBus;
  readonly clock: Clock;
  /** Where it is said that entries were lost: not the log, whose entries would be lost again. Default: stderr. */
  readonly note?: (line: string) => void;
}

export interface Telemetry {
  /** Sends what is left, if that is possible within a moment, and ends. */
  stop(): Promise<void>;
}

/** Entries that wait together go together. */
const gatherMs = 500;
/** What the service takes; it drops the rest of a batch. */
const mostEntries = 500;
/** Far below what gRPC takes as one message. */
const mostBytes = 1024 * 1024;
/** What an outage of the service may cost in memory; above it the oldest entries are dropped. */
const mostQueued = 10_000;
const deadlineMs = 10_000;
/** How long the last entries may take to be sent. */
const farewellMs = 5_000;
/** While all is lost, it is said again after this. */
const noteAgainMs = 60_000;

/**
 * Sends the log of one exporter to the telemetry service that the controller names, if it names one. To be started
 * once the exporter is registered. The service never holds up anything: what it does not take is dropped.
 */
export function startTelemetry(options: TelemetryOptions): Telemetry {
  const stopping = new AbortController();
  const over = new AbortController();
  const { clock } = options;
  const running = (async () => {
    const endpoint = await discover(options, stopping.signal);
    if (endpoint !== undefined) await push(endpoint, options, stopping.signal, over.signal);
  })().catch(() => {}); // stopped while it searched
  return {
    async stop() {
      stopping.abort();
      const ended = new AbortController();
      const late = clock.sleep(farewellMs, ended.signal).catch(() => {});
      await Promise.race([running, late]);
      ended.abort();
      over.abort();
      await running;
    },
  };
}

/** The controller's first endpoint. Controllers before 0.10 have none, and whatever they say to it means that. */
async function discover(
  { controller, clock }: TelemetryOptions,
  signal: AbortSignal,
): Promise<TelemetryEndpoint | undefined> {
  const silent = { warn: () => {}, info: () => {} };
  try {
    const { telemetryEndpoints } = await retry("Discovery of telemetry", () => controller.serviceEndpoints(signal), {
      ...{ clock, signal, log: silent },
      giveUp: ({ code }) => code !== "E_CONNECTION" && code !== "E_TIMEOUT",
    });
    return telemetryEndpoints[0];
  } catch {
    return undefined;
  }
}

/** Queues what is logged, and sends it until the end; `over` also ends what is being sent. */
async function push(
  endpoint: TelemetryEndpoint,
  { settings, channels, logs, clock, note = (line) => process.stderr.write(`${line}\n`) }: TelemetryOptions,
  stopping: AbortSignal,
  over: AbortSignal,
): Promise<void> {
  const address = parseEndpoint(endpoint.endpoint);
  const least = leastSeverity(endpoint.minSeverity);
  const backoff = new Backoff();
  const lost = createLossNote(clock, note);
  const queue: LogEntry[] = [];
  let wake = () => {};
  const unsubscribe = logs.subscribe((record) => {
    if (severities.indexOf(record.severity) < least) return;
    if (queue.length >= mostQueued) {
      queue.shift();
      lost.count(1);
    }
    queue.push(logEntry(record, settings().name, logs.context));
    wake();
  });

  const send = async (entries: LogEntry[]): Promise<void> => {
    const { token, insecure } = settings();
    const { channel, release } = channels.acquire(address, telemetryChannel(endpoint, insecure));
    try {
      await channel.unary(
        rpcMethod(TelemetryServiceDefinition, "pushLogs"),
        { entries },
        { what: "PushLogs", deadlineMs, signal: over, metadata: { authorization: `Bearer ${token}` } },
      );
      backoff.reset();
    } finally {
      release();
    }
  };
  const pause = (ms: number) => clock.sleep(ms, stopping).catch(() => {});

  try {
    while (!over.aborted && !(stopping.aborted && queue.length === 0)) {
      if (queue.length === 0) await untilWoken(stopping, (woken) => (wake = woken));
      await pause(gatherMs);
      while (queue.length > 0 && !over.aborted) {
        const batch = takeBatch(queue);
        try {
          await send(batch).catch(async (error: unknown) => {
            await pause(backoff.next(toAgentError(error)));
            await send(batch);
          });
        } catch (error) {
          lost.tell(batch.length, toAgentError(error).message);
          await pause(backoff.next(toAgentError(error)));
        }
      }
    }
  } finally {
    unsubscribe();
  }
}

/** What exporters have agreed on with telemetry services: `insecure` means plaintext here, unlike elsewhere. */
function telemetryChannel({ certificate }: TelemetryEndpoint, insecure: boolean): ChannelOptions {
  return certificate === "" ? { insecure } : { ca: certificate };
}

function leastSeverity(word: string): number {
  const index = severities.indexOf(word.toUpperCase() as Severity);
  return index === -1 ? severities.indexOf("INFO") : index;
}

/** Resolves when the function that it hands out is called, or the signal aborts. */
async function untilWoken(signal: AbortSignal, handOut: (wake: () => void) => void): Promise<void> {
  if (signal.aborted) return;
  await new Promise<void>((resolve) => {
    const end = () => {
      signal.removeEventListener("abort", end);
      resolve();
    };
    signal.addEventListener("abort", end, { once: true });
    handOut(end);
  });
}

function takeBatch(queue: LogEntry[]): LogEntry[] {
  let bytes = 0;
  let count = 0;
  for (const { message, extraFields } of queue) {
    // A character takes three bytes at most in UTF-8, or four where JavaScript counts two.
    bytes += 3 * (message.length + Object.entries(extraFields).join().length) + 1_024;
    if (count > 0 && (bytes > mostBytes || count === mostEntries)) break;
    count += 1;
  }
  return queue.splice(0, count);
}

/** Says how many entries were lost and why, but not twice a second for hours. */
function createLossNote(clock: Clock, note: (line: string) => void) {
  let dropped = 0;
  let told: { reason: string; atMs: number } | undefined;
  return {
    count(entries: number) {
      dropped += entries;
    },
    tell(entries: number, reason: string) {
      dropped += entries;
      if (told?.reason === reason && clock.now() - told.atMs < noteAgainMs) return;
      note(`[telemetry] PushLogs failed, ${dropped} entries dropped: ${reason}`);
      told = { reason, atMs: clock.now() };
      dropped = 0;
    },
  };
}
