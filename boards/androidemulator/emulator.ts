import { execFile } from "node:child_process";
import { setTimeout as sleep } from "node:timers/promises";
import { promisify } from "node:util";
import { AgentError, toAgentError } from "../../agent/driver/errors.ts";
import type { Logger } from "../../agent/driver/log.ts";
import { dial } from "../../agent/stream/dial.ts";
import { describeExit, startProgram, type Program } from "../../agent/sys/program.ts";
import { emulatorArguments, readLogLine, serialOf } from "./protocol.ts";

const execute = promisify(execFile);

/** It opens its console within seconds, long before Android has booted. */
const startTimeoutMs = 60_000;
const pollMs = 100;
/** What asking it to end may take, and ending. As in the Python driver. */
const endingLimits = { askMs: 5_000, endMs: 15_000 };
const graceMs = 2_000;
const lookTimeoutMs = 1_000;

export interface EmulatorOptions {
  readonly program: string;
  readonly avd: string;
  readonly consolePort: number;
  readonly adbPort: number;
  readonly headless: boolean;
  readonly log: Logger;
  readonly limits?: typeof endingLimits;
}

/** One Android virtual device, on or off. That it crashed is noticed: it is off then, and can be switched on again. */
export class Emulator {
  headless: boolean;
  /** Makes the ADB server run; the emulator would start one that outlives us. */
  startAdb: () => Promise<unknown> = () => Promise.resolve();
  readonly #options: EmulatorOptions;
  #running: Program | undefined;
  /** Switching is done one at a time. */
  #last: Promise<unknown> = Promise.resolve();

  constructor(options: EmulatorOptions) {
    this.#options = options;
    this.headless = options.headless;
  }

  /** Resolves when its console answers. On already: nothing happens. */
  on(signal: AbortSignal): Promise<void> {
    return this.#inTurn(() => this.#start(signal));
  }

  /** Off already: nothing happens. */
  off(): Promise<void> {
    return this.#inTurn(() => this.#stop());
  }

  /** What a lease has set goes with it. */
  async release(): Promise<void> {
    if (this.#running !== undefined) await this.off();
    this.headless = this.#options.headless;
  }

  async close(): Promise<void> {
    await this.release();
  }

  #inTurn<T>(step: () => Promise<T>): Promise<T> {
    const done = this.#last.then(step);
    this.#last = done.catch(() => {});
    return done;
  }

  async #start(signal: AbortSignal): Promise<void> {
    const { program, avd, consolePort, adbPort, log } = this.#options;
    signal.throwIfAborted();
    if (this.#running !== undefined) return log.warn("Emulator already running, ignoring");
    if (await this.#consoleAnswers()) {
      throw new AgentError("E_FAILED", `something else listens on the console port ${consolePort}`);
    }
    await this.startAdb();
    const args = emulatorArguments({ avd, consolePort, headless: this.headless });
    log.info(`Starting emulator: ${[program, ...args].join(" ")}`);
    const running = await startProgram([program, ...args], {
      env: { ...process.env, ANDROID_ADB_SERVER_PORT: `${adbPort}` },
      onLine: (line, from) => {
        const { level, text } = readLogLine(line, from);
        log[level](text);
      },
      graceMs,
    });
    this.#running = running;
    void running.ended.then((exit) => {
      if (this.#running !== running) return;
      this.#running = undefined;
      log.error(`the emulator has ended by itself (${describeExit(exit)}): ${running.lastWords}`);
    });
    try {
      await this.#untilUp(running, signal);
    } catch (error) {
      await this.#end(running);
      throw error;
    }
  }

  async #untilUp(running: Program, signal: AbortSignal): Promise<void> {
    const giveUpAt = performance.now() + startTimeoutMs;
    while (!(await this.#consoleAnswers())) {
      if (running.hasEnded) {
        const how = describeExit(await running.ended);
        throw new AgentError("E_FAILED", `the emulator did not start (${how}): ${running.lastWords}`);
      }
      signal.throwIfAborted();
      if (performance.now() > giveUpAt) {
        throw new AgentError("E_TIMEOUT", `the emulator has no console after ${startTimeoutMs / 1000}s`);
      }
      await sleep(pollMs);
    }
  }

  async #stop(): Promise<void> {
    const { log, consolePort, adbPort, limits = endingLimits } = this.#options;
    const running = this.#running;
    if (running === undefined) return log.warn("Emulator not running, ignoring");
    try {
      await execute("adb", ["-s", serialOf(consolePort), "emu", "kill"], {
        env: { ...process.env, ANDROID_ADB_SERVER_PORT: `${adbPort}` },
        timeout: limits.askMs,
        killSignal: "SIGKILL",
      });
      this.#running = undefined;
      const over = new AbortController();
      const late = sleep(limits.endMs, "late", { signal: over.signal }).catch(() => "late");
      const how = await Promise.race([running.ended, late]);
      over.abort();
      if (how === "late") throw new AgentError("E_TIMEOUT", `still there after ${limits.endMs / 1000}s`);
      log.info("Emulator shut down gracefully");
    } catch (thrown) {
      log.warn(`Graceful shutdown failed, killing process: ${toAgentError(thrown).message}`);
      await this.#end(running);
    }
  }

  async #end(running: Program): Promise<void> {
    if (this.#running === running) this.#running = undefined;
    await running.stop();
  }

  async #consoleAnswers(): Promise<boolean> {
    const where = { host: "127.0.0.1", port: this.#options.consolePort };
    try {
      (await dial(where, "console", AbortSignal.timeout(lookTimeoutMs), lookTimeoutMs)).destroy();
      return true;
    } catch {
      return false;
    }
  }
}
