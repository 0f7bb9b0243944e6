import { spawn, type ChildProcessWithoutNullStreams } from "node:child_process";
import { once } from "node:events";
import { accessSync, constants } from "node:fs";
import { mkdir, mkdtemp, open, rm } from "node:fs/promises";
import { createServer, type Server, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { delimiter, dirname, join } from "node:path";
import { AgentError, DeviceOffline } from "../../agent/driver/errors.ts";
import type { Logger } from "../../agent/driver/log.ts";
import { qemuCommand, type VirtualBoardConfig } from "./command.ts";
import { Console } from "./console.ts";

/** QEMU needs some 50 ms to reach its console; a host that swaps may need seconds. */
const startTimeoutMs = 20_000;
/** QEMU ends at once on SIGTERM unless the host's disk hangs. */
const stopTimeoutMs = 5_000;
const stderrTailBytes = 4_096;

/** A board made of QEMU: a power switch, a console and a disk image that both outlive a power cycle. */
export class VirtualMachine {
  readonly console = new Console();
  readonly #config: VirtualBoardConfig;
  readonly #log: Logger;
  #running: { child: ChildProcessWithoutNullStreams; exited: Promise<void> } | undefined;
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
    // The kernel ends QEMU with the agent, even when the agent is killed.
    const child = spawn("setpriv", ["--pdeathsig", "SIGKILL", program, ...args], { stdio: "pipe" });
    let stderr = "";
    child.stderr.on("data", (chunk: Buffer) => (stderr = (stderr + chunk.toString()).slice(-stderrTailBytes)));
    const exited = new Promise<void>((resolve) => {
      child.once("error", (error) => ((stderr += error.message), resolve()));
      child.once("close", () => resolve());
    });
    const timer = setTimeout(() => {
      stderr += `\nnot ready after ${startTimeoutMs / 1000} s`;
      child.kill("SIGKILL");
    }, startTimeoutMs);
    const connection = new Promise<Socket>((resolve) => {
      // A console that goes away ends like any other; the error says nothing new.
      server.once("connection", (socket) => resolve(socket.on("error", () => {})));
    });
    const started = await Promise.race([Promise.all([connection, answer(child)]), exited]);
    clearTimeout(timer);
    server.removeAllListeners("connection");
    if (started === undefined) throw new AgentError("E_FAILED", `${program} did not start: ${lastLines(stderr)}`);
    this.console.plug(started[0]);
    const running = { child, exited };
    this.#running = running;
    void exited.then(() => {
      if (this.#running !== running) return;
      this.#running = undefined;
      // A guest that switches itself off leaves with status 0.
      if (child.exitCode === 0) this.#log.info("the board has switched itself off");
      else this.#log.error(`${program} died (${child.signalCode ?? child.exitCode}): ${lastLines(stderr)}`);
    });
  }

  async #stop(): Promise<void> {
    const running = this.#running;
    this.#running = undefined;
    if (running === undefined) return;
    running.child.kill("SIGTERM");
    const timer = setTimeout(() => running.child.kill("SIGKILL"), stopTimeoutMs);
    await running.exited;
    clearTimeout(timer);
  }
}

/** Asks QEMU's control protocol (QMP) for an answer; QEMU gives it as soon as the machine is complete. */
async function answer({ stdin, stdout }: ChildProcessWithoutNullStreams): Promise<void> {
  stdin.on("error", () => {});
  stdin.write('{"execute":"qmp_capabilities"}\n');
  let said = "";
  await new Promise<void>((resolve) => {
    stdout.on("data", (chunk: Buffer) => {
      if (said.length < 4096 && (said += chunk.toString()).includes('"return"')) resolve();
    });
  });
}

/** @throws DeviceOffline if QEMU, the firmware or setpriv is not installed, with what to install as the hint. */
export function assertInstalled(config: VirtualBoardConfig): void {
  const { program, firmware, debianPackages } = qemuCommand(config, "");
  const missing = [program, "setpriv"].find((name) => !onPath(name)) ?? (isReadable(firmware) ? undefined : firmware);
  if (missing === undefined) return;
  const hint = `apt install ${debianPackages.join(" ")}`;
  throw new DeviceOffline(`${missing} is missing, the virtual board cannot run (${hint})`, { hint });
}

function onPath(program: string): boolean {
  const directories = (process.env["PATH"] ?? "").split(delimiter).filter((directory) => directory !== "");
  return directories.some((directory) => isReadable(join(directory, program), constants.X_OK));
}

function isReadable(path: string, mode = constants.R_OK): boolean {
  try {
    accessSync(path, mode);
    return true;
  } catch {
    return false;
  }
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

function lastLines(text: string): string {
  return text.trim().split("\n").slice(-3).join(" / ") || "it printed nothing";
}
