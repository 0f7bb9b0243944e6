import { toAgentError } from "../../agent/driver/errors.ts";
import type {
  FlashReceipt,
  FlashReport,
  FlashStart,
  FlashStep,
  FlashTarget,
  ReceiptKeeper,
} from "../../agent/driver/receipt.ts";
import type { Progress } from "./block/progress.ts";
import type { WriteReport } from "./block/write.ts";

/** Hears how a flash goes on. */
export interface FlashEvents {
  /** The medium is at the host: what comes now is waiting for its disk. */
  readonly onSwitched: () => void;
  readonly onReady: (target: FlashTarget) => void;
  readonly onProgress: (progress: Progress) => void;
}

export interface Flashed {
  readonly receipt: FlashReceipt;
  /** Undefined for a flash that has succeeded. */
  readonly error: unknown;
}

/** Has an image written and makes the receipt of it, whatever happens. Does not reject. */
export async function flashMedium(
  { receipts, driver, image }: { readonly receipts: ReceiptKeeper } & Pick<FlashStart, "driver" | "image">,
  write: (events: FlashEvents) => Promise<WriteReport>,
): Promise<Flashed> {
  const start: FlashStart = { startedAt: new Date().toISOString(), driver, method: "block", image };
  const started = await receipts.begin(start);
  const steps = new Steps("switch to host");
  let target: FlashTarget | undefined;
  const events: FlashEvents = {
    onSwitched: () => steps.enter("wait"),
    onReady(found) {
      target = found;
      steps.enter("write");
    },
    onProgress: ({ phase }) => steps.enter(phase),
  };
  try {
    const report = await write(events);
    const receipt = await started.end({ ...start, ...written(report), ...steps.end("ok") });
    return { receipt, error: undefined };
  } catch (error) {
    const { code, message } = toAgentError(error);
    const failure = { step: steps.current, code, message };
    const receipt = await started.end({ ...start, verdict: "failed", failure, target, ...steps.end("failed") });
    return { receipt, error };
  }
}

function written(report: WriteReport): Pick<FlashReport, "verdict" | "image" | "target" | "ranges" | "readBackSha256"> {
  const { bytes, mappedBytes, mappedSha256: sha256, given, encoding, verified } = report;
  return {
    verdict: verified ? "verified" : "written",
    image: {
      ...given,
      encoding,
      content: { bytes, mappedBytes: mappedBytes === bytes ? undefined : mappedBytes, sha256 },
    },
    target: report.target,
    ranges: { written: report.written, unchanged: report.unchanged },
    readBackSha256: verified ? sha256 : undefined,
  };
}

/** One step after the other. */
class Steps {
  readonly #startMs = performance.now();
  readonly #done: FlashStep[] = [];
  #beganMs = 0;
  #name: string;

  constructor(first: string) {
    this.#name = first;
  }

  get current(): string {
    return this.#name;
  }

  enter(name: string): void {
    if (name === this.#name) return;
    this.#close("ok");
    this.#name = name;
  }

  end(verdict: FlashStep["verdict"]): Pick<FlashReport, "durationMs" | "steps"> {
    this.#close(verdict);
    return { durationMs: this.#beganMs, steps: this.#done };
  }

  #close(verdict: FlashStep["verdict"]): void {
    const nowMs = Math.round(performance.now() - this.#startMs);
    this.#done.push({ name: this.#name, startMs: this.#beganMs, durationMs: nowMs - this.#beganMs, verdict });
    this.#beganMs = nowMs;
  }
}
