import { setTimeout as sleep } from "node:timers/promises";
import { AgentError, toAgentError } from "../../agent/driver/errors.ts";
import type { Logger } from "../../agent/driver/log.ts";
import { describeExit, startProgram, type Program } from "../../agent/sys/program.ts";
import { ask, type AskOptions, type Where } from "./transport.ts";

/** It takes 50 ms, and seconds when it makes its key on a slow host. */
const startTimeoutMs = 10_000;
const pollMs = 20;
/** The server answers about itself at once. */
const aboutItselfMs = 5_000;
const graceMs = 2_000;

/**
 * The ADB server of one port, started when it is first needed, as a child of this process: one that `adb` starts by itself
 * would outlive us. The port is ours: a server that somebody else left there is used, and ended like our own.
 */
export class AdbServer {
  readonly #where: Where;
  readonly #program: string;
  readonly #users = new Set<object>();
  #child: Program | undefined;
  #isForeign = false;
  /** Starting and ending are done one at a time. */
  #last: Promise<unknown> = Promise.resolve();

  constructor(program: string, port: number) {
    this.#program = program;
    // Where `adb` has its server when it is told a port only.
    this.#where = { host: "127.0.0.1", port };
  }

  /** Asks the running server for a service that gives a text. @throws AgentError E_FAILED with what it complains of */
  async ask(service: string, options: AskOptions): Promise<string> {
    const { ok, text } = await ask(this.#where, service, options);
    if (!ok) throw new AgentError("E_FAILED", text);
    return text;
  }

  /** Resolves when it answers; it then runs until all who asked for it have left. */
  start(user: object, log: Logger): Promise<void> {
    this.#users.add(user);
    return this.#inTurn(() => this.#start(log));
  }

  /** Ends it, whoever uses it. @throws AgentError E_FAILED if it goes on answering */
  kill(): Promise<void> {
    this.#users.clear();
    return this.#inTurn(() => this.#kill());
  }

  /** Ends it when this was the last one who used it. */
  async leave(user: object): Promise<void> {
    if (this.#users.delete(user) && this.#users.size === 0) await this.#inTurn(() => this.#kill());
  }

  /** Its drivers have left, or will never. */
  async close(): Promise<void> {
    this.#users.clear();
    await this.#inTurn(async () => this.#child?.stop());
  }

  #inTurn<T>(step: () => Promise<T>): Promise<T> {
    const done = this.#last.then(step);
    this.#last = done.catch(() => {});
    return done;
  }

  async #start(log: Logger): Promise<void> {
    const { port } = this.#where;
    if (await this.#answers()) {
      const isForeign = this.#child?.hasEnded !== false;
      if (isForeign && !this.#isForeign) log.warn(`the ADB server on port ${port} was started by somebody else`);
      this.#isForeign = isForeign;
      return;
    }
    // Its own words are of use when it fails, and long.
    const child = await startProgram([this.#program, "nodaemon", "server"], {
      env: adbEnvironment(port),
      onLine: (line) => log.debug(`adb: ${line}`),
      graceMs,
    });
    this.#child = child;
    const giveUpAt = performance.now() + startTimeoutMs;
    try {
      while (!(await this.#answers())) {
        if (child.hasEnded) {
          await child.ended;
          throw new AgentError("E_FAILED", `the ADB server did not start on port ${port}: ${child.lastWords}`);
        }
        if (performance.now() > giveUpAt) {
          throw new AgentError("E_TIMEOUT", `the ADB server is not ready after ${startTimeoutMs / 1000}s`);
        }
        await sleep(pollMs);
      }
    } catch (error) {
      await child.stop();
      throw error;
    }
    log.info(`ADB server running on port ${port}`);
    void child.ended.then((exit) => log.debug(`the ADB server on port ${port} has ended: ${describeExit(exit)}`));
  }

  async #kill(): Promise<void> {
    const child = this.#child;
    this.#child = undefined;
    if (await this.#answers()) {
      // It hangs up without an answer when it is quick.
      await this.#askAboutItself("host:kill", false).catch(() => {});
    }
    await child?.stop();
    for (const began = performance.now(); await this.#answers(); await sleep(pollMs)) {
      if (performance.now() - began < graceMs) continue;
      throw new AgentError("E_FAILED", `the ADB server on port ${this.#where.port} goes on answering`);
    }
  }

  /** @throws AgentError E_FAILED if something else listens there, E_TIMEOUT if it says nothing */
  async #answers(): Promise<boolean> {
    try {
      await this.#askAboutItself("host:version", true);
      return true;
    } catch (thrown) {
      const error = toAgentError(thrown);
      if (error.code === "E_CONNECTION") return false;
      throw error;
    }
  }

  #askAboutItself(service: string, hasText: boolean) {
    const what = `the ADB server on port ${this.#where.port}`;
    return ask(this.#where, service, { hasText, timeoutMs: aboutItselfMs, what, signal: never });
  }
}

/** Starting and ending are for all who use the server: no single call cancels them. */
const never = new AbortController().signal;

/** `adb` with its server on this port, whatever the agent's own environment says about servers. */
export function adbEnvironment(port: number): NodeJS.ProcessEnv {
  const { ADB_SERVER_SOCKET: _socket, ANDROID_ADB_SERVER_ADDRESS: _address, ...rest } = process.env;
  return { ...rest, ANDROID_ADB_SERVER_PORT: `${port}` };
}
