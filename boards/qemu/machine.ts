import { randomInt, randomUUID } from "node:crypto";
import { constants } from "node:fs";
import { rm } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { AgentError, DeviceOffline } from "../../agent/driver/errors.ts";
import type { Logger } from "../../agent/driver/log.ts";
import { dial } from "../../agent/stream/dial.ts";
import { anySignal } from "../../agent/sys/any-signal.ts";
import { loadTermios } from "../../agent/sys/termios.ts";
import { Turns } from "../power/turns.ts";
import { openTty } from "../serial/transport.ts";
import { qemuWords, socketsOf, type QemuFiles } from "./arguments.ts";
import { writeCloudInit } from "./cloud-init.ts";
import type { QemuConfig } from "./config.ts";
import { Console } from "./console.ts";
import { growImage, inspectImage } from "./images.ts";
import { assertInstalled, isAccessible, QemuProcess } from "./process.ts";
import { serialTerminal } from "./protocol.ts";
import { Qmp, type QmpEvent } from "./qmp.ts";
import { sizeOf } from "./sizes.ts";
import { WorkFolder } from "./work.ts";

/** QEMU takes half a second to come up; a host that swaps may need more. */
const usualStartTimeoutMs = 20_000;
const pollMs = 20;
/** Numbers of guests are drawn; another machine of this host may have the same. */
const cidAttempts = 5;
const never = new AbortController().signal;

interface Running {
  readonly process: QemuProcess;
  readonly qmp: Qmp;
  readonly vnc: string;
  readonly cid: number | undefined;
}

export const hasVsock = (): boolean => isAccessible("/dev/vhost-vsock", constants.R_OK | constants.W_OK);

/** A virtual machine as one exporter has it: its images, its sizes and its process. Switching is done one at a time. */
export class QemuMachine {
  readonly console = new Console();
  readonly work: WorkFolder;
  readonly #config: QemuConfig;
  readonly #log: Logger;
  readonly #startTimeoutMs: number;
  readonly #turns = new Turns();
  #running: Running | undefined;
  /** How the last one ended, if nobody had asked for it. */
  #death: string | undefined;
  #diskSize: string | null;
  /** As `-m` takes it. */
  #memory: string;
  /** cloud-init does its work once for each: a lease's machine is another one. */
  #instanceId: string = randomUUID();

  constructor(config: QemuConfig, log: Logger, { startTimeoutMs = usualStartTimeoutMs } = {}) {
    this.#startTimeoutMs = startTimeoutMs;
    this.#config = config;
    this.#log = log;
    this.#diskSize = config.disk_size;
    this.#memory = config.mem;
    this.work = new WorkFolder(config.work_dir, config.default_partitions);
  }

  get isOn(): boolean {
    return this.#running !== undefined;
  }

  /** For the next start. @throws AgentError E_INVALID */
  setDiskSize(size: string): void {
    sizeOf(size);
    this.#diskSize = size;
  }

  /** For the next start. @throws AgentError E_INVALID */
  setMemorySize(size: string): void {
    this.#memory = `${Math.ceil(sizeOf(size) / 2 ** 20)}M`;
  }

  /** Starts it. On already: nothing happens. @throws AgentError with what QEMU says if it does not start */
  on(signal: AbortSignal): Promise<void> {
    return this.#turns.take(signal, async () => {
      if (this.#running !== undefined) return this.#log.warn("already powered on, ignoring request");
      if (this.#death !== undefined) this.#log.warn(`starting again what had ended by itself: ${this.#death}`);
      await this.#start(signal);
      this.#death = undefined;
    });
  }

  /** Cuts the power, after the guest had the configured time to shut down. Off already: nothing happens. */
  off(): Promise<void> {
    return this.#turns.take(never, () => this.#stop());
  }

  /** What a lease leaves behind goes: the running machine, its images, sizes that were set, console output. */
  async release(): Promise<void> {
    await this.#turns.take(never, async () => {
      await this.#stop({ graceS: 0 });
      await this.work.remove();
      this.console.forget();
      this.#death = undefined;
      this.#diskSize = this.#config.disk_size;
      this.#memory = this.#config.mem;
      this.#instanceId = randomUUID();
    });
  }

  async close(): Promise<void> {
    await this.release();
    this.console.close();
  }

  /** Path of the socket that speaks RFB. @throws DeviceOffline while it is off */
  get vnc(): string {
    return this.#on().vnc;
  }

  /** The guest's address among virtual sockets. @throws DeviceOffline while it is off; E_UNSUPPORTED */
  get cid(): number {
    const { cid } = this.#on();
    if (cid === undefined) throw new AgentError("E_UNSUPPORTED", "/dev/vhost-vsock of this host cannot be used");
    return cid;
  }

  /** A break on the console. @throws DeviceOffline while it is off; what QEMU says */
  async sendBreak(): Promise<void> {
    await this.#on().qmp.execute("chardev-send-break", { id: "serial0" });
  }

  #on(): Running {
    if (this.#running !== undefined) return this.#running;
    throw new DeviceOffline(`the virtual machine is off${this.#death === undefined ? "" : `: ${this.#death}`}`);
  }

  async #start(signal: AbortSignal): Promise<void> {
    const directory = await this.work.path();
    const files = await this.#files(signal);
    const { hostname, username, password } = this.#config;
    await writeCloudInit(join(directory, "cidata"), { instanceId: this.#instanceId, hostname, username, password });
    this.console.forget();
    for (let attempt = 1; ; attempt += 1) {
      const cid = hasVsock() ? randomInt(3, 0xffff_ffff) : undefined;
      const words = { config: this.#config, kvm: usesKvm(this.#config), memory: this.#memory, directory, cid, files };
      const process = new QemuProcess(...qemuWords(words));
      try {
        const qmp = await this.#bringUp(process, directory, signal);
        return this.#follow({ process, qmp, cid, vnc: socketsOf(directory).vnc });
      } catch (error) {
        const isTaken = /guest.cid.*in use/i.test(process.stderr);
        if (!isTaken || attempt === cidAttempts || signal.aborted) throw error;
      }
    }
  }

  /** What to start from; the root image as large as it is wanted. */
  async #files(signal: AbortSignal): Promise<QemuFiles> {
    const [bios, code, vars, root] = await Promise.all(
      (["bios", "OVMF_CODE.fd", "OVMF_VARS.fd", "root"] as const).map((name) => this.work.find(name)),
    );
    if ((code === undefined) !== (vars === undefined)) {
      this.#log.warn(
        `OVMF_CODE.fd and OVMF_VARS.fd go together; without ${code ? "OVMF_VARS.fd" : "OVMF_CODE.fd"} both are left out`,
      );
    }
    const image = root && (await inspectImage(root.path, root, signal));
    if (image !== undefined && this.#diskSize !== null) await growImage(image, sizeOf(this.#diskSize), signal);
    return { bios: bios?.path, ovmf: code && vars && { code: code.path, vars: vars.path }, root: image };
  }

  /** Done when the guest runs and its console is heard. Else nothing runs any more. */
  async #bringUp(process: QemuProcess, directory: string, outer: AbortSignal): Promise<Qmp> {
    const giveUp = new AbortController();
    const signal = anySignal([outer, giveUp.signal]);
    const late = `${process.program} is not ready after ${this.#startTimeoutMs / 1_000} s`;
    const timer = setTimeout(() => giveUp.abort(new AgentError("E_TIMEOUT", late)), this.#startTimeoutMs);
    void process.exited.then(() => giveUp.abort(didNotStart(process)));
    process.child.stdout.resume();
    try {
      const connection = await connect(socketsOf(directory).qmp, signal);
      void process.exited.then(() => connection.destroy());
      const qmp = new Qmp(connection, connection, (event) => this.#tell(event));
      await qmp.negotiate(signal);
      const terminal = serialTerminal(await qmp.execute("query-chardev", undefined, signal));
      if (terminal === undefined) throw new AgentError("E_FAILED", "QEMU names no terminal for the console");
      const settings = { baudRate: 115_200, disableHupcl: false };
      const { stream } = await openTty(terminal, settings, new Map(), await loadTermios(), this.#log);
      this.console.plug(stream);
      await qmp.execute("cont", undefined, signal);
      return qmp;
    } catch (error) {
      // Its connections may end before it does; why it ends says more.
      await Promise.race([process.exited, sleep(pollMs * 10)]);
      const reason: unknown = signal.aborted ? signal.reason : error;
      await process.stop();
      throw reason;
    } finally {
      clearTimeout(timer);
    }
  }

  /** From now on it is the running one, until it ends. */
  #follow(running: Running): void {
    const { process } = running;
    this.#running = running;
    void process.exited.then(() => {
      if (this.#running !== running) return;
      this.#running = undefined;
      if (process.endedWell) {
        this.#death = "it has switched itself off";
        return this.#log.info("the virtual machine has switched itself off");
      }
      this.#death = process.obituary;
      this.#log.error(this.#death);
      this.console.fail(new DeviceOffline(this.#death));
    });
  }

  async #stop({ graceS = this.#config.shutdown_grace } = {}): Promise<void> {
    const running = this.#running;
    this.#running = undefined;
    if (running === undefined) return;
    const { process, qmp } = running;
    if (graceS > 0) {
      // Whether the guest has heard it shows by its end.
      qmp.execute("system_powerdown").catch(() => {});
      const isDown = await within(graceS * 1_000, process.exited);
      if (!isDown) this.#log.warn(`the guest has not shut down within ${graceS} s: its power is cut`);
    }
    await process.stop();
    await rm(join(await this.work.path(), "cidata"), { recursive: true, force: true });
  }

  #tell({ name, data }: QmpEvent): void {
    const text = `QEMU ${this.#config.hostname}: ${name} ${JSON.stringify(data)}`;
    if (name === "GUEST_PANICKED" || name === "BLOCK_IO_ERROR") this.#log.warn(text);
    else this.#log.debug(text);
  }
}

function usesKvm({ arch, accel }: QemuConfig): boolean {
  if (accel !== "auto") return accel === "kvm";
  const own = { x64: "x86_64", arm64: "aarch64" }[process.arch as string];
  return arch === own && isAccessible("/dev/kvm", constants.R_OK | constants.W_OK);
}

const didNotStart = (process: QemuProcess) =>
  new AgentError("E_FAILED", `${process.program} did not start: ${process.lastWords}`);

/** QEMU makes its socket some time after it was started. */
async function connect(path: string, signal: AbortSignal) {
  for (;;) {
    try {
      return await dial({ path }, "QEMU's control socket", signal);
    } catch (error) {
      if (signal.aborted) throw signal.reason;
      const { code } = error as { code?: unknown };
      if (code !== "ENOENT" && code !== "ECONNREFUSED") throw error;
      await sleep(pollMs, undefined, { signal });
    }
  }
}

async function within(limitMs: number, work: Promise<void>): Promise<boolean> {
  const over = new AbortController();
  try {
    return await Promise.race([work.then(() => true), sleep(limitMs, false, { signal: over.signal })]);
  } finally {
    over.abort();
  }
}

const debianPackages: Readonly<Record<string, string>> = { aarch64: "qemu-system-arm", x86_64: "qemu-system-x86" };

/** Programs that a machine of this configuration is made of. */
export const programsOf = ({ arch }: Pick<QemuConfig, "arch">): string[] => [`qemu-system-${arch}`, "qemu-img"];

/** @throws DeviceOffline if QEMU is not installed, with what to install as the hint */
export function assertCanRun(config: QemuConfig): void {
  const packages = [debianPackages[config.arch] ?? "qemu-system-misc", "qemu-utils"];
  assertInstalled("virtual machine", { programs: programsOf(config), files: [], debianPackages: packages });
}
