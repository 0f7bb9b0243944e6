import { constants } from "node:fs";
import { access, realpath } from "node:fs/promises";
import * as z from "zod";
import { defineDriver, type Finding } from "../../agent/driver/driver.ts";
import { DeviceOffline, toAgentError } from "../../agent/driver/errors.ts";
import * as lax from "../../agent/driver/lax.ts";
import { Turns } from "../power/turns.ts";
import { noyitoRelay } from "./interface.ts";
import { serialChannels } from "./protocol.ts";
import { relayMethods } from "./relay.ts";
import { portRights } from "../serial/open.ts";
import { openBoard } from "./tty.ts";

const config = z
  .strictObject({
    port: z.string().min(1).describe("device of the board, better by-path: its CH340 has no serial number"),
    channel: lax.number().prefault(1).describe("1 or 2"),
    all_channels: lax.boolean().prefault(false).describe("switch both channels together"),
    verify: lax.boolean().prefault(false).describe("ask the board after each switch whether it did"),
  })
  .superRefine(({ channel, all_channels }, context) => {
    if (all_channels || serialChannels.includes(channel)) return;
    context.addIssue({ code: "custom", path: ["channel"], message: `channel must be 1 or 2, got ${channel}` });
  });

/** Looked at, not opened. */
async function present(port: string): Promise<void> {
  await access(port, constants.R_OK | constants.W_OK).catch((cause: unknown) => {
    throw new DeviceOffline(`NOYITO relay at ${port} is not usable: ${toAgentError(cause).message}`, { cause });
  });
}

export default defineDriver({
  types: ["jumpstarter_driver_noyito_relay.driver.NoyitoPowerSerial"],
  summary: "A channel of a NOYITO relay board with 1 or 2 channels, on a serial port.",
  implements: noyitoRelay,
  hotPlugged: true,
  config,
  async inspect({ port }): Promise<Finding[]> {
    try {
      await present(port);
      return [{ ok: true, text: `NOYITO relay at ${port}` }];
    } catch (error) {
      return [{ ok: false, text: toAgentError(error).message, hint: "is it plugged in, and may this user open it?" }];
    }
  },
  needs: ({ port }) => ({ rights: portRights(port) }),
  async open({ config: { port, channel, all_channels, verify }, ...context }) {
    await present(port);
    const methods = relayMethods({
      channels: all_channels ? serialChannels : [channel],
      label: (number) => `CH${number}`,
      verify,
      async use({ signal }, step) {
        // Two drivers of one board may call it by different names.
        const device = await realpath(port).catch(() => port);
        const turns = context.sharedOnHost(`noyito ${device}`, () => new Turns());
        return turns.take(signal, async () => {
          const board = await openBoard(port, signal);
          try {
            return await step(board);
          } finally {
            await board.close();
          }
        });
      },
    });
    return { methods, check: () => present(port) };
  },
});
