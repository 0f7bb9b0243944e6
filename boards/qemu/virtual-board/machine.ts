import { once } from "node:events";
import { mkdir, mkdtemp, open, rm } from "node:fs/promises";
import { createServer, type Server, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { AgentError } from "../../../agent/driver/errors.ts";
import type { Logger } from "../../../agent/driver/log.ts";
import { qemuCommand, type VirtualBoardConfig } from "./command.ts";
import { Console } from "../console.ts";
import { assertInstalled, QemuProcess } from "../process.ts";
import { Qmp } from "../qmp.ts";

/** QEMU needs some 50 ms to reach its console; a host that swaps may need seconds. */
const startTimeoutMs = 20_000;

/** A board made of QEMU: a power switch, a console and a disk image that both outlive a power cycle. */
export class VirtualMachine {
  readonly console = new Console();
  readonly #config: VirtualBoardConfig;
  readonly #log: Logger;
  #running: QemuProcess | undefined;
  #listener: { server: Server; directory: string; path: string } | undefined;
  /** Switching is done one at a time. */
  #queue: Promise<unknown> = Promise.resolve();

  constructor(config: VirtualBoardConfig, log: Logger) {
    this.#config = config;
    this.#log = log;
  }

  get isOn(): boolean {
    return this.#running !== undefined;
  }

  /** Starts the machine; done when its console is connected. On already: nothing happens. */
  on(): Promise<void> {
    return this.#inTurn(() => this.#start());
  }

  /** Cuts the power. Off already: nothing happens. */
  off(): Promise<void> {
    return this.#inTurn(() => this.#stop());
  }

  async close(): Promise<void> {
    await this.off();
    this.console.close();
    const listener = this.#listener;
    this.#listener = undefined;
    if (listener === undefined) return;
    listener.server.close();
    await rm(listener.directory, { recursive: true, force: true });
  }

  #inTurn(action: () => Promise<void>): Promise<void> {
    const done = this.#queue.then(action);
    this.#queue = done.catch(() => {});
    return done;
  }

  async #start(): Promise<void> {
    if (this.#running !== undefined) return this.#log.warn("power on: the board is on already");
    await makeDisk(this.#config.disk, this.#config.disk_size);
    this.#listener ??= await listenPrivately();
    const { server, path } = this.#listener;
    const { program, args } = qemuCommand(this.#config, path);
    const running = new QemuProcess(program, args);
    const { stdout, stdin } = running.child;
    let late = "";
    const timer = setTimeout(() => {
      late = `; it is not ready after ${startTimeoutMs / 1000} s`;
      running.kill();
    }, startTimeoutMs);
    const connection = new Promise<Socket>((resolve) => {
      // A console that goes away ends like any other; the error says nothing new.
      server.once("connection", (socket) => resolve(socket.on("error", () => {})));
    });
    // QEMU answers as soon as the machine is complete. If it ends instead, that says why.
    const answered = new Qmp(stdout, stdin).negotiate().catch(() => new Promise<never>(() => {}));
    const started = await Promise.race([Promise.all([connection, answered]), running.exited]);
    clearTimeout(timer);
    server.removeAllListeners("connection");
    if (started === undefined) {
      throw new AgentError("E_FAILED", `${program} did not start: ${running.lastWords}${late}`);
    }
    this.console.plug(started[0]);
    this.#running = running;
    void running.exited.then(() => {
      if (this.#running !== running) return;
      this.#running = undefined;
      if (running.endedWell) this.#log.info("the board has switched itself off");
      else this.#log.error(running.obituary);
    });
  }

  async #stop(): Promise<void> {
    const running = this.#running;
    this.#running = undefined;
    await running?.stop();
  }
}

/** @throws DeviceOffline if QEMU, the firmware or setpriv is not installed, with what to install as the hint. */
export function assertCanRun(config: VirtualBoardConfig): void {
  const { program, firmware, debianPackages } = qemuCommand(config, "");
  assertInstalled("virtual board", { programs: [program], files: [firmware], debianPackages });
}

/** Makes a disk full of holes, if there is none yet. */
async function makeDisk(path: string, bytes: number): Promise<void> {
  await mkdir(dirname(path), { recursive: true });
  const file = await open(path, "a");
  try {
    if ((await file.stat()).size === 0) await file.truncate(bytes);
  } finally {
    await file.close();
  }
}

/** A unix socket that only this user can reach. */
async function listenPrivately(): Promise<{ server: Server; directory: string; path: string }> {
  const directory = await mkdtemp(join(tmpdir(), "virtual-board-"));
  const path = join(directory, "console");
  const server = createServer();
  server.listen(path);
  await once(server, "listening");
  return { server, directory, path };
}
