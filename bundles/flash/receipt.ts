import type { FlashStep } from "../../agent/driver/receipt.ts";

/** The steps as a table: when each began, how long it took. */
export function timelineText(steps: readonly FlashStep[]): string {
  const seconds = (ms: number) => (ms / 1000).toFixed(2).padStart(8);
  const lines = [...steps]
    .sort((one, other) => one.startMs - other.startMs)
    .map(({ name, startMs, durationMs, verdict, attempt = 1 }) => {
      const again = attempt > 1 ? ` (attempt ${attempt})` : "";
      return `${seconds(startMs)} s ${seconds(durationMs)} s  ${name}${again}${verdict === "ok" ? "" : "  FAILED"}`;
    });
  return ["     start       took  step", ...lines, ""].join("\n");
}
