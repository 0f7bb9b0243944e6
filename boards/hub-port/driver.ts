import { setTimeout as sleep } from "node:timers/promises";
import * as z from "zod";
import { defineDriver, type Call, type Finding } from "../../agent/driver/driver.ts";
import { AgentError, toAgentError } from "../../agent/driver/errors.ts";
import { unsupported } from "../../agent/driver/interface.ts";
import * as lax from "../../agent/driver/lax.ts";
import { describeUsb, listUsbDevices } from "../../agent/sys/usb-devices.ts";
import { usbNode } from "../../agent/sys/usbfs.ts";
import { power } from "../power/interface.ts";
import { Turns } from "../power/turns.ts";
import { chooseHub, factsOf, halvesOf, isOn, switchPort, type HubPort } from "./ports.ts";

const config = z
  .strictObject({
    hub: z.string().nullish().describe("where the hub is plugged in, as in /sys/bus/usb/devices: 1-1, or usb1"),
    serial: z.string().nullish().describe("serial number of the hub, where it has one"),
    port: lax.int(1, 127).describe("number of the port, from 1"),
    force: lax.boolean().prefault(false).describe("also where the hub says that it cannot switch a port by itself"),
    default: z
      .preprocess(
        // What YAML makes of a bare `on` or `off`.
        (state) => (typeof state === "boolean" ? (state ? "on" : "off") : state),
        z.enum(["on", "off", "keep"]),
      )
      .prefault("keep")
      .describe("what happens at the start of a lease: on, off or keep"),
  })
  .refine(({ hub, serial }) => typeof hub === "string" || typeof serial === "string", {
    message: "name the hub, by hub or by serial",
    path: ["hub"],
  });

const settleMs = 1_000;
const lookAgainMs = 50;

export default defineDriver({
  types: ["jumpstarter_agent.HubPortPower"],
  summary: "Power of a port of a USB hub that can switch it, as uhubctl does.",
  implements: power,
  hotPlugged: true,
  config,
  needs: () => ({ rights: ["usb", "hub-port"] }),
  async inspect({ port, force, ...wanted }): Promise<Finding[]> {
    try {
      const devices = await listUsbDevices();
      const hub = chooseHub(devices, wanted);
      for (const half of await halvesOf(devices, hub, port)) await refuseOthers(half, force);
      return [{ ok: true, text: `port ${port} of USB hub ${describeUsb(hub)}`, nodes: [usbNode(hub)] }];
    } catch (error) {
      const { message, hint } = toAgentError(error);
      return [{ ok: false, text: message, ...(hint === undefined ? {} : { hint }) }];
    }
  },
  async open({ config: { port, force, default: start, ...wanted }, log, signal, ...context }) {
    const check = async () => void chooseHub(await listUsbDevices(), wanted);
    await check();

    const set = async (on: boolean, signal: AbortSignal) => {
      const devices = await listUsbDevices();
      const hub = chooseHub(devices, wanted);
      const turns = context.sharedOnHost(`usb hub ${hub.path}`, () => new Turns());
      await turns.take(signal, async () => {
        const halves = await halvesOf(devices, hub, port);
        for (const half of halves) await refuseOthers(half, force);
        // A socket has power while one of its halves has.
        for (const half of halves) await switchPort(half, on);
        for (const half of halves) await confirm(half, on, signal);
      });
      log.info(`power ${on ? "on" : "off"}: port ${port} of ${describeUsb(hub)}`);
    };

    return {
      methods: {
        on: (call: Call) => set(true, call.signal),
        off: (call: Call) => set(false, call.signal),
        read: unsupported("a USB hub has no meter"),
      },
      check,
      reset: () => (start === "keep" ? undefined : set(start === "on", signal)),
    };
  },
});

/** @throws AgentError E_INVALID if the hub has no such port, E_UNSUPPORTED if it cannot switch it */
async function refuseOthers({ hub, port }: HubPort, force: boolean): Promise<void> {
  const { ports, switching } = await factsOf(hub);
  const name = describeUsb(hub);
  if (port > ports) throw new AgentError("E_INVALID", `${name} has ${ports} ports, and no port ${port}`);
  if (switching === "individual" || force) return;
  const how = switching === "ganged" ? "switches all of its ports together" : "cannot switch the power of its ports";
  throw new AgentError("E_UNSUPPORTED", `${name} ${how}`, { hint: "force: true tries it all the same" });
}

/** @throws AgentError E_FAILED if the port is not as it was told to be */
async function confirm(half: HubPort, on: boolean, signal: AbortSignal): Promise<void> {
  const deadline = performance.now() + settleMs;
  while ((await isOn(half)) !== on) {
    if (performance.now() > deadline) {
      throw new AgentError("E_FAILED", `${describeUsb(half.hub)} leaves port ${half.port} ${on ? "off" : "on"}`);
    }
    await sleep(lookAgainMs, undefined, { signal });
  }
}
