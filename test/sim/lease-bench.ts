import assert from "node:assert/strict";
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import type { TestContext } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { askAgents } from "../../agent/host/control-client.ts";
import type { HostedStatus } from "../../agent/host/hosted-exporter.ts";
import type { LeaseConnection } from "./lease-client.ts";

/** The drivers of an exporter that faults are tried on. */
export const benchDrivers = {
  power: { type: "jumpstarter_driver_power.driver.MockPower" },
  echo: { type: "jumpstarter_driver_network.driver.EchoNetwork" },
};

/** A place for an agent's sockets and the private directories of its leases, apart from those of other agents. */
export function runtimeDirectory(scratch: string): string {
  const directory = join(scratch, "run");
  mkdirSync(directory, { mode: 0o700 });
  return directory;
}

/** What an agent shows `jmp-agent` of one exporter; undefined if it does not answer or has no such exporter. */
export async function shown(runtime: string, pid: number, exporter: string): Promise<HostedStatus | undefined> {
  const [agent] = await askAgents("status", {}, { pid, env: { XDG_RUNTIME_DIR: runtime } });
  return (agent?.answer as HostedStatus[] | undefined)?.find((one) => one.exporter === exporter);
}

/** Waits for a condition that takes asking. */
export async function until<T>(what: string, condition: () => Promise<T>, timeoutMs = 20_000): Promise<NonNullable<T>> {
  for (const end = performance.now() + timeoutMs; ;) {
    const found = await condition();
    if (found) return found;
    if (performance.now() > end) throw new Error(`waited ${timeoutMs} ms in vain for ${what}`);
    await sleep(20);
  }
}

/** A byte stream through a tunnel that is never quiet. */
export interface Traffic {
  /** Bytes that came back so far, each where it belongs. */
  readonly bytes: number;
  readonly error: Error | undefined;
  /** Waits until bytes go round that were not sent yet. @throws if the stream breaks before. */
  moves(timeoutMs?: number): Promise<void>;
  stop(): void;
}

const chunkBytes = 4_096;

/** Sends numbers to the echo driver and compares what comes back. It ends with the test. */
export async function startTraffic(t: Pick<TestContext, "after">, connection: LeaseConnection): Promise<Traffic> {
  const stream = await connection.find("echo")?.stream();
  assert.ok(stream);
  let [sent, received] = [0, 0];
  let error: Error | undefined;
  const send = () => {
    const chunk = Buffer.alloc(chunkBytes);
    for (let at = 0; at < chunkBytes; at += 4) chunk.writeUInt32LE((sent + at) >>> 0, at);
    sent += chunkBytes;
    stream.write(chunk);
  };
  stream.on("data", (chunk: Buffer) => {
    for (let at = (4 - (received % 4)) % 4; at + 4 <= chunk.length; at += 4) {
      if (chunk.readUInt32LE(at) !== received + at) stream.destroy(new Error(`other bytes come back at ${received}`));
    }
    received += chunk.length;
  });
  stream.on("error", (reason) => (error ??= reason));
  stream.on("close", () => (error ??= new Error("the stream has ended")));
  // No more is under way than a window, so that whatever moves was sent a moment ago.
  const timer = setInterval(() => {
    if (sent - received < 16 * chunkBytes && !stream.destroyed) send();
  }, 25);
  const stop = () => {
    clearInterval(timer);
    stream.destroy();
  };
  t.after(stop);
  return {
    get bytes() {
      return received;
    },
    get error() {
      return error;
    },
    async moves(timeoutMs = 10_000) {
      const goal = sent + chunkBytes;
      for (const end = performance.now() + timeoutMs; received < goal; await sleep(5)) {
        if (error) throw error;
        if (performance.now() > end) throw new Error(`the stream stands still at ${received} of ${sent} bytes`);
      }
    },
    stop,
  };
}
