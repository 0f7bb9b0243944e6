import * as z from "zod";
import { defineDriver, type Call, type Finding } from "../../agent/driver/driver.ts";
import { AgentError, toAgentError } from "../../agent/driver/errors.ts";
import { unsupported } from "../../agent/driver/interface.ts";
import * as lax from "../../agent/driver/lax.ts";
import { dial } from "../../agent/stream/dial.ts";
import { power } from "../power/interface.ts";
import { Turns } from "../power/turns.ts";
import { isLoggedIn, loginBody, slots, socketStates, switchBody } from "./protocol.ts";
import { openPages, type Pages } from "./transport.ts";

const config = z.strictObject({
  host: z
    .string({ error: "Host must be specified" })
    .min(1, "Host must be specified")
    .refine((host) => /^[^/?#@\s]+$/.test(host) && URL.canParse(`http://${host}`), "must be HOST or HOST:PORT")
    .describe("address of the power strip, as HOST or HOST:PORT"),
  password: z
    .union([z.string(), z.number().transform(String)])
    .nullable()
    .default("1"),
  slot: lax
    .number()
    .refine((slot) => Number.isInteger(slot) && slot >= 1 && slot <= slots, `Slot must be between 1 and ${slots}`)
    .prefault(1)
    .describe(`socket, 1 to ${slots}`),
});

/** For `inspect`: only whether it is there. */
const lookTimeoutMs = 3_000;

export default defineDriver({
  types: ["jumpstarter_driver_energenie.driver.EnerGenie"],
  summary: "One socket of an EnerGenie EG-PMS2-LAN power strip, over HTTP.",
  implements: power,
  config,
  async inspect({ host }): Promise<Finding[]> {
    const { hostname, port } = new URL(`http://${host}`);
    try {
      // Its pages are left alone: the login page would log out whoever is logged in from this host.
      const where = { host: hostname.replace(/^\[(.*)\]$/, "$1"), port: Number(port || 80) };
      const signal = AbortSignal.timeout(lookTimeoutMs * 2);
      (await dial(where, host, signal, lookTimeoutMs)).destroy();
      return [{ ok: true, text: `EnerGenie at ${host} takes connections` }];
    } catch (error) {
      const text = `EnerGenie at ${host} cannot be reached: ${toAgentError(error).message}`;
      return [{ ok: false, text, hint: "check its address and its cable" }];
    }
  },
  open({ config: { host, password, slot }, log, ...context }) {
    // Its one session belongs to an address, so to all exporters of this host together.
    const turns = context.sharedOnHost(`energenie ${host}`, () => new Turns());
    const name = `EnerGenie at ${host}`;

    const inSession = async (pages: Pages, on: boolean): Promise<void> => {
      if (!isLoggedIn(await pages.post("/login.html", loginBody(password ?? "")))) {
        throw new LoginRefused(name);
      }
      await pages.post("/", switchBody(slot, on));
      const states = socketStates(await pages.get("/energenie.html"));
      if (states === undefined) throw new AgentError("E_FAILED", `${name} does not show the state of its sockets`);
      if (states[slot - 1] !== on) {
        throw new AgentError("E_FAILED", `${name} leaves socket ${slot} ${on ? "off" : "on"}`);
      }
    };

    const attempt = async (on: boolean, signal: AbortSignal): Promise<void> => {
      const pages = openPages(host, signal);
      try {
        await inSession(pages, on);
      } finally {
        await pages.close();
        await logOut();
      }
    };

    // Also after a call that was cancelled, hence without its signal: nobody could log in from elsewhere.
    const logOut = async () => {
      const pages = openPages(host, AbortSignal.timeout(lookTimeoutMs));
      await pages
        .get("/login.html")
        .catch((error: unknown) => log.warn(`${name}: cannot log out: ${toAgentError(error).message}`));
      await pages.close();
    };

    const set = ({ signal }: Call, on: boolean) =>
      turns.take(signal, async () => {
        try {
          await attempt(on, signal);
        } catch (error) {
          if (signal.aborted || error instanceof LoginRefused) throw error;
          log.warn(`${toAgentError(error).message}; trying once more`);
          await attempt(on, signal);
        }
        log.info(`${name}: socket ${slot} is ${on ? "on" : "off"}`);
      });

    return {
      methods: {
        on: (call) => set(call, true),
        off: (call) => set(call, false),
        read: unsupported("EnerGenie has no meter"),
      },
    };
  },
});

class LoginRefused extends AgentError {
  constructor(name: string) {
    super("E_FAILED", `${name} refuses the login: the password is wrong, or somebody is logged in from elsewhere`);
  }
}
