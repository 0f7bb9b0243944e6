import { Worker } from "node:worker_threads";

export interface LoopGuardOptions {
  /** A loop that does not turn for this long is told. */
  readonly limitMs: number;
  /** Stands before each line: `<2>` is a priority that the journal takes off (sd-daemon(3)). */
  readonly prefix: string;
}

/** Says on standard error that the event loop does not turn, and where it is: whoever is in the loop cannot. */
export interface LoopGuard {
  /** The loop has turned. To be called several times within the limit. */
  turned(): void;
  close(): Promise<void>;
}

/** Whatever runs is looked at by the inspector; what is in the kernel or in native code does not answer it. */
const stackLimitMs = 1_000;

/**
 * Plain text, so that it runs from wherever the agent was built to.
 * Time counts only while this thread itself runs: a process that was stopped as a whole has not been blocked.
 */
const program = `
const { workerData: { beats, limitMs, prefix, stackLimitMs } } = require("node:worker_threads");
const { Session } = require("node:inspector");
const { writeSync } = require("node:fs");
const stepMs = limitMs / 8;
const say = (text) => { try { writeSync(2, prefix + text + "\\n"); } catch {} };
const seconds = (ms) => (ms / 1000).toFixed(ms < 10000 ? 1 : 0) + " s";

function stack() {
  return new Promise((resolve) => {
    const session = new Session();
    const timer = setTimeout(() => done(undefined), stackLimitMs);
    const done = (frames) => { clearTimeout(timer); try { session.disconnect(); } catch {} resolve(frames); };
    try {
      session.connectToMainThread();
      const files = new Map();
      session.on("Debugger.scriptParsed", ({ params }) => files.set(params.scriptId, params.url));
      session.on("Debugger.paused", ({ params }) => done(params.callFrames.slice(0, 8).map((frame) => {
        const { scriptId, lineNumber, columnNumber } = frame.location;
        const file = (frame.url || files.get(scriptId) || "?").split("/").slice(-2).join("/");
        return (frame.functionName || "(anonymous)") + " (" + file + ":" + (lineNumber + 1) + ":" + (columnNumber + 1) + ")";
      })));
      session.post("Debugger.enable");
      session.post("Debugger.pause");
    } catch { done(undefined); }
  });
}

let seen = -1, stillMs = 0, told = false, lastMs = performance.now();
async function look() {
  const nowMs = performance.now();
  const beat = Atomics.load(beats, 0);
  if (beat !== seen) {
    if (told) say("The event loop turns again, after " + seconds(stillMs));
    seen = beat; stillMs = 0; told = false;
  } else stillMs += Math.min(nowMs - lastMs, 2 * stepMs);
  lastMs = nowMs;
  if (stillMs >= limitMs && !told) {
    told = true;
    const after = "The event loop has been blocked for " + seconds(stillMs);
    const frames = await stack();
    if (Atomics.load(beats, 0) === seen)
      say(after + (frames === undefined ? ", in native code or a system call" : ", in " + frames.join(" < ")));
  }
  setTimeout(look, stepMs);
}
look();
`;

/** Starts the thread that watches this one. It keeps no process alive. */
export function startLoopGuard({ limitMs, prefix }: LoopGuardOptions): LoopGuard {
  const beats = new Int32Array(new SharedArrayBuffer(4));
  const worker = new Worker(program, {
    ...{ eval: true, execArgv: [], env: {}, workerData: { beats, limitMs, prefix, stackLimitMs } },
    resourceLimits: { maxOldGenerationSizeMb: 16, maxYoungGenerationSizeMb: 1, stackSizeMb: 1 },
  });
  worker.unref();
  // Without it a blocked loop is restarted all the same, only without a word of where it was.
  worker.on("error", () => {});
  return {
    turned: () => void Atomics.add(beats, 0, 1),
    close: async () => void (await worker.terminate()),
  };
}
