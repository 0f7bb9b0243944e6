import { spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import type { TestContext } from "node:test";
import { fileURLToPath } from "node:url";
import { scratch } from "../agent.ts";
import type { ControllerOptions } from "./controller.ts";
import type { Answer, Operations } from "./remote.ts";

/** A lab in a process of its own. While it is stopped by SIGSTOP, questions wait. */
export type LabProcess = {
  readonly [Name in keyof Operations]: (
    ...args: Parameters<Operations[Name]>
  ) => Promise<Awaited<ReturnType<Operations[Name]>>>;
} & {
  readonly pid: number;
  readonly endpoint: string;
  readonly routerEndpoint: string;
  readonly ca: string;
  /** SIGSTOP: connections stay open and nobody answers. SIGCONT: it goes on. SIGKILL: it is gone for good. */
  signal(signal: "SIGSTOP" | "SIGCONT" | "SIGKILL"): void;
  close(): Promise<void>;
};

const program = fileURLToPath(new URL("process.ts", import.meta.url));

/** Starts a lab in a child process, which goes with the test. */
export async function startLabProcess(
  t: Pick<TestContext, "after">,
  options: ControllerOptions = {},
): Promise<LabProcess> {
  const child = spawn(
    process.execPath,
    ["--import", "tsx", program, JSON.stringify({ directory: scratch(t), ...options })],
    {
      stdio: ["pipe", "pipe", "inherit"],
    },
  );
  const exited = once(child, "exit");
  const waiting = new Map<number, { resolve: (result: unknown) => void; reject: (error: Error) => void }>();
  const giveUp = () => {
    for (const { reject } of waiting.values()) reject(new Error("the lab's process has ended"));
    waiting.clear();
  };
  child.on("exit", giveUp);
  child.on("error", giveUp);
  child.stdin.on("error", () => {});
  const ready = new Promise<unknown>((resolve, reject) => waiting.set(0, { resolve, reject }));
  createInterface({ input: child.stdout }).on("line", (line) => {
    const answer = JSON.parse(line) as Answer;
    const asked = waiting.get(answer.id);
    waiting.delete(answer.id);
    if ("error" in answer) asked?.reject(new Error(answer.error));
    else asked?.resolve(answer.result);
  });
  const close = async () => {
    if (child.exitCode === null && child.signalCode === null) {
      child.kill("SIGCONT");
      child.stdin.end();
      const timer = setTimeout(() => child.kill("SIGKILL"), 5000);
      await exited;
      clearTimeout(timer);
    }
  };
  t.after(close);
  await ready;

  let lastId = 0;
  const ask = (operation: string, args: readonly unknown[]) =>
    new Promise<unknown>((resolve, reject) => {
      if (child.exitCode !== null || child.signalCode !== null) return reject(new Error("the lab's process has ended"));
      const id = ++lastId;
      waiting.set(id, { resolve, reject });
      child.stdin.write(JSON.stringify({ id, operation, args }) + "\n");
    });
  const { endpoint, routerEndpoint, ca } = (await ask("facts", [])) as Awaited<ReturnType<Operations["facts"]>>;
  const own = {
    pid: child.pid,
    endpoint,
    routerEndpoint,
    ca,
    close,
    signal: (name: NodeJS.Signals) => child.kill(name),
  };
  // Every other name is an operation of the lab. `then` must be none, or the object would pass for a promise.
  return new Proxy(own, {
    get: (target, name) => {
      if (name in target || typeof name === "symbol" || name === "then") return Reflect.get(target, name) as unknown;
      return (...args: unknown[]) => ask(name, args);
    },
  }) as unknown as LabProcess;
}
