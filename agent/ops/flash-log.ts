import type { FlashReceipt } from "../driver/receipt.ts";
import type { KeptFlash, ReceiptStore } from "./receipts/store.ts";

/** A flash as a list shows it. */
export interface FlashSummary extends Pick<FlashReceipt, "exporter" | "startedAt" | "driver" | "method"> {
  /** Its receipt's. */
  readonly id: string;
  readonly verdict: FlashReceipt["verdict"] | "running";
  readonly lease: string | null;
  readonly durationMs: number | null;
  readonly image: string | null;
  readonly target: string | null;
  readonly bytes: number | null;
  readonly failure: string | null;
  readonly signed: boolean;
}

/** A list shows no more. */
const mostShown = 50;

/** The flashes of a host as its receipts tell them, of all its agents. Each receipt is read once. */
export class FlashLog {
  readonly #store: ReceiptStore;
  readonly #ended: (receipt: FlashReceipt) => void;
  readonly #known = new Map<string, FlashSummary | undefined>();
  #begun = false;
  #looking: Promise<readonly FlashSummary[]> | undefined;

  /** @param ended told of each flash that ends from the first look on */
  constructor(store: ReceiptStore, ended: (receipt: FlashReceipt) => void = () => {}) {
    this.#store = store;
    this.#ended = ended;
  }

  /** Looks at what is new. @returns the last ones, newest first. A directory that cannot be read has none. */
  look(): Promise<readonly FlashSummary[]> {
    this.#looking ??= this.#look().finally(() => (this.#looking = undefined));
    return this.#looking;
  }

  async #look(): Promise<readonly FlashSummary[]> {
    const ids = await this.#store.ids().catch(() => ({ ended: [], running: [] }));
    // Names sort by time: what was there before the first look and is older than what is shown need not be read.
    const shown = new Set([...ids.ended, ...ids.running].sort().slice(-mostShown));
    for (const id of ids.ended) {
      if (this.#known.has(id)) continue;
      if (!this.#begun && !shown.has(id)) this.#known.set(id, undefined);
      else await this.#read(id);
    }
    const running = new Map<string, FlashSummary>();
    for (const id of ids.running) {
      const summary = summaryOf(await this.#store.get(id));
      if (summary !== undefined) running.set(id, summary);
    }
    const there = new Set(ids.ended);
    for (const id of this.#known.keys()) if (!there.has(id)) this.#known.delete(id);
    this.#begun = true;
    return [...shown]
      .reverse()
      .map((id) => running.get(id) ?? this.#known.get(id))
      .filter((summary) => summary !== undefined);
  }

  async #read(id: string): Promise<void> {
    const flash = await this.#store.get(id);
    this.#known.set(id, summaryOf(flash));
    if (this.#begun && flash.state === "ended") this.#ended(flash.receipt);
  }
}

function summaryOf(flash: KeptFlash): FlashSummary | undefined {
  if (flash.state === "damaged") return undefined;
  const { id } = flash;
  if (flash.state === "running") {
    const { exporter, startedAt, driver, method, image, lease = null } = flash.start;
    const nothing = { durationMs: null, target: null, bytes: null, failure: null, signed: false };
    return {
      id,
      exporter,
      startedAt,
      driver,
      method,
      lease,
      verdict: "running",
      image: image.name ?? null,
      ...nothing,
    };
  }
  const { exporter, startedAt, driver, method, image, lease = null, verdict, durationMs = null } = flash.receipt;
  const { target, failure } = flash.receipt;
  return {
    ...{ id, exporter, startedAt, driver, method, lease, verdict, durationMs, signed: flash.signed },
    image: image.name ?? null,
    bytes: image.content?.bytes ?? image.bytes ?? null,
    target: target?.path ?? null,
    failure: failure === undefined ? null : `${failure.step}: ${failure.message}`,
  };
}
