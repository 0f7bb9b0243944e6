import type { ListenResponse, StatusResponse } from "../../proto/gen/jumpstarter/v1/jumpstarter.ts";
import type { Clock } from "../../agent/controller/clock.ts";
import type { ControllerClient, StatusReport } from "../../agent/controller/controller-client.ts";
import { AgentError } from "../../agent/driver/errors.ts";
import type { ErrorCode } from "../../agent/driver/error-codes.ts";
import type { ExporterState } from "../../agent/session/status.ts";

/** What a seed decides: the same run again for the same seed. */
export class Chance {
  #state: number;

  constructor(seed: number) {
    this.#state = seed;
  }

  /** From 0 to 1, as Math.random; the generator is mulberry32. */
  next(): number {
    this.#state = (this.#state + 0x6d2b79f5) | 0;
    let t = Math.imul(this.#state ^ (this.#state >>> 15), 1 | this.#state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  }

  happens(probability: number): boolean {
    return this.next() < probability;
  }

  pick<T>(from: readonly T[]): T {
    return from[Math.floor(this.next() * from.length)] as T;
  }
}

/** `0.7` has no ReportStatus, and only clients end leases; in `0.8` a status ends them; from `0.9` on ReleaseLease does. */
export type ModelRelease = "0.7" | "0.8" | "0.9";

interface ModelLease {
  readonly name: string;
  client: string;
}

export interface ControllerModelOptions {
  readonly clock: Clock;
  readonly chance: Chance;
  readonly release: ModelRelease;
  /** How often a call or a message goes wrong. */
  readonly faults: number;
}

const lagsMs = [0, 0, 0, 1, 20, 300, 3_000];
const calmLagsMs = [0, 1, 20];
const refusals: readonly ErrorCode[] = ["E_CONNECTION", "E_TIMEOUT", "E_FAILED", "E_UNAUTHENTICATED", "E_LIMIT"];
/** Without a Status stream or a report for so long, an exporter counts as offline. */
const offlineAfterMs = 60_000;
/** Whoever calls gives up then. */
const deadlineMs = 30_000;

/**
 * A controller with one exporter, and the network between them, in memory and on a virtual clock: it places leases on
 * an exporter that says it is available, loses and repeats messages and answers, and is away now and then.
 */
export class ControllerModel implements ControllerClient {
  readonly address = "model:1";
  readonly lacks = new Set<"ReleaseLease">();
  readonly #options: ControllerModelOptions;
  readonly #waiting: ModelLease[] = [];
  readonly #leases = new Set<string>();
  readonly #streams = new Set<ServerStream<StatusResponse>>();
  /** Leases that were made without a client's name. */
  readonly unnamed = new Set<string>();
  readonly #listens = new Set<ServerStream<ListenResponse>>();
  readonly #history: StatusResponse[] = [];
  #faults: number;
  #lagsMs = lagsMs;
  #away = 0;
  #count = 0;
  #lastSeenMs = -Infinity;
  /** Registered, and not yet on a stream that would tell the exporter of its end. */
  #unwatched = false;
  registered = false;
  /** Undefined: never told, or forgotten as the exporter came back. */
  shown: ExporterState | undefined;
  active: ModelLease | undefined;
  /** Set when the exporter has ended: any call after that is one too many. */
  closed = false;
  calledAfterEnd = false;
  /** The exporter was told what no longer held. */
  misled = false;

  constructor(options: ControllerModelOptions) {
    this.#options = options;
    this.#faults = options.faults;
  }

  // What exporters call.

  register(_request: unknown, signal?: AbortSignal): Promise<void> {
    return this.#call(() => {
      this.registered = true;
      this.#unwatched = true;
      this.#place();
    }, signal);
  }

  unregister(_reason: string, signal?: AbortSignal): Promise<void> {
    return this.#call(() => {
      this.registered = false;
      this.shown = "OFFLINE";
    }, signal);
  }

  reportStatus({ status, releaseLease }: StatusReport, signal?: AbortSignal): Promise<void> {
    return this.#call(() => {
      if (this.#options.release === "0.7") throw new AgentError("E_UNSUPPORTED", "unknown method ReportStatus");
      this.shown = status;
      this.#lastSeenMs = this.#options.clock.now();
      if (releaseLease === true && this.active !== undefined) this.end();
      this.#place();
    }, signal);
  }

  releaseLease(name: string, signal?: AbortSignal): Promise<void> {
    return this.#call(() => {
      if (this.#options.release !== "0.9") throw new AgentError("E_INVALID", "object kind mismatch");
      if (!this.#leases.has(name)) throw new AgentError("E_NO_METHOD", `lease ${name} not found`);
      if (this.active?.name === name) this.end();
    }, signal);
  }

  async *status(signal: AbortSignal): AsyncGenerator<StatusResponse, void, undefined> {
    const stream = new ServerStream<StatusResponse>();
    try {
      await this.#call(() => {
        this.#streams.add(stream);
        this.#unwatched = false;
        this.#lastSeenMs = this.#options.clock.now();
        if (this.shown === "OFFLINE") this.shown = undefined;
        this.#tell(stream);
        this.#place();
      }, signal);
      yield* stream.messages(signal);
    } finally {
      this.#streams.delete(stream);
      this.#lastSeenMs = this.#options.clock.now();
    }
  }

  async *listen(lease: string, signal: AbortSignal): AsyncGenerator<ListenResponse, void, undefined> {
    const stream = new ServerStream<ListenResponse>();
    try {
      await this.#call(() => {
        if (!this.#leases.has(lease)) throw new AgentError("E_FAILED", `lease ${lease} not found`);
        this.#listens.add(stream);
      }, signal);
      yield* stream.messages(signal);
    } finally {
      this.#listens.delete(stream);
    }
  }

  serviceEndpoints(): Promise<{ telemetryEndpoints: [] }> {
    return this.#call(() => ({ telemetryEndpoints: [] }));
  }

  // What happens to it.

  /** A client wants a lease; it waits until the exporter can be had. */
  create(client: string): void {
    this.#count += 1;
    const lease = { name: `lease-${this.#count}`, client };
    this.#leases.add(lease.name);
    if (client === "") this.unnamed.add(lease.name);
    this.#waiting.push(lease);
    this.#place();
  }

  /** The lease is deleted, or has expired. */
  end(): void {
    this.active = undefined;
    this.#place();
    this.#tellAll();
  }

  transfer(client: string): void {
    if (this.active === undefined) return;
    this.active.client = client;
    this.#tellAll();
  }

  /**
   * The exporter's object is deleted and made anew: leases and registration are gone, and streams break. Nobody can
   * know of it between Register and Status, so it does not happen there.
   */
  forget(): void {
    if (this.#unwatched) return;
    this.registered = false;
    this.shown = undefined;
    this.#leases.clear();
    this.#waiting.length = 0;
    this.active = undefined;
    for (const stream of [...this.#streams, ...this.#listens]) stream.end(new AgentError("E_FAILED", "not found"));
  }

  /** Cannot be reached for a while, and all streams break. */
  leave(ms: number): void {
    this.#away += 1;
    for (const stream of [...this.#streams, ...this.#listens]) stream.end(new AgentError("E_CONNECTION", "reset"));
    void this.#options.clock.sleep(ms).then(() => {
      this.#away -= 1;
      this.#place();
    });
  }

  breakStreams(error?: AgentError): void {
    for (const stream of [...this.#streams, ...this.#listens]) stream.end(error);
  }

  /** Says something once more: what holds, or what held some time ago, which is then put right. */
  repeat(what: "truth" | "past"): void {
    for (const stream of this.#streams) {
      if (what === "past") this.misled = true;
      if (what === "past" && this.#history.length > 0) this.#send(stream, this.#options.chance.pick(this.#history));
      this.#send(stream);
    }
  }

  /** From now on nothing goes wrong or takes long, and who listens is told how things stand. */
  calmDown(): void {
    this.#faults = 0;
    this.#lagsMs = calmLagsMs;
    this.repeat("truth");
  }

  /** No more leases to come, and the last one ends. */
  endAll(): void {
    this.#waiting.length = 0;
    if (this.active !== undefined) this.end();
  }

  get open(): number {
    return this.#streams.size + this.#listens.size;
  }

  #truth(): StatusResponse {
    if (this.active === undefined) return { leased: false, context: {} };
    return { leased: true, leaseName: this.active.name, clientName: this.active.client, context: {} };
  }

  #place(): void {
    if (this.#away > 0 || !this.registered || this.active !== undefined) return;
    const seenMs = this.#options.clock.now() - this.#lastSeenMs;
    if (this.#streams.size === 0 && seenMs > offlineAfterMs) return;
    if (this.shown !== undefined && this.shown !== "AVAILABLE") return;
    this.active = this.#waiting.shift();
    if (this.active !== undefined) this.#tellAll();
  }

  #tellAll(): void {
    for (const stream of this.#streams) this.#tell(stream);
  }

  /** Tells the truth, or something near it that is put right soon. */
  #tell(stream: ServerStream<StatusResponse>): void {
    const { chance } = this.#options;
    const message = this.#truth();
    this.#history.push(message);
    const harm = chance.happens(this.#faults) ? chance.pick(["lost", "twice", "late"] as const) : "none";
    if (harm !== "lost" && harm !== "late") this.#send(stream, message);
    if (harm === "twice") this.#send(stream, message);
    if (harm === "late") this.misled = true;
    if (harm === "late") void this.#options.clock.sleep(chance.pick(this.#lagsMs)).then(() => stream.push(message));
    if (harm === "lost" || harm === "late") this.#send(stream, undefined, 3_001);
  }

  /** In order with what was sent before. Without a message: what holds when it arrives, unless there is newer news. */
  #send(stream: ServerStream<StatusResponse>, message?: StatusResponse, moreMs = 0): void {
    const { clock, chance } = this.#options;
    stream.freeMs = Math.max(stream.freeMs, clock.now() + chance.pick(this.#lagsMs) + moreMs);
    const place = (stream.sent += 1);
    void clock.sleep(stream.freeMs - clock.now()).then(() => {
      if (message !== undefined || place === stream.sent) stream.push(message ?? this.#truth());
    });
  }

  async #call<T>(effect: () => T, signal?: AbortSignal): Promise<T> {
    if (this.closed) this.calledAfterEnd = true;
    const { clock, chance } = this.#options;
    const fault = chance.happens(this.#faults) ? chance.pick(["before", "after", "silence", "unheard"] as const) : "no";
    const refuse = () => {
      throw new AgentError(this.#away > 0 ? "E_CONNECTION" : chance.pick(refusals), "out of luck");
    };
    await clock.sleep(chance.pick(this.#lagsMs), signal);
    if (this.#away > 0 || fault === "before") refuse();
    const result = fault === "silence" ? undefined : effect();
    if (fault === "silence" || fault === "unheard") await clock.sleep(deadlineMs, signal);
    await clock.sleep(chance.pick(this.#lagsMs), signal);
    if (this.#away > 0 || fault !== "no") refuse();
    return result as T;
  }
}

/** The server's end of a stream of messages. */
class ServerStream<T> {
  readonly #items: ({ readonly message: T } | { readonly error: AgentError | undefined })[] = [];
  #wake: () => void = () => {};
  /** When the last message that was sent will have arrived. */
  freeMs = 0;
  /** How many messages were sent. */
  sent = 0;

  push(message: T): void {
    this.#items.push({ message });
    this.#wake();
  }

  end(error?: AgentError): void {
    this.#items.push({ error });
    this.#wake();
  }

  async *messages(signal: AbortSignal): AsyncGenerator<T, void, undefined> {
    const onAbort = () => this.#wake();
    signal.addEventListener("abort", onAbort);
    try {
      for (;;) {
        signal.throwIfAborted();
        const item = this.#items.shift();
        if (item === undefined) await new Promise<void>((resolve) => (this.#wake = resolve));
        else if ("message" in item) yield item.message;
        else if (item.error === undefined) return;
        else throw item.error;
      }
    } finally {
      signal.removeEventListener("abort", onAbort);
    }
  }
}
