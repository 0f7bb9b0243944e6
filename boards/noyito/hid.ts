import * as z from "zod";
import { defineDriver } from "../../agent/driver/driver.ts";
import { AgentError } from "../../agent/driver/errors.ts";
import * as lax from "../../agent/driver/lax.ts";
import type { HidHandle } from "../../agent/sys/hidraw.ts";
import { Turns } from "../power/turns.ts";
import { findUsb, inspectUsb, suggestUsb, type Search } from "../usb/find.ts";
import { hidNodeOf, openHid } from "../usb/hid.ts";
import type { Fingerprint } from "../usb/match.ts";
import { noyitoRelay } from "./interface.ts";
import { hidStatusQuery, longestAnswerBytes } from "./protocol.ts";
import { relayMethods, type Board } from "./relay.ts";

const type = "jumpstarter_driver_noyito_relay.driver.NoyitoPowerHID";

/** As the Python driver has them: what sellers print, "VID 5131 PID 2007", read as decimal numbers. */
const printed = { vendorId: 5131, productId: 2007 };
/** As boards show themselves in sysfs: the same digits are hexadecimal. */
const real = { vendorId: 0x5131, productId: 0x2007 };
const bothPrints: readonly Fingerprint[] = [printed, real].map((ids) => ({ name: "NOYITO relay", ...ids }));

const config = z
  .strictObject({
    vendor_id: lax.int(0, 0xffff).prefault(printed.vendorId),
    product_id: lax.int(0, 0xffff).prefault(printed.productId).describe("with the defaults, 5131:2007 in hex, too"),
    serial: z.string().nullish().describe("serial number of the board"),
    path: z.string().nullish().describe("where the board is plugged in, as in /sys/bus/usb/devices: 1-1.2"),
    num_channels: lax.number().prefault(4).describe("4 or 8"),
    channel: lax.number().prefault(1),
    all_channels: lax.boolean().prefault(false).describe("switch all channels together"),
    verify: lax.boolean().prefault(false).describe("ask the board after each switch whether it did"),
  })
  .superRefine(({ num_channels, channel, all_channels }, context) => {
    const refuse = (path: string, message: string) => context.addIssue({ code: "custom", path: [path], message });
    if (num_channels !== 4 && num_channels !== 8)
      refuse("num_channels", `num_channels must be 4 or 8, got ${num_channels}`);
    else if (!all_channels && !(Number.isInteger(channel) && channel >= 1 && channel <= num_channels)) {
      refuse("channel", `channel must be 1..${num_channels}, got ${channel}`);
    }
  });
type Config = z.output<typeof config>;

function searchOf({ vendor_id, product_id, serial, path }: Config): Search {
  const asPrinted = vendor_id === printed.vendorId && product_id === printed.productId;
  const prints = asPrinted ? bothPrints : [{ name: "NOYITO relay", vendorId: vendor_id, productId: product_id }];
  return { what: "NOYITO relay", prints, wanted: { serial, path } };
}

/** As the Python driver waits for an answer. */
const answerTimeoutMs = 500;

export default defineDriver({
  types: [type],
  summary: "A channel of a NOYITO HID relay board with 4 or 8 channels.",
  implements: noyitoRelay,
  hotPlugged: true,
  config,
  inspect: (config) => inspectUsb(searchOf(config), hidNodeOf),
  suggest: () =>
    suggestUsb(bothPrints, (_match, wanted) => [{ name: "relay", entry: { type, config: { ...wanted, channel: 1 } } }]),
  needs: () => ({ rights: ["hid"] }),
  async open({ config, ...context }) {
    const search = searchOf(config);
    const check = async () => void (await hidNodeOf((await findUsb(search)).device));
    await check();
    const all = Array.from({ length: config.num_channels }, (_, index) => index + 1);
    const methods = relayMethods({
      channels: config.all_channels ? all : [config.channel],
      label: (channel) => `${channel}`,
      verify: config.verify,
      async use({ signal }, step) {
        const { device } = await findUsb(search);
        const turns = context.sharedOnHost(`noyito ${device.path}`, () => new Turns());
        return turns.take(signal, async () => {
          const hid = await openHid(device);
          try {
            return await step(boardOf(hid, signal));
          } finally {
            await hid.close();
          }
        });
      },
    });
    return { methods, check };
  },
});

function boardOf(hid: HidHandle, signal: AbortSignal): Board {
  return {
    write: (bytes) => hid.write(bytes),
    async ask(enough) {
      hid.flush();
      await hid.write(hidStatusQuery);
      let answer = "";
      // Eight channels do not fit into one report.
      while (!enough(answer) && answer.length < longestAnswerBytes) {
        try {
          answer += (await hid.read(answerTimeoutMs, signal)).toString("latin1");
        } catch (error) {
          if (error instanceof AgentError && error.code === "E_TIMEOUT") break;
          throw error;
        }
      }
      return answer;
    },
  };
}
