import * as z from "zod";
import { defineDriver, type Call } from "../../agent/driver/driver.ts";
import { AgentError } from "../../agent/driver/errors.ts";
import * as lax from "../../agent/driver/lax.ts";
import { power } from "../power/interface.ts";
import { Turns } from "../power/turns.ts";
import * as protocol from "./protocol.ts";
import { exchange, type Auth } from "./transport.ts";

const text = () => z.union([z.string(), z.number().transform(String)]);

const headers = z
  .record(z.string().regex(/^[\w!#$%&'*+.^`|~-]+$/), text().pipe(z.string().regex(/^[\t\x20-\x7e\x80-\xff]*$/)))
  .default({});

const path = () => text().nullish();

const endpoint = z.strictObject({
  url: z
    .string()
    .trim()
    .refine((url) => URL.canParse(url) && /^https?:$/.test(new URL(url).protocol), {
      error: "must be an http:// or https:// URL",
    })
    .transform((url) => new URL(url)),
  method: z
    .string()
    .regex(/^[A-Za-z]+$/, "must be an HTTP method")
    .transform((method) => method.toUpperCase())
    .prefault("GET"),
  data: text().nullish().describe("body of a POST, PUT or PATCH"),
  headers: headers.describe("further headers of this request"),
  voltage_path: path().describe("for power_read: where in the JSON answer the voltage is, such as phases.0.voltage"),
  current_path: path().describe("for power_read, as voltage_path"),
});

const login = z.strictObject({ user: text().default(""), password: text().default("") });

const config = z.strictObject({
  name: z.string().default("device").describe("for the log"),
  power_on: endpoint,
  power_off: endpoint,
  power_read: endpoint.nullish(),
  auth: z
    .strictObject({
      basic: login.nullish(),
      digest: login.nullish(),
      bearer: z.strictObject({ token: text() }).nullish(),
    })
    .refine((auth) => Object.values(auth).filter(Boolean).length < 2, "only one of basic, digest and bearer")
    .nullish(),
  headers: headers.describe("further headers of all requests"),
  timeout: lax
    .number()
    .pipe(z.number().positive("must be more than 0").max(100_000))
    .prefault(10)
    .describe("seconds, for a call with its redirects"),
  ca: z.string().nullish().describe("file with further certificate authorities (PEM), beside the host's own"),
  default: z
    .union([z.enum(["on", "off"]), z.boolean().transform((on) => (on ? "on" : "off"))])
    .nullish()
    .describe("on or off: state at both ends of a lease, which are left alone if it is not given"),
});

type Config = z.output<typeof config>;
type Endpoint = z.output<typeof endpoint>;

function authOf({ auth }: Config, url: URL): Auth | undefined {
  if (auth?.bearer) return { scheme: "bearer", token: auth.bearer.token };
  if (auth?.digest) return { scheme: "digest", ...auth.digest };
  const given = auth?.basic ?? protocol.credentialsOf(url);
  return given && { scheme: "basic", ...given };
}

export default defineDriver({
  types: ["jumpstarter_driver_http_power.driver.HttpPower"],
  summary: "Power that is switched by HTTP requests.",
  implements: power,
  config,
  open({ config: given, log, ...context }) {
    const turns = new Turns();

    const send = ({ url, method, data, ...further }: Endpoint, signal: AbortSignal): Promise<string> =>
      turns.take(signal, () =>
        exchange(protocol.outgoing(protocol.withoutCredentials(url), method, data), {
          ...{ signal, timeoutMs: given.timeout * 1000, ca: given.ca ?? undefined },
          auth: authOf(given, url),
          headers: { ...given.headers, ...further.headers },
        }),
      );

    const set = async (signal: AbortSignal, on: boolean): Promise<void> => {
      await send(on ? given.power_on : given.power_off, signal);
      log.info(`${given.name} is ${on ? "on" : "off"}`);
    };

    /** @throws AgentError E_INVALID with the texts that clients know */
    const measure = (answer: unknown, configured: string | null | undefined, byDefault: string): number => {
      const where = configured ?? byDefault;
      const value = protocol.valueAt(answer, where);
      if (value === undefined) {
        if (configured === null || configured === undefined) return 0;
        throw new AgentError("E_INVALID", `configured path '${where}' not found in read response`);
      }
      const number = protocol.toNumber(value);
      if (number !== undefined) return number;
      throw new AgentError(
        "E_INVALID",
        `value at '${where}' is not numeric (got ${JSON.stringify(value).slice(0, 100)})`,
      );
    };

    const lease = given.default ? { reset: toDefault, release: toDefault } : {};
    function toDefault(): Promise<void> {
      return set(context.signal, given.default === "on");
    }

    return {
      methods: {
        on: ({ signal }: Call) => set(signal, true),
        off: ({ signal }: Call) => set(signal, false),
        async *read({ signal }) {
          const endpoint = given.power_read;
          if (!endpoint) throw new AgentError("E_INVALID", "power_read endpoint is not configured");
          const answer = parseJson(await send(endpoint, signal));
          yield {
            voltage: measure(answer, endpoint.voltage_path, "voltage"),
            current: measure(answer, endpoint.current_path, "current"),
          };
        },
      },
      ...lease,
    };
  },
});

function parseJson(answer: string): unknown {
  try {
    return JSON.parse(answer) as unknown;
  } catch (error) {
    // Without the answer itself: it may be a page with somebody's session in it.
    const text = answer.trim() === "" ? "it is empty" : (error as Error).name;
    throw new AgentError("E_INVALID", `read endpoint did not return JSON: ${text}`, { cause: error });
  }
}
