import { once } from "node:events";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import type { ChildProcess } from "node:child_process";
import type { TestContext } from "node:test";
import type { DhcpChanges, DhcpConfigInput } from "../../net/dhcp/config.ts";
import { scratch } from "./agent.ts";
import { newNamespace, type NetworkNamespace } from "./network-namespace.ts";

/** An Ethernet of its own: a bridge on which the host has 10.77.0.1/24, and machines that are plugged into it. Needs root. */
export interface Lan {
  readonly host: NetworkNamespace;
  /** Another machine, whose card is `eth0` and has no address. */
  plugIn(mac: string): Promise<NetworkNamespace>;
}

export const lan = { device: "br0", host: "10.77.0.1", netmask: "255.255.255.0" } as const;

/** For tests that start one. */
export const withLan = { skip: process.getuid?.() !== 0 && "needs root (network namespaces)" };

export async function startLan(t: TestContext): Promise<Lan> {
  const host = await newNamespace(t, [
    `ip link add ${lan.device} type bridge`,
    `ip address add ${lan.host}/24 dev ${lan.device}`,
    `ip link set ${lan.device} up`,
  ]);
  let machines = 0;
  return {
    host,
    async plugIn(mac) {
      const machine = await newNamespace(t);
      const plug = `port${++machines}`;
      const words = `link add ${plug} type veth peer name eth0 address ${mac} netns ${machine.pid}`;
      await host.run("ip", words.split(" "));
      await host.run("ip", ["link", "set", plug, "master", lan.device, "up"]);
      await machine.run("ip", ["link", "set", "eth0", "up"]);
      return machine;
    },
  };
}

/** Our DHCP server on a machine of a {@link Lan}. */
export interface DhcpProcess {
  readonly child: ChildProcess;
  /** All it has said. */
  output(): string;
  /** Says a line to it and gives the first line of its answer that `isAnswer`. */
  ask(line: string, isAnswer?: (line: string) => boolean): Promise<string>;
  update(changes: DhcpChanges): Promise<void>;
  /** Resolves when its output has this. */
  saysSoon(what: RegExp, limitMs?: number): Promise<void>;
  stop(signal?: NodeJS.Signals): Promise<void>;
}

export async function startDhcp(
  t: Pick<TestContext, "after">,
  on: NetworkNamespace,
  config: Partial<DhcpConfigInput> = {},
): Promise<DhcpProcess> {
  const file = join(scratch(t), "dhcp.json");
  writeFileSync(file, JSON.stringify({ interface: lan.device, ...config }));
  const script = new URL("dhcp-process.ts", import.meta.url).pathname;
  const child = on.spawn(process.execPath, ["--import", "tsx", script, file], { stdio: ["pipe", "pipe", "inherit"] });
  if (child.stdout === null) throw new Error("no stdout");
  const lines: string[] = [];
  const watchers = new Set<(line: string) => void>();
  createInterface({ input: child.stdout }).on("line", (line) => {
    lines.push(line);
    for (const watcher of watchers) watcher(line);
  });
  const output = () => lines.join("\n");
  const next = (isWanted: (line: string) => boolean, limitMs = 10_000) =>
    new Promise<string>((resolve, reject) => {
      const finish = () => {
        clearTimeout(timer);
        watchers.delete(watcher);
        child.off("exit", failed);
      };
      const failed = () => {
        finish();
        reject(new Error(`the DHCP server did not say what was expected:\n${output()}`));
      };
      const timer = setTimeout(failed, limitMs);
      const watcher = (line: string) => {
        if (!isWanted(line)) return;
        finish();
        resolve(line);
      };
      watchers.add(watcher);
      child.once("exit", failed);
    });
  await next((line) => line === "ready");
  const ask = (line: string, isAnswer = (answer: string) => /^[[{]/.test(answer)) => {
    const answer = next(isAnswer);
    child.stdin?.write(`${line}\n`);
    return answer;
  };
  return {
    child,
    output,
    ask,
    update: async (changes) => void (await ask(JSON.stringify(changes), (line) => line === "updated")),
    saysSoon: async (what, limitMs) => {
      if (!what.test(output())) await next(() => what.test(output()), limitMs);
    },
    stop: async (signal = "SIGTERM") => {
      if (child.exitCode !== null || child.signalCode !== null) return;
      const gone = once(child, "exit");
      child.kill(signal);
      await gone;
    },
  };
}
