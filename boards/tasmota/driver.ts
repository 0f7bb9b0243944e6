import * as z from "zod";
import { defineDriver, type Call, type Finding } from "../../agent/driver/driver.ts";
import { AgentError, DeviceOffline, toAgentError } from "../../agent/driver/errors.ts";
import { unsupported } from "../../agent/driver/interface.ts";
import * as lax from "../../agent/driver/lax.ts";
import { anySignal } from "../../agent/sys/any-signal.ts";
import { power } from "../power/interface.ts";
import { Turns } from "../power/turns.ts";
import { plugName, readingOf, siblingTopic, stateOf } from "./topics.ts";
import { brokerName, visit, type Broker, type Visit } from "./transport.ts";

const topic = () =>
  z
    .string()
    .min(1)
    .max(1_000)
    .regex(/^[^+#\0]*$/, "must be a topic without wildcards");

const word = () => z.union([z.string(), z.number().transform(String)]).nullish();

const config = z
  .strictObject({
    host: z.string().min(1).describe("MQTT broker; for the transport unix, path of its socket"),
    port: lax.port().prefault(1883),
    tls: lax.boolean().prefault(true).describe("not for the transport unix"),
    ca: z.string().nullish().describe("file with further certificate authorities (PEM), beside the host's own"),
    client_id: z.string().nullish().describe("a random one for each call, if not given"),
    transport: z.enum(["tcp", "websockets", "unix"]).default("tcp"),
    timeout: lax
      .number()
      .pipe(z.number().positive("must be more than 0").max(30_000))
      .nullish()
      .describe("seconds, for a whole call; 10 if not given"),
    username: word(),
    password: word(),
    cmnd_topic: topic().describe("such as cmnd/tasmota_6990F2/POWER"),
    stat_topic: topic().describe("such as stat/tasmota_6990F2/POWER, or …/RESULT"),
    lwt_topic: z
      .union([z.literal(""), topic()])
      .nullish()
      .describe("where Online or Offline is kept, if not tele/…/LWT of the same plug; empty: nowhere"),
    meter: lax.boolean().prefault(false).describe("the plug measures: read asks it for Status 8"),
  })
  .refine(({ meter, cmnd_topic }) => !meter || siblingTopic(cmnd_topic, "stat", "STATUS8") !== undefined, {
    path: ["meter"],
    error: "needs a cmnd_topic with cmnd in it",
  });

type Config = z.output<typeof config>;

const defaultTimeoutS = 10;
const inspectTimeoutMs = 3_000;
/** A visit is shorter than this without a word, so that no pings are needed. */
const keepAliveMarginS = 60;

function brokerOf({ client_id, username, password, timeout, ...given }: Config): Broker {
  const keepAliveS = Math.ceil(timeout ?? defaultTimeoutS) + keepAliveMarginS;
  // MQTT has no password without a name.
  const name = username ?? (password === undefined || password === null ? undefined : "");
  const login = { clientId: client_id ?? "", username: name, password: password ?? undefined, keepAliveS };
  const { host, port, transport, tls, ca } = given;
  return { host, port, transport, tls: tls && transport !== "unix", ca: ca ?? undefined, login };
}

const lwtTopic = ({ lwt_topic, cmnd_topic }: Config): string | undefined =>
  lwt_topic === "" ? undefined : (lwt_topic ?? siblingTopic(cmnd_topic, "tele", "LWT"));

const isOffline = (payload: string) => /^\s*offline\s*$/i.test(payload);
const say = (on: boolean) => (on ? "ON" : "OFF");

/** What errors say if the time is up before the next thing has come. */
type WaitFor = (sentence: string) => void;

/**
 * One visit with an end. A connection that is cut under way is made once more: a broker that starts again costs no call.
 * @throws AgentError E_TIMEOUT with what was waited for; E_CONNECTION; what `step` throws
 */
async function during<T>(
  broker: Broker,
  timeoutMs: number,
  caller: AbortSignal,
  step: (visit: Visit, waitFor: WaitFor) => Promise<T>,
): Promise<T> {
  const limit = new AbortController();
  let sentence = `${brokerName(broker)} did not answer`;
  const giveUp = () => limit.abort(new AgentError("E_TIMEOUT", `${sentence} within ${timeoutMs / 1000} s`));
  const timer = setTimeout(giveUp, timeoutMs);
  const signal = anySignal([caller, limit.signal]);
  const attempt = async (): Promise<T | "cut"> => {
    const guest = await visit(broker, signal);
    try {
      return await step(guest, (next) => (sentence = next));
    } catch (error) {
      if (signal.aborted) throw signal.reason;
      if (error instanceof AgentError && error.code === "E_CONNECTION" && !retried) return "cut";
      throw error;
    } finally {
      guest.close();
    }
  };
  let retried = false;
  try {
    const first = await attempt();
    if (first !== "cut") return first;
    retried = true;
    return (await attempt()) as T;
  } finally {
    clearTimeout(timer);
  }
}

export default defineDriver({
  types: ["jumpstarter_driver_tasmota.driver.TasmotaPower"],
  summary: "A plug with Tasmota firmware, through an MQTT broker.",
  implements: power,
  config,
  async inspect(given): Promise<Finding[]> {
    const broker = brokerOf(given);
    const lwt = lwtTopic(given);
    const name = plugName(given.cmnd_topic);
    try {
      const kept = await during(broker, inspectTimeoutMs, new AbortController().signal, async (guest) => {
        await guest.subscribe([given.stat_topic, ...(lwt === undefined ? [] : [lwt])]);
        return await guest.settle();
      });
      const said = kept.find((message) => message.topic === lwt)?.payload;
      const text = `${brokerName(broker)}: Tasmota plug ${name} is ${said?.toLowerCase() ?? "not known there"}`;
      if (said === undefined || !isOffline(said)) return [{ ok: true, text }];
      return [{ ok: false, text, hint: "plug it in, and look whether it has a network" }];
    } catch (error) {
      const hint = "check host, port, tls, user name and password of the broker";
      return [{ ok: false, text: toAgentError(error).message, hint }];
    }
  },
  open({ config: given, log, ...context }) {
    const broker = brokerOf(given);
    const timeoutMs = (given.timeout ?? defaultTimeoutS) * 1000;
    const { cmnd_topic: commands, stat_topic: states } = given;
    const relay = commands.slice(commands.lastIndexOf("/") + 1);
    const lwt = lwtTopic(given);
    const name = `Tasmota plug ${plugName(commands)}`;
    const turns = context.sharedOnHost(`tasmota ${broker.host}:${broker.port} ${commands}`, () => new Turns());

    const requireOnline = (message: { topic: string; payload: string }) => {
      if (message.topic !== lwt || !isOffline(message.payload)) return;
      throw new DeviceOffline(`${name} is offline, says the ${brokerName(broker)}`);
    };

    /** Listens to these topics and to the plug's last will. @returns what the broker has kept for them */
    const listen = async (guest: Visit, topics: readonly string[]) => {
      const refused = await guest.subscribe(lwt === undefined ? topics : [...topics, lwt]);
      if (topics.every((topic) => refused.includes(topic))) {
        throw new AgentError("E_FAILED", `${brokerName(broker)} does not let us listen to ${topics.join(", ")}`);
      }
      const kept = await guest.settle();
      for (const message of kept) requireOnline(message);
      return kept;
    };

    const set = async (signal: AbortSignal, on: boolean): Promise<void> => {
      await turns.take(signal, () =>
        during(broker, timeoutMs, signal, async (guest, waitFor) => {
          let last: boolean | undefined;
          const hear = (message: { topic: string; payload: string }) => {
            const state = message.topic === states ? stateOf(message.payload, relay) : undefined;
            last = state ?? last;
            const before = last === undefined ? "" : `; its last word was ${say(last)}`;
            waitFor(`${name} did not say ${say(on)} at ${states}${before}`);
            return state;
          };
          for (const message of await listen(guest, [states])) hear(message);
          waitFor(`${brokerName(broker)} did not take the command`);
          await guest.publish(commands, say(on));
          hear({ topic: "", payload: "" });
          for (;;) {
            const message = await guest.next();
            requireOnline(message);
            // What the broker has kept is from before the command.
            if (hear(message) === on && !message.retained) return;
          }
        }),
      );
      log.info(`${name} is ${on ? "on" : "off"}`);
    };

    const askMeter = (signal: AbortSignal) =>
      turns.take(signal, () =>
        during(broker, timeoutMs, signal, async (guest, waitFor) => {
          const sibling = (prefix: "cmnd" | "stat" | "tele", last: string) =>
            siblingTopic(commands, prefix, last) as string;
          // Later firmware answers with the number that it has given to the same report.
          await listen(guest, [sibling("stat", "STATUS8"), sibling("stat", "STATUS10"), sibling("tele", "SENSOR")]);
          waitFor(`${name} did not tell voltage and current`);
          await guest.publish(sibling("cmnd", "STATUS"), "8");
          for (;;) {
            const message = await guest.next();
            requireOnline(message);
            const reading = message.retained ? undefined : readingOf(message.payload);
            if (reading !== undefined) return reading;
          }
        }),
      );

    const off = () => set(context.signal, false);
    return {
      methods: {
        on: ({ signal }: Call) => set(signal, true),
        off: ({ signal }: Call) => set(signal, false),
        read: given.meter
          ? async function* ({ signal }: Call) {
              yield await askMeter(signal);
            }
          : unsupported("the plug is not configured as a meter"),
      },
      // The Python driver switches off at both ends of a lease.
      reset: off,
      release: off,
    };
  },
});
