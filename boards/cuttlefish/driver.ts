import { defineDriver, type Call } from "../../agent/driver/driver.ts";
import { AgentError } from "../../agent/driver/errors.ts";
import { adb } from "../adb/interface.ts";
import { cuttlefishConfig, CuttlefishDevice } from "./device.ts";
import { cuttlefish } from "./interface.ts";

export default defineDriver({
  types: ["jumpstarter_driver_cuttlefish.driver.Cuttlefish"],
  summary: "A virtual Android device of Cuttlefish, through its host orchestrator.",
  implements: cuttlefish,
  config: cuttlefishConfig,
  needs: () => ({ programs: ["adb"] }),
  async inspect(config) {
    const device = new CuttlefishDevice(config);
    const { base } = device.orchestrator;
    try {
      await device.orchestrator.ask("GET", "/cvds", AbortSignal.timeout(3_000));
      return [{ ok: true, text: `the host orchestrator at ${base} answers` }];
    } catch {
      return [{ ok: false, text: `the host orchestrator at ${base} does not answer`, hint: "is it running?" }];
    } finally {
      await device.close();
    }
  },
  children: ({ config, path }) => ({
    adb: { type: "jumpstarter_driver_adb.driver.AdbServer", config: { port: config.adb_server_port } },
    power: { type: "jumpstarter_driver_cuttlefish.driver.CvdPower", config: { ...config, device: path } },
    storage: { type: "jumpstarter_agent.CuttlefishStorage" },
  }),
  open({ config, path, ...context }) {
    const device = context.shared(`cuttlefish ${path}`, () => new CuttlefishDevice(config));
    device.connectAdb = async (name, signal) => context.children.get("adb")?.as(adb, { signal }).connect_device(name);
    const { orchestrator } = device;
    const get = (where: string) => async (call: Call) => text(await orchestrator.ask("GET", where, call.signal));
    const act = (action: string) => async (call: Call) => text(await device.act(action, call.signal));
    return {
      methods: {
        get_host: () => config.host,
        get_webrtc_url: () => device.webrtcUrl,
        get_adb_port: () => device.adbPort,
        status: get("/_debug/statusz"),
        list_cvds: get("/cvds"),
        list_operations: get("/operations"),
        get_cvd: async ({ signal }) => text(await device.show(signal)),
        start_cvd: act("start"),
        stop_cvd: act("stop"),
        restart_cvd: act("restart"),
        powerwash_cvd: act("powerwash"),
        powerbtn_cvd: act("powerbtn"),
        create_cvd: async ({ signal }, environment) => text(await device.create(parsed(environment), signal)),
        delete_cvd: async ({ signal }) => text(await device.delete(signal)),
        reset_host: async ({ signal }) => text(await device.reset(signal)),
        wait_boot: async ({ signal }, seconds) => text({ booted: true, seconds: await device.booted(seconds, signal) }),
      },
    };
  },
});

function text(answer: unknown): string {
  return typeof answer === "string" ? answer : JSON.stringify(answer);
}

function parsed(environment: string): unknown {
  try {
    return JSON.parse(environment) as unknown;
  } catch (cause) {
    throw new AgentError("E_INVALID", "the environment is no JSON", { cause });
  }
}
