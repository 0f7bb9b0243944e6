import type { TimelineEvents } from "../../bundles/flash/timeline.ts";
import type { FlashStep } from "../driver/receipt.ts";
import { Progress } from "./j/progress.ts";

/** One line per step, and a bar while bytes move. */
export function showSteps(): TimelineEvents {
  let bar: Bar | undefined;
  return {
    progress: (step, doneBytes, totalBytes) => {
      // The image is staged while the board boots; its bar would stand in the way of the lines.
      if (step === "stage image") return;
      bar ??= startBar(step, totalBytes);
      bar.doneBytes = doneBytes;
    },
    end: (step) => {
      if (bar?.step === step.name) {
        bar.shown.end();
        bar = undefined;
      }
      process.stderr.write(endOf(step));
    },
  };
}

/** One line per step of one of several boards. */
export function showStepsOf(board: string): TimelineEvents {
  return { end: (step) => void process.stderr.write(`${board}: ${endOf(step)}`) };
}

function endOf({ name, durationMs, verdict }: FlashStep): string {
  const mark = verdict === "ok" ? "done" : "FAILED";
  return `${mark.padEnd(6)} ${name} (${(durationMs / 1000).toFixed(2)} s)\n`;
}

interface Bar {
  readonly step: string;
  readonly shown: Progress;
  doneBytes: number;
}

function startBar(step: string, totalBytes: number): Bar {
  const bar: Bar = { step, doneBytes: 0, shown: new Progress(step, totalBytes, () => bar.doneBytes) };
  return bar;
}
