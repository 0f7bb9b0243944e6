import { status } from "@grpc/grpc-js";
import type { FaultOptions } from "./faults.ts";
import type { Lab } from "./controller.ts";
import type { LeaseWish } from "./lease-table.ts";

/** What can be asked of a lab in another process: arguments and results are JSON. */
export function operations(lab: Lab) {
  const { records } = lab;
  return {
    facts: () => ({ endpoint: lab.endpoint, routerEndpoint: lab.routerEndpoint, ca: lab.ca, namespace: lab.namespace }),
    addExporter: (exporter: { name: string; labels?: Record<string, string> }) => void lab.addExporter(exporter),
    addClient: (client: { name: string }) => lab.addClient(client),
    exporterConfig: (name: string, exported: Record<string, unknown>, more: Record<string, unknown> = {}) =>
      lab.exporterConfig(name, exported, more),
    clientConfig: (name: string) => lab.clientConfig(name),
    /** Answers the lease's name. */
    createLease: (wish: LeaseWish) => lab.createLease(wish).name,
    assign: (wish: LeaseWish & { exporter: string }) => lab.assign(wish).name,
    deleteLease: (name: string) => lab.deleteLease(name),
    expire: (name: string) => lab.expire(name),
    transfer: (name: string, client: string) => lab.transfer(name, client),
    forgetExporter: (name: string) => lab.forgetExporter(name),
    ready: (exporter: string, timeoutMs?: number) => lab.ready(exporter, timeoutMs),
    /** Waits until the exporter's last report has this status; also one that came before the call. */
    untilStatus: async (exporter: string, name: string, timeoutMs = 30_000) => {
      const last = () => records.statuses.findLast((report) => report.exporter === exporter);
      return lab.waitFor(() => (last()?.name === name ? last() : undefined), {
        what: `${exporter}: ${name}`,
        timeoutMs,
      });
    },
    records: () => {
      const { calls, registers, unregisters, statuses, releases, listens, statusStreams } = records;
      const { dials, tunnels, problems } = records;
      const lists = { calls, registers, unregisters, statuses, releases, listens, statusStreams, dials, tunnels };
      return { ...lists, problems, nowMs: records.nowMs() };
    },
    answer: (rpc: string, code: keyof typeof status, details: string, options: FaultOptions = {}) =>
      void lab.faults.answer(rpc, status[code], details, options),
    swallow: (rpc: string, options: FaultOptions = {}) => void lab.faults.swallow(rpc, options),
    delay: (rpc: string, delayMs: number) => void lab.faults.delay(rpc, delayMs),
    clearFaults: () => lab.faults.clear(),
    stopPort: (which: "controller" | "router") => lab[which].stop(),
    startPort: (which: "controller" | "router") => lab[which].start(),
    resetPort: (which: "controller" | "router") => lab[which].reset(),
    dropTunnels: () => lab.router.dropTunnels(),
    peerlessDial: (lease: string) => lab.peerlessDial(lease),
    rotateToken: (name: string) => lab.rotateToken(name),
    refuseTokens: (name: string) => lab.refuseTokens(name),
  };
}

export type Operations = ReturnType<typeof operations>;

export interface Question {
  readonly id: number;
  readonly operation: keyof Operations;
  readonly args: readonly unknown[];
}

export type Answer =
  { readonly id: number; readonly result: unknown } | { readonly id: number; readonly error: string };
