import { toAgentError, type AgentError } from "../../agent/driver/errors.ts";
import type {
  FlashReceipt,
  FlashReport,
  FlashStart,
  FlashStep,
  FlashTarget,
  ReceiptKeeper,
} from "../../agent/driver/receipt.ts";
import type { RunningFlash } from "../../agent/driver/shown.ts";
import type { Progress } from "./block/progress.ts";
import type { WriteReport } from "./block/write.ts";

/** Hears how a flash goes on. */
export interface FlashEvents {
  /** Another step begins. */
  readonly enter: (step: string) => void;
  readonly onReady: (target: FlashTarget) => void;
  readonly onProgress: (progress: Progress) => void;
}

export interface Flashed {
  readonly receipt: FlashReceipt;
  /** Undefined for a flash that has succeeded. */
  readonly error: AgentError | undefined;
}

export interface FlashOptions extends Pick<FlashStart, "driver" | "image"> {
  readonly receipts: ReceiptKeeper;
  /** Told how far it is; undefined when it is over. */
  readonly show: (flash: RunningFlash | undefined) => void;
}

/** Has an image written and makes the receipt of it, whatever happens. Does not reject. */
export async function flashMedium(
  { receipts, driver, image, show }: FlashOptions,
  write: (events: FlashEvents) => Promise<WriteReport>,
): Promise<Flashed> {
  const start: FlashStart = { startedAt: new Date().toISOString(), driver, method: "block", image };
  const started = await receipts.begin(start);
  const steps = new Steps("prepare");
  let target: FlashTarget | undefined;
  const tell = ({ bytes = 0, totalBytes, remainingMs }: Partial<Progress> = {}): void => {
    const progress = { step: steps.current, movedBytes: bytes, sizeBytes: totalBytes, remainingMs };
    show({ image: image.name, target: target?.path, ...progress, startedMs: steps.startedMs });
  };
  const enter = (step: string): void => {
    steps.enter(step);
    tell();
  };
  const events: FlashEvents = {
    enter,
    onReady(found) {
      target = found;
      enter("write");
    },
    onProgress(progress) {
      steps.progress(progress.phase, progress.bytes);
      tell(progress);
    },
  };
  tell();
  try {
    const report = await write(events);
    const receipt = await started.end({ ...start, ...written(report, image), ...steps.end("ok") });
    return { receipt, error: undefined };
  } catch (thrown) {
    const error = toAgentError(thrown);
    const failure = { step: steps.current, code: error.code, message: error.message };
    const receipt = await started.end({ ...start, verdict: "failed", failure, target, ...steps.end("failed") });
    return { receipt, error };
  } finally {
    show(undefined);
  }
}

function written(
  report: WriteReport,
  { name }: FlashStart["image"],
): Pick<FlashReport, "verdict" | "image" | "target" | "ranges" | "readBackSha256"> {
  const { bytes, mappedBytes, mappedSha256: sha256, given, encoding, verified } = report;
  return {
    verdict: verified ? "verified" : "written",
    image: {
      name,
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
  /** By the monotonic clock of `performance.now()`. */
  readonly startedMs = performance.now();
  readonly #done: FlashStep[] = [];
  #beganMs = 0;
  #name: string;
  #bytes: number | undefined;

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

  progress(name: string, bytes: number): void {
    this.enter(name);
    this.#bytes = bytes;
  }

  end(verdict: FlashStep["verdict"]): Pick<FlashReport, "durationMs" | "steps"> {
    this.#close(verdict);
    return { durationMs: this.#beganMs, steps: this.#done };
  }

  #close(verdict: FlashStep["verdict"]): void {
    const nowMs = Math.round(performance.now() - this.startedMs);
    const times = { startMs: this.#beganMs, durationMs: nowMs - this.#beganMs };
    this.#done.push({ name: this.#name, ...times, verdict, ...(this.#bytes !== undefined && { bytes: this.#bytes }) });
    this.#beganMs = nowMs;
    this.#bytes = undefined;
  }
}
