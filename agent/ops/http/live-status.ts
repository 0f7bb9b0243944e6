import { setTimeout as sleep } from "node:timers/promises";
import type { FlashSummary } from "../flash-log.ts";
import type { ExporterStatus, TransferStatus } from "../exporter-status.ts";
import type { EventStream } from "./event-stream.ts";

/** All that the status page shows beside consoles. */
export interface Overview {
  readonly agent: { readonly host: string; readonly version: string; readonly startedAt: string };
  readonly exporters: readonly ExporterStatus[];
  /** Transfers of no exporter. */
  readonly transfers: readonly TransferStatus[];
  /** The last flashes of this host, newest first. */
  readonly flashes: readonly FlashSummary[];
}

const lookEveryMs = 500;
/** A reader that lags so far behind begins anew. */
const mostWaitingBytes = 4 * 1024 * 1024;

/** Tells readers what changes, and looks for it only while there are any. */
export class LiveStatus {
  readonly #look: () => Promise<Overview>;
  readonly #streams = new Set<EventStream>();
  /** What the readers know, as it was sent. */
  #exporters = new Map<string, string>();
  #rest = { transfers: "", flashes: "" };
  #isFollowing = false;

  constructor(look: () => Promise<Overview>) {
    this.#look = look;
  }

  /** Tells a reader all, and from then on what changes. */
  async add(stream: EventStream): Promise<void> {
    const overview = await this.#look();
    // Those who were here before hear of it first: from now on all know the same.
    this.#tell(overview);
    void stream.send("overview", overview);
    if (stream.signal.aborted) return;
    this.#streams.add(stream);
    stream.signal.addEventListener("abort", () => this.#streams.delete(stream), { once: true });
    if (!this.#isFollowing) void this.#follow();
  }

  async #follow(): Promise<void> {
    this.#isFollowing = true;
    while (this.#streams.size > 0) {
      await sleep(lookEveryMs, undefined, { ref: false });
      this.#tell(await this.#look());
    }
    this.#isFollowing = false;
  }

  #tell({ exporters, transfers, flashes }: Overview): void {
    const texts = new Map(exporters.map((exporter) => [exporter.exporter, JSON.stringify(exporter)]));
    const changed = exporters.filter(({ exporter }) => this.#exporters.get(exporter) !== texts.get(exporter));
    const gone = [...this.#exporters.keys()].filter((name) => !texts.has(name));
    const rest = { transfers: JSON.stringify(transfers), flashes: JSON.stringify(flashes) };
    const change = {
      ...(changed.length === 0 ? {} : { exporters: changed }),
      ...(gone.length === 0 ? {} : { gone }),
      ...(rest.transfers === this.#rest.transfers ? {} : { transfers }),
      ...(rest.flashes === this.#rest.flashes ? {} : { flashes }),
    };
    this.#exporters = texts;
    this.#rest = rest;
    if (Object.keys(change).length === 0) return;
    for (const stream of this.#streams) {
      if (stream.waitingBytes > mostWaitingBytes) stream.end();
      else void stream.send("change", change);
    }
  }
}
