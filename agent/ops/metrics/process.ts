import { readdir, readFile } from "node:fs/promises";
import type { Registry } from "./registry.ts";

/** How often the loop is looked at. More often would keep an idle host awake. */
const lookEveryMs = 1_000;

/**
 * What the process takes of its host, by the names that all exporters of Prometheus have for it, and how its event loop keeps up.
 * @returns ends the look at the loop
 */
export function followProcess(registry: Registry): () => void {
  const cpu = registry.counter("process_cpu_seconds_total", "User and system time.");
  const resident = registry.gauge("process_resident_memory_bytes", "Memory in RAM.");
  const heap = registry.gauge("nodejs_heap_size_used_bytes", "Memory of JavaScript objects.");
  const external = registry.gauge("nodejs_external_memory_bytes", "Memory of buffers.");
  const openFiles = registry.gauge("process_open_fds", "Open file descriptors.");
  const mostFiles = registry.gauge("process_max_fds", "Most file descriptors that may be open.");
  const start = registry.gauge("process_start_time_seconds", "When the process started, since 1970.");
  const active = registry.counter(
    "jumpstarter_agent_event_loop_active_seconds_total",
    "How long the event loop did not wait.",
  );
  const lag = registry.histogram(
    "jumpstarter_agent_event_loop_lag_seconds",
    "How late a timer was that is set once a second.",
    [0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5],
  );
  start.set(Math.round(Date.now() / 1_000 - process.uptime()));

  registry.collect(async () => {
    const { user, system } = process.cpuUsage();
    const { rss, heapUsed, external: buffers } = process.memoryUsage();
    cpu.set((user + system) / 1e6);
    resident.set(rss);
    heap.set(heapUsed);
    external.set(buffers);
    active.set(performance.eventLoopUtilization().active / 1_000);
    const files = await readdir("/proc/self/fd").catch(() => undefined);
    // One of them is the look itself.
    if (files !== undefined) openFiles.set(files.length - 1);
    const limits = await readFile("/proc/self/limits", "latin1").catch(() => "");
    const most = /^Max open files +(\d+)/m.exec(limits)?.[1];
    if (most !== undefined) mostFiles.set(Number(most));
  });

  let expectedMs = performance.now() + lookEveryMs;
  const timer = setInterval(() => {
    const now = performance.now();
    lag.observe(Math.max(0, now - expectedMs) / 1_000);
    expectedMs = now + lookEveryMs;
  }, lookEveryMs).unref();
  return () => clearInterval(timer);
}
