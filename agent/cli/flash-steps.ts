import type { TimelineEvents } from "../../bundles/flash/timeline.ts";
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
    end: ({ name, durationMs, verdict }) => {
      if (bar?.step === name) {
        bar.shown.end();
        bar = undefined;
      }
      const mark = verdict === "ok" ? "done" : "FAILED";
      process.stderr.write(`${mark.padEnd(6)} ${name} (${(durationMs / 1000).toFixed(2)} s)\n`);
    },
  };
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
