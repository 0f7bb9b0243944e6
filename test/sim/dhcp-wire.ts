import assert from "node:assert/strict";
import { once } from "node:events";
import { createInterface } from "node:readline";
import type { TestContext } from "node:test";
import {
  bootRequest,
  buildMessage,
  clientPort,
  ethernet,
  messageType,
  noAddress,
  parseMessage,
  serverPort,
  type DhcpMessage,
  type DhcpOptions,
} from "../../net/dhcp/protocol.ts";
import type { NetworkNamespace } from "./network-namespace.ts";

export interface Heard extends DhcpMessage {
  readonly from: { readonly address: string; readonly port: number };
}

/** A port of a machine, that says exactly what a test wants it to say. */
export interface DhcpWire {
  /** Default: a broadcast to port 67. */
  send(packet: Uint8Array, to?: { address?: string; port?: number }): void;
  /** Sends and waits for the answer to this transaction. @returns undefined when none comes in time. */
  ask(message: DhcpMessage, to?: { address?: string; port?: number }, limitMs?: number): Promise<Heard | undefined>;
  /** Everything that was heard so far. */
  readonly heard: readonly Heard[];
}

export async function startWire(t: TestContext, on: NetworkNamespace, port: number = clientPort): Promise<DhcpWire> {
  const script = new URL("dhcp-wire-process.ts", import.meta.url).pathname;
  const words = ["--import", "tsx", script, "eth0", String(port)];
  const child = on.spawn(process.execPath, words, { stdio: ["pipe", "pipe", "inherit"] });
  t.after(() => child.kill());
  assert.ok(child.stdout !== null);
  const heard: Heard[] = [];
  const watchers = new Set<() => void>();
  const lines = createInterface({ input: child.stdout });
  lines.on("line", (line) => {
    const [address = "", port = "", hex = ""] = line.split(" ");
    const message = parseMessage(Uint8Array.from(Buffer.from(hex, "hex")));
    if ("malformed" in message) return;
    heard.push({ ...message, from: { address, port: Number(port) } });
    for (const watcher of watchers) watcher();
  });
  await once(lines, "line");
  const wire: DhcpWire = {
    heard,
    send: (packet, { address = "255.255.255.255", port = serverPort } = {}) =>
      void child.stdin?.write(`${address} ${port} ${Buffer.from(packet).toString("hex")}\n`),
    ask: (message, to, limitMs = 2_000) =>
      new Promise((resolve) => {
        const since = heard.length;
        const finish = (answer?: Heard) => {
          clearTimeout(timer);
          watchers.delete(watcher);
          resolve(answer);
        };
        const watcher = () => {
          const answer = heard.slice(since).find(({ transactionId }) => transactionId === message.transactionId);
          if (answer !== undefined) finish(answer);
        };
        const timer = setTimeout(finish, limitMs);
        watchers.add(watcher);
        wire.send(buildMessage(message, 1500), to);
      }),
  };
  return wire;
}

let transactions = 1000;

/** A message of a client that can take broadcasts only. */
export function request(
  type: keyof typeof messageType | undefined,
  mac: string,
  options: DhcpOptions = {},
  more: Partial<DhcpMessage> = {},
): DhcpMessage {
  return {
    op: bootRequest,
    hardwareType: ethernet,
    hardwareAddress: Uint8Array.from(mac.split(":"), (byte) => parseInt(byte, 16)),
    hops: 0,
    transactionId: ++transactions,
    seconds: 0,
    broadcast: true,
    clientAddress: noAddress,
    yourAddress: noAddress,
    nextServerAddress: noAddress,
    relayAddress: noAddress,
    serverName: "",
    file: "",
    ...more,
    options: { ...(type !== undefined && { messageType: messageType[type] }), ...options },
  };
}
