import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { GetReportResponse } from "../../proto/gen/jumpstarter/v1/jumpstarter.ts";
import { clientLabel } from "../client/report.ts";
import type { Bridge, BridgeContext, BridgedReport, BridgedStream } from "../driver/bridge.ts";
import type { Cancellable } from "../driver/driver.ts";
import { DeviceOffline, toAgentError } from "../driver/errors.ts";
import { severities, type Severity } from "../driver/log.ts";
import { Connections } from "./connections.ts";
import { HostProcess, type Record } from "./host-process.ts";
import { findPython, pythonVariable } from "./python.ts";
import type { SideCarConfig } from "./config.ts";
import { asPython } from "./config.ts";

/** How long it is waited for: then the driver is offline, and comes when it is there. */
const patienceMs = 10_000;
/** From the start of the process to its first report, and from the begin of a session until it serves; then it is killed. */
const limitMs = 60_000;
/** What drivers may take to close. */
const closeMs = 5_000;

/**
 * A Python driver, in a process of its own. The process stays while the agent runs; the drivers in it are built, reset
 * and closed anew for each lease, as the Python exporter does.
 */
export class SideCar implements Bridge {
  readonly #context: BridgeContext<SideCarConfig>;
  reports: readonly BridgedReport[] = [];
  client: string | undefined;
  #host: HostProcess | undefined;
  /** Whether it has loaded the driver. */
  #ready = false;
  #directory: string | undefined;
  #starting: Promise<void> | undefined;
  #session: Promise<Connections> | undefined;
  #sessions = 0;

  constructor(context: BridgeContext<SideCarConfig>) {
    this.#context = context;
  }

  /** Starts the process, if it does not run. @throws DeviceOffline */
  async open(): Promise<void> {
    if (this.#ready && this.#host?.alive === true) return;
    this.#starting ??= this.#start().finally(() => (this.#starting = undefined));
    const starting = this.#starting;
    const patience = new AbortController();
    const late = sleep(patienceMs, "late", { signal: patience.signal }).catch(() => "in time");
    try {
      if ((await Promise.race([starting, late])) !== "late") return;
    } finally {
      patience.abort();
    }
    starting.then(this.#context.changed, () => {});
    throw new DeviceOffline(`its Python process is still starting after ${patienceMs / 1_000} s`);
  }

  /** @throws DeviceOffline if the process has ended */
  async check(): Promise<void> {
    if (this.#host === undefined || this.#host.alive) return;
    throw new DeviceOffline(await this.#host.ended);
  }

  /** Begins a session. @throws DeviceOffline */
  async reset(): Promise<void> {
    await this.#begun();
  }

  async release(): Promise<void> {
    const session = this.#session;
    this.#session = undefined;
    if (session === undefined) return;
    const host = this.#host;
    const begun = await session.catch(() => undefined);
    begun?.close();
    if (host?.alive !== true) return;
    try {
      await within(host, closeMs, host.ask({ do: "end" }, "ended"));
    } catch (thrown) {
      this.#context.log.warn(`${this.#context.path} did not close: ${toAgentError(thrown).message}`);
    }
  }

  async close(): Promise<void> {
    const session = await this.#session?.catch(() => undefined);
    this.#session = undefined;
    session?.close();
    const host = this.#host;
    const directory = this.#directory;
    this.#host = undefined;
    this.#ready = false;
    this.#directory = undefined;
    await host?.close(closeMs);
    if (directory !== undefined) await rm(directory, { recursive: true, force: true });
  }

  async call(message: Uint8Array, caller: Cancellable): Promise<Uint8Array> {
    return await (await this.#begun()).unary(message, caller);
  }

  async *streamingCall(message: Uint8Array, caller: Cancellable): AsyncGenerator<Uint8Array, void, undefined> {
    yield* (await this.#begun()).streaming(message, caller);
  }

  async stream(request: object, caller: Cancellable): Promise<BridgedStream> {
    return await (await this.#begun()).stream(request, caller);
  }

  async #start(): Promise<void> {
    const { config, signal, uuid } = this.#context;
    await this.close();
    const python = findPython(config.python);
    if (python === undefined) {
      throw new DeviceOffline(`no Python for ${config.type}`, { hint: `set ${pythonVariable}` });
    }
    signal.throwIfAborted();
    const directory = await mkdtemp(join(tmpdir(), "jmp-agent-"));
    this.#directory = directory;
    const host = new HostProcess({
      python,
      directory,
      env: process.env,
      onRecord: (record) => this.#publish(record),
      onPrinted: (line, on) =>
        this.#context.log[on === "stdout" ? "info" : "warn"](line, { driver: this.#context.path }),
    });
    this.#host = host;
    const abort = () => host.kill("the driver is closing");
    signal.addEventListener("abort", abort, { once: true });
    try {
      const { client, version } = await within(
        host,
        limitMs,
        host.ask({ do: "load", entry: asPython(config), uuid }, "loaded"),
      );
      this.client = client;
      this.#context.log.debug(`${config.type} of Jumpstarter ${version} is run by ${python}, process ${host.pid}`);
      // As the Python exporter does to register: what the drivers are is known when they are built.
      if (this.reports.length === 0) {
        await this.#build(host);
        await within(host, closeMs, host.ask({ do: "end" }, "ended"));
      }
    } catch (thrown) {
      const { message } = toAgentError(thrown);
      host.kill(message);
      await this.close();
      throw new DeviceOffline(message, { cause: thrown });
    } finally {
      signal.removeEventListener("abort", abort);
    }
    this.#ready = true;
    void host.ended.then(() => {
      if (this.#host === host) this.#context.changed();
    });
  }

  #begun(): Promise<Connections> {
    if (this.#session !== undefined) return this.#session;
    const begun = this.#begin();
    this.#session = begun;
    // The next call tries again.
    begun.catch(() => {
      if (this.#session === begun) this.#session = undefined;
    });
    return begun;
  }

  async #begin(): Promise<Connections> {
    const host = this.#host;
    if (host === undefined) throw new DeviceOffline("its Python process does not run");
    try {
      return await this.#build(host);
    } catch (thrown) {
      throw new DeviceOffline(toAgentError(thrown).message, { cause: thrown });
    }
  }

  /** Builds the drivers, resets and serves them. */
  async #build(host: HostProcess): Promise<Connections> {
    this.#sessions += 1;
    const socket = join(this.#directory ?? "", `session-${this.#sessions}`);
    const { report } = await within(host, limitMs, host.ask({ do: "begin", socket }, "begun"));
    this.reports = GetReportResponse.decode(Buffer.from(report, "base64")).reports;
    this.client = this.reports[0]?.labels[clientLabel] ?? this.client;
    return new Connections(socket, async () => {
      // A call ends without an answer because its process does.
      const reason = await Promise.race([host.ended, sleep(lastWordsMs, undefined, { ref: false })]);
      return new DeviceOffline(reason ?? "its Python process has hung up");
    });
  }

  #publish({ logger, level, text }: Record): void {
    const severity = severities.find((known) => known === level) ?? ("INFO" satisfies Severity);
    const isDriver = logger.startsWith("driver.");
    this.#context.logs.publish({
      time: new Date(),
      severity,
      message: text,
      source: isDriver ? "driver" : "system",
      logger,
      fields: { driver: this.#context.path },
    });
  }
}

/** How long an ended process may take to say why. */
const lastWordsMs = 1_000;

/** Waits for an answer; a process that does not give it in time is killed. */
async function within<T>(host: HostProcess, limitMs: number, answer: Promise<T>): Promise<T> {
  const late = setTimeout(() => host.kill(`its Python process says nothing for ${limitMs / 1_000} s`), limitMs);
  try {
    return await answer;
  } finally {
    clearTimeout(late);
  }
}
