import type { TestContext } from "node:test";
import { WebSocket } from "ws";
import { eventually } from "./rig.ts";

/** Looks into a running Node process that was started with `inspectable`. */
export interface Inspector {
  /** Frees what nobody holds any more. */
  collectGarbage(): Promise<void>;
  /** Gives back to the system what malloc keeps of freed memory, so that the process is as large as what it holds. */
  trimMemory(): Promise<void>;
  /** What keeps the event loop busy: timers, sockets, processes by the names that Node gives them. */
  activeResources(): Promise<Record<string, number>>;
  /** What JavaScript holds, compiled code among it. */
  heapMiB(): Promise<number>;
  close(): void;
}

interface Evaluated {
  readonly result: { readonly value: string };
  readonly exceptionDetails?: { readonly exception?: { readonly description?: string } };
}

/** The environment that makes a Node process one that can be looked into. */
export const inspectable = { NODE_OPTIONS: "--inspect=127.0.0.1:0" };

/** Node has no way to say it. What is native is not bundled with the agent, so that it can be loaded from outside. */
const mallocTrim = `(globalThis.mallocTrim ??= process.getBuiltinModule("node:module")
  .createRequire(${JSON.stringify(import.meta.url)})("koffi")
  .load("libc.so.6").func("int malloc_trim(size_t pad)"))(0)`;

/** @param output what the process has printed so far */
export async function openInspector(t: Pick<TestContext, "after">, output: () => string): Promise<Inspector> {
  const address = () => /Debugger listening on (ws:\S+)/.exec(output())?.[1];
  await eventually("the process can be looked into", () => address() !== undefined);
  const socket = new WebSocket(address() ?? "");
  t.after(() => socket.terminate());
  const waiting = new Map<number, (answer: { result: unknown }) => void>();
  socket.on("message", (data: Buffer) => {
    const answer = JSON.parse(data.toString()) as { id: number; result: unknown };
    waiting.get(answer.id)?.(answer);
    waiting.delete(answer.id);
  });
  await new Promise((resolve, reject) => socket.once("open", resolve).once("error", reject));
  let last = 0;
  const ask = async (method: string, params: object = {}): Promise<unknown> => {
    last += 1;
    const answered = new Promise<{ result: unknown }>((resolve) => waiting.set(last, resolve));
    socket.send(JSON.stringify({ id: last, method, params }));
    return (await answered).result;
  };
  const evaluate = async (code: string): Promise<unknown> => {
    const expression = `JSON.stringify(${code})`;
    const { result, exceptionDetails } = (await ask("Runtime.evaluate", { expression })) as Evaluated;
    if (exceptionDetails !== undefined) throw new Error(exceptionDetails.exception?.description);
    return JSON.parse(result.value);
  };
  return {
    async collectGarbage() {
      for (let round = 0; round < 3; round += 1) await ask("HeapProfiler.collectGarbage");
    },
    trimMemory: async () => void (await evaluate(mallocTrim)),
    heapMiB: async () => ((await evaluate("process.memoryUsage()")) as NodeJS.MemoryUsage).heapUsed / 2 ** 20,
    async activeResources() {
      const counts: Record<string, number> = {};
      for (const name of (await evaluate("process.getActiveResourcesInfo()")) as string[])
        counts[name] = (counts[name] ?? 0) + 1;
      return counts;
    },
    close: () => socket.terminate(),
  };
}
