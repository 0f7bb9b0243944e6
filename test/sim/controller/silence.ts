import { ExporterStatus } from "../../../proto/gen/jumpstarter/v1/common.ts";
import type { ExporterObject, World } from "./world.ts";

const { EXPORTER_STATUS_OFFLINE } = ExporterStatus;

/**
 * Takes an exporter for lost that has had no Status stream for so long: whatever it reported last is forgotten, and it must
 * report again when it is back. `marks`: whether this controller keeps statuses at all. Answers how to stop.
 */
export function watchSilence(world: World, offlineAfterMs: number, marks: boolean): () => void {
  const timers = new Map<ExporterObject, { dueMs: number; timer: NodeJS.Timeout }>();
  const look = (exporter: ExporterObject) => {
    const { statusStreams, lastSeenMs, status } = exporter;
    const silent = statusStreams === 0 && lastSeenMs !== null && status !== EXPORTER_STATUS_OFFLINE;
    const dueMs = silent ? lastSeenMs + offlineAfterMs : undefined;
    const set = timers.get(exporter);
    if (set?.dueMs === dueMs) return;
    clearTimeout(set?.timer);
    timers.delete(exporter);
    if (dueMs === undefined || dueMs < performance.now()) return;
    const late = () => {
      if (marks) {
        exporter.status = EXPORTER_STATUS_OFFLINE;
        exporter.statusMessage = "Connection lost - last seen more than 1 minute ago";
      }
      world.changed();
    };
    // One more millisecond: timers may fire a little early.
    timers.set(exporter, { dueMs, timer: setTimeout(late, dueMs - performance.now() + 1).unref() });
  };
  const unwatch = world.watch(() => {
    for (const exporter of world.exporters.values()) look(exporter);
  });
  return () => {
    unwatch();
    for (const { timer } of timers.values()) clearTimeout(timer);
  };
}
