import { once } from "node:events";
import { mkdtempSync } from "node:fs";
import { rename, rm } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { AgentError } from "../../agent/driver/errors.ts";
import type { Logger } from "../../agent/driver/log.ts";
import { anySignal } from "../../agent/sys/any-signal.ts";
import { describeExit, findProgram, startProgram, type Exit, type Program } from "../../agent/sys/program.ts";
import { Turns } from "../power/turns.ts";
import type { RenodeConfig } from "./config.ts";
import { Monitor } from "./monitor.ts";
import { machineCommands, type LoadCommand } from "./protocol.ts";

/** `quit` is asked for nicely, and nobody waits long for it. */
const quitMs = 500;

interface Running {
  readonly program: Program;
  /** Of its monitor. */
  readonly port: number;
  /** Aborted when the process ends. */
  readonly over: AbortController;
  monitor: Monitor | undefined;
}

/** A machine in Renode: its process, its monitor, and the firmware that it starts with. */
export class RenodeMachine {
  /** Nobody else's. */
  readonly directory = mkdtempSync(join(tmpdir(), "jmp-renode-"));
  readonly pty = join(this.directory, "pty");
  readonly #config: RenodeConfig;
  readonly #log: Logger;
  readonly #turns = new Turns();
  #running: Running | undefined;
  #load: string | undefined;

  constructor(config: RenodeConfig, log: Logger) {
    this.#config = config;
    this.#log = log;
  }

  on(signal: AbortSignal): Promise<void> {
    return this.#turns.take(signal, async () => {
      if (this.#running !== undefined) return this.#log.warn("already powered on, ignoring request");
      const running = await this.#spawn();
      const either = anySignal([signal, running.over.signal]);
      try {
        const { machine_name: name, start_timeout_seconds: seconds, ...config } = this.#config;
        const monitor = await Monitor.connect(running.port, name, seconds * 1000, either);
        running.monitor = monitor;
        const { platform, uart, extra_commands: extra } = config;
        for (const command of machineCommands({ name, platform, uart, extra, pty: this.pty })) {
          await monitor.execute(command, either);
        }
        if (this.#load !== undefined) await monitor.execute(this.#load.replace("@", ""), either);
        await monitor.execute("start", either);
        this.#log.info("Renode simulation started");
      } catch (error) {
        await this.#stop();
        throw error;
      }
    });
  }

  off(signal: AbortSignal): Promise<void> {
    return this.#turns.take(signal, async () => {
      if (this.#running === undefined) return this.#log.warn("already powered off, ignoring request");
      await this.#stop();
    });
  }

  /** @throws AgentError E_FAILED if it is off, or has crashed; what the monitor has against the command */
  execute(command: string, signal: AbortSignal): Promise<string> {
    return this.#turns.take(signal, () => this.#execute(command, signal));
  }

  /**
   * Takes a firmware for the next start; a machine that runs gets it now.
   * @param path a file that becomes ours. Same file system as `directory`
   */
  flash(path: string, load: LoadCommand, signal: AbortSignal): Promise<void> {
    return this.#turns.take(signal, async () => {
      const firmware = join(this.directory, "firmware");
      await rename(path, firmware);
      const address = load === "sysbus LoadBinary" ? ` ${this.#config.load_address}` : "";
      this.#load = `${load} @"${firmware}"${address}`;
      if (this.#running === undefined) return;
      await this.#execute(this.#load, signal);
      await this.#execute("machine Reset", signal);
      this.#log.info("firmware hot-loaded and machine reset");
    });
  }

  /** Off, and without a firmware: as a lease finds it. */
  async reset(): Promise<void> {
    await this.#turns.take(new AbortController().signal, async () => {
      await this.#stop();
      this.#load = undefined;
      await rm(join(this.directory, "firmware"), { force: true });
    });
  }

  async close(): Promise<void> {
    await this.reset();
    await rm(this.directory, { recursive: true, force: true });
  }

  #execute(command: string, signal: AbortSignal): Promise<string> {
    const running = this.#running;
    if (running?.monitor === undefined) throw new AgentError("E_FAILED", "Renode is not running");
    return running.monitor.execute(command, anySignal([signal, running.over.signal]));
  }

  async #spawn(): Promise<Running> {
    if (findProgram("renode") === undefined) {
      throw new AgentError("E_IO", "renode executable not found in PATH. Install Renode from https://renode.io/");
    }
    const port = this.#config.monitor_port === 0 ? await freePort() : this.#config.monitor_port;
    const args = ["--disable-xwt", "--plain", "--port", `${port}`];
    this.#log.info(`starting Renode: renode ${args.join(" ")}`);
    const program = await startProgram(["renode", ...args], { cwd: this.directory });
    const running: Running = { program, port, over: new AbortController(), monitor: undefined };
    void program.ended.then((exit) => this.#hasEnded(running, exit));
    this.#running = running;
    return running;
  }

  /** The process has gone by itself, if nobody has taken it out before. */
  #hasEnded(running: Running, exit: Exit): void {
    const { program, over, monitor } = running;
    const error = new AgentError("E_FAILED", `Renode has ended (${describeExit(exit)}): ${program.lastWords}`);
    over.abort(error);
    monitor?.close();
    if (this.#running !== running) return;
    this.#running = undefined;
    this.#log.error(error.message);
  }

  async #stop(): Promise<void> {
    const running = this.#running;
    this.#running = undefined;
    if (running === undefined) return;
    const { program, monitor } = running;
    monitor?.say("quit");
    if (monitor !== undefined) await Promise.race([program.ended, sleep(quitMs, undefined, { ref: false })]);
    await program.stop();
    monitor?.close();
    // Whoever opens the console next must not find that of a machine that has gone.
    await rm(this.pty, { force: true });
  }
}

/** Renode takes a number only: it may be another's a moment later, and then it does not start. */
async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as { port: number };
  server.close();
  await once(server, "close");
  return port;
}
