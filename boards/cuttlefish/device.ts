import { execFile } from "node:child_process";
import { setTimeout as sleep } from "node:timers/promises";
import { promisify } from "node:util";
import * as z from "zod";
import { AgentError, toAgentError } from "../../agent/driver/errors.ts";
import * as lax from "../../agent/driver/lax.ts";
import { adbPortOf, cvdPath } from "./protocol.ts";
import { NotThere, Orchestrator } from "./transport.ts";

const execute = promisify(execFile);

const getpropLimitMs = 10_000;
const pollMs = 1_000;

const name = z.union([z.string().min(1), z.number().transform(String)]);

export const cuttlefishConfig = z.strictObject({
  scheme: z.enum(["http", "https"]).default("http"),
  host: z.string().min(1).default("localhost").describe("the host orchestrator"),
  port: lax.port().prefault(2080).describe("its TCP port"),
  group: name.default("cvd").describe("group of the device"),
  name: name.default("1").describe("name of the device"),
  instance_num: lax.int(1, 1_000).prefault(1).describe("number of the device on its host; its ADB port is 6519 more"),
  adb_server_port: lax.port().prefault(15_037).describe("TCP port of the ADB server on this host"),
  boot_timeout: lax
    .number()
    .pipe(z.number().positive("must be more than 0").max(86_400))
    .prefault(300)
    .describe("seconds that starting and booting may take"),
  env_config: z.record(z.string(), z.unknown()).default({}).describe("environment that power on makes the device of"),
  webrtc_url: z.string().default("").describe("where a browser sees the screen; empty: at the host orchestrator"),
});
export type CuttlefishConfig = z.output<typeof cuttlefishConfig>;

/** One device of one host orchestrator. */
export class CuttlefishDevice {
  readonly orchestrator: Orchestrator;
  readonly adbPort: number;
  readonly #config: CuttlefishConfig;
  /** Connects the ADB server to it. */
  connectAdb: (device: string, signal: AbortSignal) => Promise<unknown> = () => Promise.resolve();

  constructor(
    config: CuttlefishConfig,
    orchestrator = new Orchestrator(`${config.scheme}://${config.host}:${config.port}`),
  ) {
    this.#config = config;
    this.orchestrator = orchestrator;
    this.adbPort = adbPortOf(config.instance_num);
  }

  get #path(): string {
    return cvdPath(this.#config.group, this.#config.name);
  }

  get #limitMs(): number {
    return this.#config.boot_timeout * 1000;
  }

  get webrtcUrl(): string {
    return this.#config.webrtc_url || this.orchestrator.base;
  }

  close(): Promise<void> {
    return this.orchestrator.close();
  }

  show(signal: AbortSignal): Promise<unknown> {
    return this.orchestrator.ask("GET", this.#path, signal);
  }

  /** @param action `start`, `stop`, `restart`, `powerwash` or `powerbtn` */
  act(action: string, signal: AbortSignal): Promise<unknown> {
    return this.orchestrator.perform("POST", `${this.#path}/:${action}`, signal, this.#limitMs);
  }

  create(environment: unknown, signal: AbortSignal): Promise<unknown> {
    return this.orchestrator.perform("POST", "/cvds", signal, this.#limitMs, { env_config: environment });
  }

  delete(signal: AbortSignal): Promise<unknown> {
    return this.orchestrator.perform("DELETE", this.#path, signal, this.#limitMs);
  }

  reset(signal: AbortSignal): Promise<unknown> {
    return this.orchestrator.perform("POST", "/reset", signal, this.#limitMs);
  }

  /** Starts it; one that is not there yet is made, which starts it. */
  async on(signal: AbortSignal): Promise<void> {
    try {
      await this.show(signal);
    } catch (error) {
      if (!(error instanceof NotThere) || Object.keys(this.#config.env_config).length === 0) throw error;
      await this.create(this.#config.env_config, signal);
      return;
    }
    await this.act("start", signal);
  }

  async off(destroys: boolean, signal: AbortSignal): Promise<void> {
    if (destroys) await this.delete(signal);
    else await this.act("stop", signal);
  }

  /** @returns seconds that it took. @throws AgentError E_TIMEOUT with what went wrong last */
  async booted(seconds: number, signal: AbortSignal): Promise<number> {
    const began = performance.now();
    const limitS = seconds > 0 ? seconds : this.#config.boot_timeout;
    const device = `${this.#config.host}:${this.adbPort}`;
    for (;;) {
      let last: string;
      try {
        await this.connectAdb(device, signal);
        const { stdout } = await execute("adb", ["-s", device, "shell", "getprop", "sys.boot_completed"], {
          env: { ...process.env, ANDROID_ADB_SERVER_PORT: `${this.#config.adb_server_port}` },
          timeout: getpropLimitMs,
          killSignal: "SIGKILL",
          signal,
        });
        if (stdout.trim() === "1") return (performance.now() - began) / 1000;
        last = "sys.boot_completed is not 1";
      } catch (thrown) {
        signal.throwIfAborted();
        const error = toAgentError(thrown);
        // A device that boots refuses; a server that is not there does not come by waiting.
        if (error.code === "E_DEVICE_OFFLINE") throw error;
        last = error.message;
      }
      if (performance.now() - began > limitS * 1000) {
        throw new AgentError("E_TIMEOUT", `${device} has not booted after ${limitS}s: ${last}`);
      }
      await sleep(pollMs, undefined, { signal });
    }
  }
}
