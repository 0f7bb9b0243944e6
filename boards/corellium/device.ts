import { setTimeout as sleep } from "node:timers/promises";
import * as z from "zod";
import type { OpenContext } from "../../agent/driver/driver.ts";
import { AgentError, DeviceOffline } from "../../agent/driver/errors.ts";
import * as lax from "../../agent/driver/lax.ts";
import type { Logger } from "../../agent/driver/log.ts";
import { Turns } from "../power/turns.ts";
import { consoleAddress, consoles, created, instances, models, newInstance, paths, projects } from "./protocol.ts";
import type { Instance } from "./protocol.ts";
import { openApi, type Api } from "./transport.ts";

/** `config:` of a Corellium device. */
export const deviceConfig = z.strictObject({
  project_id: z.string().min(1).describe("project that the device lies in, by its id or name"),
  device_name: z.string().min(1).describe("name or id of the device; made when it is first switched on"),
  device_flavor: z.string().min(1).describe("model of a device that has to be made, such as rd1ae"),
  device_os: z.string().default("1.1.1").describe("version of its firmware"),
  device_build: z.string().default("Critical Application Monitor (Baremetal)").describe("build of its firmware"),
  console_name: z.string().default("Primary Compute Non-Secure").describe("which of its consoles serial is"),
  enable_address: lax.boolean().prefault(true).describe("tell clients the console's address; who has it can connect"),
});

/** Of the drivers that a device brings along: its own, and which device they belong to. */
export const partConfig = deviceConfig.extend({ device: z.string() });

type DeviceConfig = z.output<typeof deviceConfig>;

/** The device that its drivers share. @throws DeviceOffline if the environment does not say how to reach Corellium */
export function deviceOf(context: OpenContext<z.output<typeof partConfig>>): VirtualDevice {
  const { config, log } = context;
  const [host, token] = [environment("CORELLIUM_API_HOST"), environment("CORELLIUM_API_TOKEN")];
  return context.shared(`corellium:${config.device}`, () => new VirtualDevice(config, openApi(host, token), log));
}

function environment(name: string): string {
  const value = process.env[name]?.trim();
  if (value === undefined) throw new DeviceOffline(`Missing "${name}" environment variable`);
  if (value === "") throw new DeviceOffline(`"${name}" environment variable is empty`);
  return value;
}

/** How long and how often a device is looked at until it is as wanted; read each time, as in the Python driver. */
function patience(): { retries: number; intervalMs: number } {
  const number = (name: string, schema: z.ZodType<number, unknown>, usual: number) => {
    const given = process.env[name]?.trim();
    const read = schema.safeParse(given === undefined || given === "" ? usual : given);
    if (read.success) return read.data;
    throw new AgentError("E_INVALID", `${name}: ${read.error.issues[0]?.message}`);
  };
  return {
    retries: number("CORELLIUM_API_RETRIES", lax.int(1, 100_000), 12),
    intervalMs: 1_000 * number("CORELLIUM_API_INTERVAL", lax.number().pipe(z.number().min(0).max(3_600)), 5),
  };
}

const invalid = (message: string) => new AgentError("E_INVALID", message);

/** A device in Corellium's cloud. */
class VirtualDevice {
  readonly #config: DeviceConfig;
  readonly #api: Api;
  readonly #log: Logger;
  readonly #turns = new Turns();
  /** Id of the project, once it was found. */
  #project: string | undefined;

  constructor(config: DeviceConfig, api: Api, log: Logger) {
    this.#config = config;
    this.#api = api;
    this.#log = log;
  }

  /** Done when it is on. Makes the device if there is none. */
  on(signal: AbortSignal): Promise<void> {
    return this.#turns.take(signal, async () => {
      const { device_name, device_flavor, device_os, device_build } = this.#config;
      const project = await this.#findProject(signal);
      const offered = await this.#api.get(paths.models, models, signal);
      const model = offered.find(({ model }) => model === device_flavor);
      if (model === undefined) throw invalid(`Unable to find a device for this model: ${device_flavor}`);
      let instance = await this.#find(device_name, signal);
      if (instance === undefined) {
        const wanted = newInstance(device_name, project, model.flavor, device_os, device_build);
        instance = await this.#api.post(paths.instances, wanted, created, signal).catch((error: unknown) => {
          // It may be the project that is no longer there.
          this.#project = undefined;
          throw error;
        });
        this.#log.info(`${device_name} was made: ${instance.id}`);
      } else await this.#setState(instance, "on", signal);
      await this.#wait(instance, "on", signal);
      this.#log.info(`${device_name} is on`);
    });
  }

  /** Done when it is off, or has gone. */
  off(destroy: boolean, signal: AbortSignal): Promise<void> {
    return this.#turns.take(signal, async () => {
      const { device_name } = this.#config;
      await this.#findProject(signal);
      const instance = await this.#find(device_name, signal);
      if (instance === undefined) throw invalid("Instance does not exist");
      await this.#setState(instance, "off", signal);
      await this.#wait(instance, "off", signal);
      this.#log.info(`${device_name} is off`);
      if (!destroy) return;
      await this.#api.delete(paths.instance(instance.id), signal);
      await this.#wait(instance, undefined, signal);
      this.#log.info(`${device_name} was destroyed`);
    });
  }

  /** Whoever has this URL can use the console. */
  async consoleUrl(signal: AbortSignal): Promise<string> {
    const { device_name, console_name } = this.#config;
    await this.#findProject(signal);
    const instance = await this.#find(device_name, signal);
    if (instance === undefined) throw invalid("Instance does not exist or is powered off");
    const { consoles: offered } = await this.#api.get(paths.instance(instance.id), consoles, signal);
    const wanted = offered?.find(({ name }) => name === console_name);
    if (wanted === undefined) throw invalid(`Console ID not found for "${console_name}"`);
    return (await this.#api.get(paths.console(instance.id, wanted.id), consoleAddress, signal)).url;
  }

  close(): Promise<void> {
    return this.#api.close();
  }

  async #findProject(signal: AbortSignal): Promise<string> {
    const { project_id } = this.#config;
    if (this.#project !== undefined) return this.#project;
    const offered = await this.#api.get(paths.projects, projects, signal);
    const found = offered.find(({ id, name }) => id === project_id || name === project_id);
    if (found === undefined) throw invalid(`Unable to fetch project: ${project_id}`);
    return (this.#project = found.id);
  }

  async #find(reference: string, signal: AbortSignal): Promise<Instance | undefined> {
    const all = await this.#api.get(paths.instances, instances, signal);
    return all.find(({ id, name }) => name === reference || id === reference);
  }

  #setState(instance: Instance, state: "on" | "off", signal: AbortSignal): Promise<void> {
    return this.#api.put(paths.state(instance.id), { state }, signal);
  }

  /** @param state undefined: until it has gone. @throws AgentError E_INVALID, as in the Python driver, when it takes too long */
  async #wait({ id }: Instance, state: "on" | "off" | undefined, signal: AbortSignal): Promise<void> {
    const { retries, intervalMs } = patience();
    let last = "";
    for (let looks = 0; looks < retries; looks += 1) {
      if (looks > 0) await sleep(intervalMs, undefined, { signal });
      const now = await this.#find(id, signal);
      if (now === undefined ? state === undefined : now.state === state) return;
      last = now === undefined ? "gone" : (now.state ?? "in no state");
    }
    const wanted = state ?? "gone";
    throw invalid(`Instance took too long to be reach the desired state: ${id} is ${last}, not ${wanted}`);
  }
}
