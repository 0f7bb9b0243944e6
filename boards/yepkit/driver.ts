import { setTimeout as sleep } from "node:timers/promises";
import * as z from "zod";
import { defineDriver } from "../../agent/driver/driver.ts";
import { AgentError } from "../../agent/driver/errors.ts";
import { unsupported } from "../../agent/driver/interface.ts";
import { describeUsb } from "../../agent/sys/usb-devices.ts";
import { power } from "../power/interface.ts";
import { Turns } from "../power/turns.ts";
import { findUsb, inspectUsb, suggestUsb, type Search } from "../usb/find.ts";
import type { Fingerprint } from "../usb/match.ts";
import {
  models,
  portState,
  statusReport,
  succeeded,
  switchReport,
  vendorId,
  type Model,
  type Port,
} from "./protocol.ts";
import { hubNode, openHub, type Hub } from "./transport.ts";

const type = "jumpstarter_driver_yepkit.driver.Ykush";
const anyOf = (values: readonly string[]) => `must be any of the following values: ${values.join(", ")}`;

const config = z
  .strictObject({
    serial: z.string().nullish().describe("serial number of the hub; needed when there are several"),
    path: z.string().nullish().describe("where the hub is plugged in, as in /sys/bus/usb/devices: 1-1.2"),
    port: z
      .preprocess(
        // The driver's own README calls all ports "a".
        (port) => (port === "a" ? "all" : typeof port === "number" ? String(port) : port),
        z.enum(["1", "2", "3", "all"], { error: `The ykush driver port ${anyOf(["1", "2", "3", "all"])}` }),
      )
      .prefault("all")
      .describe("1, 2, 3 or all"),
    default: z
      .preprocess(
        // What YAML makes of a bare `on` or `off`.
        (state) => (typeof state === "boolean" ? (state ? "on" : "off") : state),
        z.enum(["on", "off", "keep"], { error: `The ykush driver default ${anyOf(["on", "off", "keep"])}` }),
      )
      .prefault("off")
      .describe("what happens at the start of a lease: on, off or keep"),
    model: z
      .enum(Object.keys(models) as [Model, ...Model[]])
      .default("ykush")
      .describe("ykush, ykush3 or ykushxs"),
  })
  .superRefine(({ model, port }, context) => {
    if (port === "all" || (models[model].ports as readonly number[]).includes(Number(port))) return;
    context.addIssue({ code: "custom", path: ["port"], message: `${models[model].name} has no port ${port}` });
  });
type Config = z.output<typeof config>;

const printOf = (model: Model): Fingerprint => ({
  name: models[model].name,
  vendorId,
  productId: models[model].productId,
});

const searchOf = ({ model, serial, path }: Config): Search => ({
  what: model,
  prints: [printOf(model)],
  wanted: { serial, path },
});

/** A port is a transistor: if it has not switched by then, it will not. */
const settleMs = 500;
const lookAgainMs = 50;

export default defineDriver({
  types: [type],
  summary: "A port of a Yepkit YKUSH hub (also YKUSH3 and YKUSH XS): switches the power of a USB device.",
  implements: power,
  hotPlugged: true,
  config,
  inspect: (config) => inspectUsb(searchOf(config), hubNode),
  suggest: () =>
    suggestUsb((Object.keys(models) as Model[]).map(printOf), ({ device }, wanted) => {
      const model = (Object.keys(models) as Model[]).find((name) => models[name].productId === device.productId);
      if (model === undefined) return [];
      return models[model].ports.map((port) => ({
        name: `power${port}`,
        entry: {
          type,
          config: { ...wanted, port: String(port), ...(model === "ykush" ? {} : { model }) },
        },
      }));
    }),
  async open({ config, log, signal, ...context }) {
    const search = searchOf(config);
    const check = async () => void (await hubNode((await findUsb(search)).device));
    await check();
    const { ports } = models[config.model];
    // The XS has one port, and no command for all of them.
    const target: Port = config.port === "all" ? (ports.length === 1 ? 1 : "all") : Number(config.port);
    const watched = target === "all" ? ports : [target];

    /** Found anew each time: it may have been plugged in elsewhere since. */
    const set = async (on: boolean, signal: AbortSignal) => {
      const { device } = await findUsb(search);
      const name = describeUsb(device);
      // Replies carry no number: whoever asks must be alone.
      const turns = context.sharedOnHost(`ykush ${device.path}`, () => new Turns());
      await turns.take(signal, async () => {
        const hub = await openHub(device);
        try {
          if (!succeeded(await hub.ask(switchReport(target, on), signal))) {
            throw new AgentError("E_IO", `${name} refuses to switch port ${config.port} ${on ? "on" : "off"}`);
          }
          for (const port of watched) await confirm(hub, name, port, on, signal);
        } finally {
          await hub.close();
        }
      });
      log.info(`Power ${on ? "ON" : "OFF"} for Ykush ${device.serial ?? device.path} on port ${config.port}`);
    };

    return {
      methods: {
        on: (call) => set(true, call.signal),
        off: (call) => set(false, call.signal),
        read: unsupported("YKUSH has no meter"),
      },
      check,
      reset: () => (config.default === "keep" ? undefined : set(config.default === "on", signal)),
    };
  },
});

/** @throws AgentError E_FAILED if the port is not as it was told to be, E_IO if the hub does not say */
async function confirm(hub: Hub, name: string, port: number, on: boolean, signal: AbortSignal): Promise<void> {
  const deadline = performance.now() + settleMs;
  for (;;) {
    const state = portState(await hub.ask(statusReport(port), signal), port);
    if (state === on) return;
    if (state === undefined) throw new AgentError("E_IO", `${name} does not tell the state of port ${port}`);
    if (performance.now() > deadline) {
      throw new AgentError("E_FAILED", `${name} leaves port ${port} ${on ? "off" : "on"}`);
    }
    await sleep(lookAgainMs, undefined, { signal });
  }
}
