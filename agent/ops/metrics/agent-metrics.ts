import type { ErrorCode } from "../../driver/error-codes.ts";
import type { FlashReceipt } from "../../driver/receipt.ts";
import type { EndedTransfer } from "../../driver/shown.ts";
import type { Exporter } from "../../session/exporter.ts";
import type { SessionObserver } from "../../session/observer.ts";
import type { AuditLog } from "../audit.ts";
import type { ExporterStatus } from "../exporter-status.ts";
import { followProcess } from "./process.ts";
import { Registry } from "./registry.ts";

/** What an agent does, as numbers. All that it is given to watch is counted from then on. */
export interface AgentMetrics {
  readonly registry: Registry;
  /** Counts leases, and what is done in them. */
  readonly leases: Pick<AuditLog, "begin">;
  /** Counts what is done in the sessions of an exporter. */
  observer(exporter: string): SessionObserver;
  /** Counts what the drivers of an exporter tell, until they are closed. */
  readonly opened: (exporter: Pick<Exporter, "name" | "tree">) => void;
  /** Counts a transfer of no exporter. */
  readonly transferred: (transfer: EndedTransfer) => void;
  /** Counts a flash that is over. */
  readonly flashed: (receipt: FlashReceipt) => void;
  /** Ends what it does by itself. */
  close(): void;
}

const callBounds = [0.001, 0.01, 0.1, 1, 10, 60, 600];
const minutes = (...counts: number[]) => counts.map((count) => count * 60);
const leaseBounds = minutes(1, 5, 15, 30, 60, 120, 240, 480, 1_440);
const flashBounds = [10, 30, ...minutes(1, 2, 5, 10, 20, 30, 60)];
const stepBounds = [0.1, 1, 5, 10, 30, ...minutes(1, 2, 5, 10, 20)];
const bootBounds = [1, 2, 5, 10, 20, 30, ...minutes(1, 2, 5)];

/** @param status asked when somebody wants to know, for what need not be counted */
export function createMetrics(version: string, status: () => readonly ExporterStatus[]): AgentMetrics {
  const registry = new Registry();
  const { counter, gauge, histogram } = declarer(registry);
  const buildInfo = gauge("agent_build_info", "Always 1; the labels say what runs.", "version", "node");
  buildInfo.set(1, version, process.versions.node);

  const leasesTotal = counter("leases_total", "Leases that are over, by how they ended.", "exporter", "outcome");
  const leaseSeconds = histogram(
    "lease_duration_seconds",
    "How long leases took, from their begin to the end of their cleaning.",
    leaseBounds,
    "exporter",
  );
  const calls = counter(
    "driver_calls_total",
    "Calls of driver methods that are over; code is OK or the error's code.",
    ...["exporter", "driver_type", "method", "code"],
  );
  const callSeconds = histogram(
    "driver_call_duration_seconds",
    "How long calls of driver methods took.",
    callBounds,
    "driver_type",
  );
  const streams = counter(
    "streams_total",
    "Byte streams that are over: of drivers, and resources that clients lent.",
    ...["exporter", "kind", "code"],
  );
  const streamBytes = counter(
    "stream_bytes_total",
    "Payload of byte streams that are over, as seen from the agent.",
    ...["exporter", "kind", "direction"],
  );
  const transfers = counter(
    "transfers_total",
    "Files that boards asked for or sent, over TFTP and HTTP, by how that ended.",
    ...["exporter", "protocol", "direction", "outcome"],
  );
  const transferBytes = counter(
    "transfer_bytes_total",
    "What transfers that are over moved, complete or not.",
    ...["exporter", "protocol", "direction"],
  );
  const flashes = counter(
    "flashes_total",
    "Flashes of this host that are over, by their verdict.",
    ...["exporter", "method", "verdict"],
  );
  const flashSeconds = histogram(
    "flash_duration_seconds",
    "How long flashes took that are verified or written.",
    flashBounds,
    "method",
  );
  const stepSeconds = histogram(
    "flash_step_duration_seconds",
    "How long the steps of flashes took that went well; U-Boot, boot and log in are what a netboot takes.",
    stepBounds,
    ...["method", "step"],
  );
  const bootSeconds = histogram(
    "board_boot_duration_seconds",
    "From power on until a console printed its boot_pattern.",
    bootBounds,
    ...["exporter", "driver"],
  );
  collectStatus(registry, status);
  const unfollow = followProcess(registry);

  const transferred = (exporter: string, { protocol, direction, outcome, movedBytes }: EndedTransfer) => {
    transfers.add(1, exporter, protocol, direction, outcome);
    transferBytes.add(movedBytes, exporter, protocol, direction);
  };
  const stream = (exporter: string, kind: string, bytesIn: number, bytesOut: number, code: ErrorCode | undefined) => {
    streams.add(1, exporter, kind, code ?? "OK");
    streamBytes.add(bytesIn, exporter, kind, "received");
    streamBytes.add(bytesOut, exporter, kind, "sent");
  };
  const observer = (exporter: string): SessionObserver => ({
    call({ type, method, code, durationMs }) {
      calls.add(1, exporter, type, method, code ?? "OK");
      callSeconds.observe(durationMs / 1_000, type);
    },
    stream: ({ bytesIn, bytesOut, code }) => stream(exporter, "driver", bytesIn, bytesOut, code),
    resource: ({ bytesIn, bytesOut, code }) => stream(exporter, "resource", bytesIn, bytesOut, code),
  });

  return {
    registry,
    observer,
    leases: {
      begin({ exporter }) {
        const beganMs = performance.now();
        let over = false;
        return {
          ...observer(exporter),
          client: () => {},
          event: () => {},
          end({ outcome }) {
            if (over) return;
            over = true;
            leasesTotal.add(1, exporter, outcome);
            leaseSeconds.observe((performance.now() - beganMs) / 1_000, exporter);
          },
        };
      },
    },
    opened({ name, tree }) {
      const ignore = tree.observe((event) => {
        if (event.kind === "transfer") transferred(name, event.transfer);
        if (event.kind === "boot") bootSeconds.observe(event.seconds, name, event.path);
      });
      tree.signal.addEventListener("abort", ignore, { once: true });
    },
    transferred: (transfer) => transferred("", transfer),
    flashed({ exporter, method, verdict, durationMs, steps }) {
      flashes.add(1, exporter, method, verdict);
      const good = verdict === "verified" || verdict === "written";
      if (good && durationMs !== undefined) flashSeconds.observe(durationMs / 1_000, method);
      for (const step of steps) {
        if (step.verdict === "ok") stepSeconds.observe(step.durationMs / 1_000, method, step.name);
      }
    },
    close: unfollow,
  };
}

/** What the exporters are asked for when somebody wants to know. */
function collectStatus(registry: Registry, status: () => readonly ExporterStatus[]): void {
  const { counter, gauge } = declarer(registry);
  const state = gauge("exporter_state", "1 for the state that the exporter is in.", "exporter", "state");
  const registered = gauge("exporter_registered", "1 once the controller has taken the registration.", "exporter");
  const online = gauge("exporter_online", "1 while the controller is heard.", "exporter");
  const connections = counter(
    "controller_connections_total",
    "How often the controller was reached: 1, and one more for each time it was lost.",
    "exporter",
  );
  const leased = gauge("leases_active", "1 while a lease is served.", "exporter");
  const driverUp = gauge("driver_up", "0 while the driver is offline.", ...["exporter", "driver", "driver_type"]);
  const running = gauge("transfers_active", "Transfers that go on now.", "exporter", "protocol");
  const consoleLabels = ["exporter", "driver"];
  const received = counter("console_received_bytes_total", "What serial ports have received.", ...consoleLabels);
  const sent = counter("console_sent_bytes_total", "What serial ports have sent.", ...consoleLabels);
  const lines = counter("console_lines_total", "Lines that serial ports have received.", ...consoleLabels);

  registry.collect(() => {
    const all = [state, registered, online, connections, leased, driverUp, running, received, sent, lines];
    for (const metric of all) metric.clear();
    for (const { exporter, drivers, transfers, ...now } of status()) {
      state.set(1, exporter, now.state);
      registered.set(Number(now.registered), exporter);
      online.set(Number(now.online), exporter);
      connections.set(now.connections, exporter);
      leased.set(now.lease === null ? 0 : 1, exporter);
      for (const { driver, type, offline, console } of drivers) {
        driverUp.set(offline === null ? 1 : 0, exporter, driver, type);
        if (console === null) continue;
        received.set(console.receivedBytes, exporter, driver);
        sent.set(console.sentBytes, exporter, driver);
        lines.set(console.lines, exporter, driver);
      }
      for (const protocol of ["tftp", "http"]) {
        const of = transfers.filter((transfer) => transfer.protocol === protocol).length;
        if (of > 0) running.set(of, exporter, protocol);
      }
    }
  });
}

/** Our names begin alike. */
function declarer(registry: Registry) {
  const named = (name: string) => `jumpstarter_${name}`;
  return {
    counter: (name: string, help: string, ...labels: string[]) => registry.counter(named(name), help, ...labels),
    gauge: (name: string, help: string, ...labels: string[]) => registry.gauge(named(name), help, ...labels),
    histogram: (name: string, help: string, bounds: readonly number[], ...labels: string[]) =>
      registry.histogram(named(name), help, bounds, ...labels),
  };
}
