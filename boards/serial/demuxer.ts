import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { access, constants } from "node:fs/promises";
import type { Readable } from "node:stream";
import { setTimeout as sleep } from "node:timers/promises";
import { AgentError, DeviceOffline, toAgentError } from "../../agent/driver/errors.ts";
import type { Logger } from "../../agent/driver/log.ts";
import { anySignal } from "../../agent/sys/any-signal.ts";
import { matchPaths } from "./glob.ts";

export interface DemuxerSettings {
  readonly demuxerPath: string;
  /** Path or pattern of the debug adapter's port. */
  readonly device: string;
  /** T234 is Orin, T264 is Thor. */
  readonly chip: string;
  readonly pollIntervalMs: number;
}

/** Between SIGTERM and SIGKILL. */
const graceMs = 5_000;

/** What the tool says when another one holds the adapter. */
const lockError = "ERROR: unable to obtain file lock";

/** `<pts path>\t<target>` */
const ptsLine = /^(\/dev\/[^\t]+)\t(.+)$/;

/** util-linux; ends the tool with us even if we are killed. */
const setpriv = "/usr/bin/setpriv";

/**
 * NVIDIA's console demultiplexer: one process for all consoles of a Tegra board behind one USB port. Runs from the
 * first registration until `close`; started again when it exits or the adapter comes back.
 */
export class Demuxer {
  readonly #log: Logger;
  readonly #closing = new AbortController();
  readonly #targets = new Set<string>();
  readonly #waiting = new Set<() => void>();
  /** Pts path by target, while the process runs. */
  #consoles = new Map<string, string>();
  #settings: DemuxerSettings | undefined;
  #running: Promise<void> | undefined;
  /** Why the last run failed; undefined while the tool works or nothing is plugged in. */
  #failure: string | undefined;

  constructor(log: Logger) {
    this.#log = log;
  }

  /** @returns a function that takes it back. @throws AgentError E_INVALID if it contradicts an earlier registration */
  register(settings: DemuxerSettings, target: string): () => void {
    const first = (this.#settings ??= settings);
    for (const [what, key] of [
      ["Demuxer path", "demuxerPath"],
      ["Device", "device"],
      ["Chip", "chip"],
    ] as const) {
      if (first[key] !== settings[key]) {
        throw new AgentError("E_INVALID", `${what} mismatch: existing=${first[key]}, new=${settings[key]}`);
      }
    }
    if (this.#targets.has(target)) {
      throw new AgentError("E_INVALID", `Target '${target}' already registered by another driver`);
    }
    this.#targets.add(target);
    this.#running ??= this.#run(first);
    return () => this.#targets.delete(target);
  }

  /**
   * The pts of a target, as soon as there is one.
   * @throws DeviceOffline at once if another process holds the adapter; AgentError E_TIMEOUT
   */
  async console(target: string, timeoutMs: number, signal: AbortSignal): Promise<string> {
    const deadline = AbortSignal.timeout(timeoutMs);
    const over = anySignal([signal, deadline, this.#closing.signal]);
    for (;;) {
      const path = this.#consoles.get(target);
      if (path !== undefined) return path;
      if (this.#failure?.includes(lockError) === true) throw new DeviceOffline(`the demuxer says: ${this.#failure}`);
      signal.throwIfAborted();
      if (over.aborted) {
        const pattern = this.#settings?.device ?? "";
        const why = this.#failure === undefined ? "" : `: ${this.#failure}`;
        throw new AgentError(
          "E_TIMEOUT",
          `Timeout waiting for demuxer to become ready (device pattern: ${pattern})${why}`,
        );
      }
      await this.#change(over);
    }
  }

  async close(): Promise<void> {
    this.#closing.abort();
    await this.#running;
  }

  #change(over: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      const done = () => {
        over.removeEventListener("abort", done);
        this.#waiting.delete(done);
        resolve();
      };
      over.addEventListener("abort", done);
      this.#waiting.add(done);
    });
  }

  #changed(): void {
    for (const wake of this.#waiting) wake();
  }

  async #run(settings: DemuxerSettings): Promise<void> {
    const { signal } = this.#closing;
    while (!signal.aborted) {
      try {
        const devices = await matchPaths(settings.device);
        const [device] = devices;
        if (devices.length > 1) this.#log.warn(`several devices match ${settings.device}: using ${device}`);
        if (device !== undefined && !signal.aborted) await this.#demux(settings, device);
      } catch (error) {
        this.#failure = toAgentError(error).message;
        this.#log.error(`demuxer: ${this.#failure}`);
      }
      this.#consoles = new Map();
      this.#changed();
      await sleep(settings.pollIntervalMs, undefined, { signal }).catch(() => {});
    }
  }

  /** One life of the tool. */
  async #demux({ demuxerPath, chip }: DemuxerSettings, device: string): Promise<void> {
    const child = await start([demuxerPath, "-m", chip, "-d", device]);
    this.#log.info(`demuxer runs on ${device}, pid ${child.pid}`);
    const { signal } = this.#closing;
    const stop = () => void terminate(child);
    signal.addEventListener("abort", stop);
    if (signal.aborted) stop();
    const exited = once(child, "exit");
    await Promise.all([
      this.#readConsoles(child.stdout as Readable),
      this.#readErrors(child.stderr as Readable),
      exited,
    ]);
    signal.removeEventListener("abort", stop);
    this.#log.info(`demuxer exited: ${child.signalCode ?? child.exitCode}`);
  }

  async #readConsoles(stdout: Readable): Promise<void> {
    for await (const line of lines(stdout)) {
      const [, path, target] = ptsLine.exec(line) ?? [];
      if (path === undefined || target === undefined) continue;
      this.#log.debug(`demuxer: ${target} is ${path}`);
      this.#consoles.set(target.trim(), path);
      this.#failure = undefined;
      this.#changed();
    }
  }

  async #readErrors(stderr: Readable): Promise<void> {
    for await (const line of lines(stderr)) {
      this.#log.warn(`demuxer: ${line}`);
      if (line.includes(lockError)) {
        this.#failure = line;
        this.#changed();
      }
    }
  }
}

async function start([file, ...args]: readonly [string, ...string[]]): Promise<ChildProcess> {
  await access(file, constants.X_OK);
  const guarded = await access(setpriv, constants.X_OK).then(
    () => true,
    () => false,
  );
  const child = guarded
    ? spawn(setpriv, ["--pdeathsig", "TERM", "--", file, ...args], { stdio: ["ignore", "pipe", "pipe"] })
    : spawn(file, args, { stdio: ["ignore", "pipe", "pipe"] });
  await once(child, "spawn");
  return child;
}

async function terminate(child: ChildProcess): Promise<void> {
  child.kill("SIGTERM");
  const timer = setTimeout(() => child.kill("SIGKILL"), graceMs);
  if (child.exitCode === null && child.signalCode === null) await once(child, "exit");
  clearTimeout(timer);
  // A child of the tool may hold the pipes.
  child.stdout?.destroy();
  child.stderr?.destroy();
}

/** No line of the tool is nearly that long; what follows without an end is thrown away. */
const longestLine = 4_096;

async function* lines(stream: Readable): AsyncGenerator<string> {
  let rest = "";
  try {
    for await (const chunk of stream.setEncoding("utf8") as AsyncIterable<string>) {
      const parts = (rest + chunk).split("\n");
      rest = (parts.pop() ?? "").slice(0, longestLine);
      for (const part of parts) yield part.trimEnd();
    }
  } catch {
    // Closed while we read: the end, too.
  }
  if (rest !== "") yield rest;
}
