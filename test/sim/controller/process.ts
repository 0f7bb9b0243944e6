/**
 * The lab as a program, so that a test can stop or kill it with a signal: `process.ts OPTIONS`, the options of
 * startController as JSON. Questions come as lines of JSON on stdin, answers go to stdout; it ends when stdin does.
 */
import { createInterface } from "node:readline";
import { startController, type ControllerOptions } from "./controller.ts";
import { operations, type Answer, type Question } from "./remote.ts";

const lab = await startController(JSON.parse(process.argv[2] ?? "{}") as ControllerOptions);
const table = operations(lab) as Record<string, (...args: unknown[]) => unknown>;

const say = (answer: Answer) => process.stdout.write(JSON.stringify(answer) + "\n");
const answer = async ({ id, operation, args }: Question) => {
  try {
    const ask = table[operation];
    if (!ask) throw new Error(`the lab has no operation ${operation}`);
    say({ id, result: (await ask(...args)) ?? null });
  } catch (error) {
    say({ id, error: error instanceof Error ? error.message : String(error) });
  }
};

const lines = createInterface({ input: process.stdin });
lines.on("line", (line) => void answer(JSON.parse(line) as Question));
lines.on("close", () => {
  void lab.close().finally(() => process.exit(0));
});
say({ id: 0, result: "ready" });
