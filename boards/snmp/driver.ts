import { setTimeout as sleep } from "node:timers/promises";
import * as z from "zod";
import { defineDriver, type Call, type Finding } from "../../agent/driver/driver.ts";
import { AgentError, toAgentError } from "../../agent/driver/errors.ts";
import { unsupported } from "../../agent/driver/interface.ts";
import * as lax from "../../agent/driver/lax.ts";
import { Turns } from "../power/turns.ts";
import { snmpServer } from "./interface.ts";
import type { Value } from "./protocol.ts";
import { communitySecurity, UserSecurity, type Security } from "./security.ts";
import { converse, type Conversation } from "./transport.ts";

const mostInteger = 0x7fff_ffff;
const state = () => lax.int(-mostInteger, mostInteger);

/** Without a leading dot; `{plug}` stands for the plug. */
const oid = () =>
  z
    .string()
    .regex(/^\.?[012](\.(\d+|\{plug\}))+$/, "must be an OID of numbers, such as 1.3.6.1.4.1")
    .transform((text) => text.replace(/^\./, ""));

const config = z
  .strictObject({
    host: z.string().min(1).describe("name, IPv4 or IPv6 address of the agent"),
    port: lax.port().prefault(161),
    version: z
      .union([z.string(), z.number().transform(String)])
      .pipe(z.enum(["1", "2c", "3"]))
      .default("3"),
    user: z.string().nullish().describe("user of version 3"),
    community: z.string().nullish().describe("community of versions 1 and 2c"),
    auth_protocol: z.enum(["NONE", "MD5", "SHA", "SHA-256", "SHA-512"]).default("NONE"),
    auth_key: z.string().nullish(),
    priv_protocol: z.enum(["NONE", "DES", "AES", "AES-256"]).default("NONE"),
    priv_key: z.string().nullish(),
    plug: lax.int(0, mostInteger).describe("last number of the OID"),
    oid: oid()
      .prefault("1.3.6.1.4.1.13742.6.4.1.2.1.2.1")
      .describe("what switches, without the plug; Raritan PDU2 if not given"),
    on_value: state().prefault(1).describe("what switches on"),
    off_value: state().prefault(0).describe("what switches off"),
    timeout: lax.number().pipe(z.number().positive("must be more than 0")).prefault(5).describe("seconds, per call"),
    confirm: lax.boolean().nullish().describe("read the state back; if not given, from agents that show it"),
    status_oid: oid().nullish().describe("whole OID of the state, if that is another one; {plug} is the plug"),
    status_on: state().nullish().describe("state of an outlet that is on, if not on_value"),
    status_off: state().nullish().describe("state of an outlet that is off, if not off_value"),
    voltage_oid: oid().nullish().describe("whole OID of the voltage; {plug} is the plug"),
    voltage_scale: lax.number().prefault(1).describe("volts per unit"),
    current_oid: oid().nullish().describe("whole OID of the current; {plug} is the plug"),
    current_scale: lax.number().prefault(1).describe("amperes per unit"),
  })
  .superRefine((given, context) => {
    const refuse = (path: string, message: string) => context.addIssue({ code: "custom", path: [path], message });
    if (given.version !== "3") {
      if (!given.community) refuse("community", `must be given for version ${given.version}`);
      return;
    }
    if (!given.user) refuse("user", "must be given for version 3");
    if (given.auth_protocol === "NONE") return;
    if (!given.auth_key) refuse("auth_key", "Authentication key required when auth_protocol is specified");
    if (given.priv_protocol !== "NONE" && !given.priv_key) {
      refuse("priv_key", "Both auth_key and priv_key required for authenticated privacy");
    }
  });

type Config = z.output<typeof config>;

function securityOf({ version, community, user, ...given }: Config): Security {
  if (version !== "3") return communitySecurity(version, community ?? "");
  const { auth_protocol, priv_protocol } = given;
  const auth = auth_protocol === "NONE" ? undefined : { protocol: auth_protocol, passphrase: given.auth_key ?? "" };
  const priv = priv_protocol === "NONE" ? undefined : { protocol: priv_protocol, passphrase: given.priv_key ?? "" };
  return new UserSecurity({ name: user ?? "", auth, priv: auth && priv });
}

/** The configured OIDs and what is found there. */
function outletOf(given: Config) {
  const whole = (text: string | null | undefined) => text?.replaceAll("{plug}", String(given.plug));
  const control = whole(`${given.oid}.{plug}`) as string;
  const [on, off] = [given.status_on ?? given.on_value, given.status_off ?? given.off_value];
  return {
    control,
    status: whole(given.status_oid) ?? control,
    voltage: whole(given.voltage_oid),
    current: whole(given.current_oid),
    /** @returns undefined for what is no state */
    isOn: (value: Value | undefined): boolean | undefined => {
      const found = toNumber(value);
      if (found === on) return true;
      return found === off ? false : undefined;
    },
  };
}

/** Numbers come as text, too. */
function toNumber(value: Value | undefined): number | undefined {
  if (typeof value === "string") return lax.number().safeParse(value).data;
  return value ?? undefined;
}

/** A relay may need a while; its state is asked for this often. */
const pollMs = 200;
const inspectTimeoutMs = 2_000;
const word = (on: boolean) => (on ? "on" : "off");

export default defineDriver({
  types: ["jumpstarter_driver_snmp.driver.SNMPServer"],
  summary: "One outlet of a power strip with an SNMP agent (versions 1, 2c and 3).",
  implements: snmpServer,
  config,
  async inspect(given): Promise<Finding[]> {
    const outlet = outletOf(given);
    const where = `SNMP agent at ${given.host}:${given.port}`;
    try {
      const { host, port } = given;
      const look = { host, port, security: securityOf(given), timeoutMs: inspectTimeoutMs };
      const [value] = await converse({ ...look, signal: new AbortController().signal }, (agent) =>
        agent.get([outlet.status]),
      );
      const on = outlet.isOn(value);
      const text = on === undefined ? "does not show its state" : `is ${word(on)}`;
      return [{ ok: true, text: `${where}: plug ${given.plug} ${text}` }];
    } catch (error) {
      const hint = "check its address, port and user, and whether this host may ask it";
      return [{ ok: false, text: `${where}: ${toAgentError(error).message}`, hint }];
    }
  },
  open({ config: given, log, ...context }) {
    const { host, port, plug } = given;
    const timeoutMs = given.timeout * 1000;
    const security = securityOf(given);
    const outlet = outletOf(given);
    const turns = context.sharedOnHost(`snmp ${host}:${port}`, () => new Turns());
    if (given.version === "3" && given.auth_protocol === "NONE" && given.priv_protocol !== "NONE") {
      log.warn(`priv_protocol ${given.priv_protocol} has no effect without auth_protocol: nothing is encrypted`);
    }

    /** One agent does one thing at a time. */
    const talk = <T>(what: string, { signal }: Call, step: (agent: Conversation) => Promise<T>): Promise<T> =>
      turns.take(signal, async () => {
        try {
          return await converse({ host, port, security, timeoutMs, signal }, step);
        } catch (error) {
          if (!(error instanceof AgentError) || signal.aborted) throw error;
          throw new AgentError(error.code, `SNMP ${what} failed: ${error.message}`, { cause: error });
        }
      });

    /** Asks until the outlet is what it should be. @throws AgentError E_FAILED if it is not by the deadline */
    const confirm = async (agent: Conversation, on: boolean, signal: AbortSignal): Promise<void> => {
      for (;;) {
        const [value] = await agent.get([outlet.status]);
        const found = outlet.isOn(value);
        if (found === on) return;
        if (found === undefined) throw new AgentError("E_FAILED", `${outlet.status} shows ${value ?? "no state"}`);
        if (agent.left() <= pollMs)
          throw new StateDiffers(`plug ${plug} is still ${word(found)} after ${given.timeout} s`);
        await sleep(pollMs, undefined, { signal });
      }
    };

    /** The agent has acknowledged the command; whether it shows its effect as well is a matter of its rights and kind. */
    const confirmIfShown = (agent: Conversation, on: boolean, signal: AbortSignal): Promise<void> =>
      confirm(agent, on, signal).catch((error: unknown) => {
        if (given.confirm === true || error instanceof StateDiffers || signal.aborted) throw error;
        log.warn(`plug ${plug} of ${host} is not confirmed: ${toAgentError(error).message}`);
      });

    const set = (call: Call, on: boolean): Promise<string> =>
      talk("set", call, async (agent) => {
        await agent.set(outlet.control, on ? given.on_value : given.off_value);
        if (given.confirm !== false) await confirmIfShown(agent, on, call.signal);
        call.log.info(`plug ${plug} of ${host} is ${word(on)}`);
        return `Power ${word(on).toUpperCase()} command sent successfully`;
      });

    const { voltage, current } = outlet;
    /** @returns 0 for what has no OID */
    const measure = (value: Value | undefined, at: string | undefined, scale: number): number => {
      if (at === undefined) return 0;
      const number = toNumber(value);
      if (number === undefined) throw new AgentError("E_FAILED", `there is no number at ${at}`);
      return number * scale;
    };

    return {
      methods: {
        on: (call) => set(call, true),
        off: (call) => set(call, false),
        read:
          voltage === undefined && current === undefined
            ? unsupported("neither voltage_oid nor current_oid is configured")
            : async function* (call) {
                yield await talk("get", call, async (agent) => {
                  const oids = [voltage, current].filter((at) => at !== undefined);
                  const values = new Map((await agent.get(oids)).map((value, index) => [oids[index], value]));
                  return {
                    voltage: measure(values.get(voltage), voltage, given.voltage_scale),
                    current: measure(values.get(current), current, given.current_scale),
                  };
                });
              },
      },
    };
  },
});

class StateDiffers extends AgentError {
  constructor(message: string) {
    super("E_FAILED", message);
  }
}
