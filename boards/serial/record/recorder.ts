import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import type { OpenContext } from "../../../agent/driver/driver.ts";
import { toAgentError } from "../../../agent/driver/errors.ts";
import type { Logger } from "../../../agent/driver/log.ts";
import type { TreeEvent } from "../../../agent/driver/tree-events.ts";
import type { LineErrors } from "../../../agent/sys/termios.ts";
import type { SerialPort } from "../port.ts";
import type { SerialStream } from "../serial-stream.ts";
import type { PortSettings } from "../transport.ts";
import { BootWatch, type Boot } from "./boots.ts";
import type { RecordSettings } from "./config.ts";
import { RecordFiles } from "./files.ts";
import { Gatherer } from "./gather.ts";
import { momentNow } from "./moment.ts";
import { claimRecordFolder, defaultRecordDirectory } from "./place.ts";
import type { Moment } from "./protocol.ts";
import { ConsoleRecord } from "./record.ts";

/** How soon a port that has gone is looked for again: a re-plugged adapter shall be back within a second. */
const lookAgainMs = 400;
const countErrorsMs = 1_000;

/** Methods of power drivers that change something, and whether the board has power after them. */
const powerActions: ReadonlyMap<string, boolean> = new Map([
  ["on", true],
  ["off", false],
  ["cycle", true],
  ["rescue", true],
]);

export interface RecorderState {
  /** What it does now: `recording`, or why it cannot. */
  readonly state: string;
  /** Why the disk is not written to; then the record is in memory only. */
  readonly problem: string | undefined;
  readonly folder: string | undefined;
  readonly boots: readonly Boot[];
}

/**
 * Writes down what comes out of a port from the exporter's start to its end, whoever leases it or nobody; with marks for
 * what happens around it. It keeps the port open, and comes back by itself when the port does.
 */
export class ConsoleRecorder {
  readonly record: ConsoleRecord;
  readonly #port: SerialPort;
  readonly #settings: PortSettings;
  readonly #log: Logger;
  readonly #boots: BootWatch | undefined;
  readonly #closing = new AbortController();
  readonly #gatherer: Gatherer;
  readonly #stopListening: () => void;
  readonly #tell: (boot: Boot) => void;
  readonly #running: Promise<void>;
  #waitingFor: string | undefined = "the port is not open yet";
  #errors: LineErrors | undefined;
  /** Number of the first entry that belongs to the current lease. */
  #leaseFrom: number | undefined;

  constructor(port: SerialPort, settings: PortSettings, record: RecordSettings, context: OpenContext<unknown>) {
    const { log } = context;
    this.#port = port;
    this.#settings = settings;
    this.#log = log;
    this.#boots = record.boot_pattern ? new BootWatch(new RegExp(record.boot_pattern, "u")) : undefined;
    this.record = new ConsoleRecord({ memoryBytes: record.memory_bytes, files: filesOf(record, context) });
    this.record.mark({ mark: "start", boot_id: bootId() });
    this.#gatherer = new Gatherer((bytes, at) => this.#output(bytes, at));
    this.#tell = ({ seconds }) => context.tell({ kind: "boot", path: context.path, seconds });
    this.#stopListening = context.observe((event) => this.#happened(event));
    this.#running = this.#run();
  }

  /** From where on a client may read; everything since the agent's start if no lease has begun yet. */
  async leaseFrom(): Promise<number> {
    await this.record.ready;
    return this.#leaseFrom ?? this.record.first;
  }

  get state(): RecorderState {
    const { files } = this.record;
    return {
      state: this.#waitingFor ?? "recording",
      problem: files?.problem,
      folder: files?.folder,
      boots: this.#boots?.boots ?? [],
    };
  }

  async close(): Promise<void> {
    this.#closing.abort();
    this.#stopListening();
    await this.#running;
    await this.record.close();
  }

  async #run(): Promise<void> {
    const { signal } = this.#closing;
    await this.record.ready;
    while (!signal.aborted) {
      try {
        const stream = await this.#port.attach(this.#settings, undefined, signal, { keeps: true });
        this.#waitingFor = undefined;
        this.record.mark({ mark: "port", state: "open" });
        await this.#listen(stream, signal);
      } catch (thrown) {
        if (signal.aborted) return;
        const reason = toAgentError(thrown).message;
        if (this.#waitingFor !== reason) {
          this.record.mark({ mark: "port", state: "missing", reason });
          this.#log.warn(`the console is not recorded: ${reason}`);
        }
        this.#waitingFor = reason;
      }
      await sleep(lookAgainMs, undefined, { signal }).catch(() => {});
    }
  }

  /** Takes what comes until the port is lost. */
  async #listen(stream: SerialStream, signal: AbortSignal): Promise<void> {
    const over = new Promise<Error | undefined>((resolve) => {
      stream.once("error", resolve).once("close", () => resolve(undefined));
      signal.addEventListener("abort", () => stream.destroy(), { once: true });
      if (signal.aborted) stream.destroy();
    });
    stream.on("data", (chunk: Buffer) => this.#gatherer.push(chunk, momentNow()));
    this.#errors = this.#countErrors();
    const counting = setInterval(() => this.#tellErrors(), countErrorsMs).unref();
    const error = await over;
    clearInterval(counting);
    this.#gatherer.close();
    if (stream.droppedBytes > 0) this.record.mark({ mark: "dropped", bytes: stream.droppedBytes });
    if (signal.aborted) return;
    this.#waitingFor = error?.message ?? `${this.#port.name} was closed`;
    this.record.mark({ mark: "port", state: "lost", reason: this.#waitingFor });
  }

  #output(bytes: Uint8Array, at: Moment): void {
    this.record.append("o", bytes, at);
    const boot = this.#boots?.output(bytes, at);
    if (boot === undefined) return;
    this.record.mark({ mark: "boot", seconds: boot.seconds });
    this.#log.info(`${this.#port.name}: the board has booted in ${boot.seconds.toFixed(3)} s`, {
      boot_seconds: boot.seconds,
    });
    this.#tell(boot);
  }

  #happened(event: TreeEvent): void {
    if (event.kind === "transfer" || event.kind === "boot") return;
    const at = momentNow();
    // What came before belongs before the mark.
    this.#gatherer.flush();
    if (event.kind === "lease") {
      this.#leaseFrom = this.record.next;
      this.record.mark({ mark: "lease", edge: event.edge }, at);
      return;
    }
    const on = powerActions.get(event.method);
    if (event.driverType !== "power" || on === undefined) return;
    const named = { mark: "power", driver: event.path, action: event.method } as const;
    if (event.kind === "failed") this.record.mark({ ...named, failed: event.reason }, at);
    else this.record.mark(named, at);
    this.#boots?.powered(on && event.kind === "call", at);
  }

  #countErrors(): LineErrors | undefined {
    try {
      return this.#port.lineErrors();
    } catch {
      return undefined; // unplugged a moment ago
    }
  }

  #tellErrors(): void {
    const before = this.#errors;
    const now = this.#countErrors();
    this.#errors = now ?? before;
    if (before === undefined || now === undefined) return;
    const changed = Object.entries(now)
      .map(([kind, count]) => [kind, count - before[kind as keyof LineErrors]] as const)
      .filter(([, count]) => count > 0);
    if (changed.length === 0) return;
    this.#gatherer.flush();
    this.record.mark({ mark: "line-errors", counts: Object.fromEntries(changed) });
  }
}

function filesOf(record: RecordSettings, { exporter, path, log }: OpenContext<unknown>): RecordFiles | undefined {
  if (record.max_files === 0) return undefined;
  const directory = record.directory ?? defaultRecordDirectory();
  return new RecordFiles({
    claim: () => claimRecordFolder(directory, exporter, path),
    maxFileBytes: record.max_file_bytes,
    maxFiles: record.max_files,
    failed: (reason) => log.warn(`the console is recorded in memory only: ${reason}`),
    recovered: () => log.info("the console is recorded on disk again"),
  });
}

/** Changes when the host boots. */
function bootId(): string {
  try {
    return readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim();
  } catch {
    return "unknown";
  }
}
