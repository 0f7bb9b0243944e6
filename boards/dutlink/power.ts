import { setTimeout as sleep } from "node:timers/promises";
import * as z from "zod";
import { defineDriver, type Call } from "../../agent/driver/driver.ts";
import { AgentError } from "../../agent/driver/errors.ts";
import { inspectUsb } from "../usb/find.ts";
import { boardConfig, boardOf, controlNodeOf, searchOf, storageKeys } from "./board.ts";
import { dutlinkPower } from "./interface.ts";
import {
  parseMeter,
  powerRequest,
  readRequest,
  refreshRequest,
  replyBytes,
  replyText,
  type PowerAction,
} from "./protocol.ts";

/** As often as the Python driver looks; the meter itself shows an average of 2 s. */
const lookAgainMs = 1_000;

export default defineDriver({
  types: ["jumpstarter_driver_dutlink.driver.DutlinkPower"],
  summary: "Power switch and meter of a DUTLink board.",
  implements: dutlinkPower,
  hotPlugged: true,
  config: z.strictObject({
    ...boardConfig,
    ...storageKeys,
    last_action: z.unknown().optional().describe("ignored; the Python exporter takes it by accident"),
  }),
  needs: () => ({ rights: ["usb"] }),
  inspect: (config) => inspectUsb(searchOf(config), controlNodeOf),
  async open({ config, log, ...context }) {
    const board = boardOf(config, context);
    await board.check();

    // Sent even if it is what was done last: nobody can ask the board how it stands, and its own shell or a reset may have changed it.
    const act = ({ signal }: Call, action: PowerAction) =>
      board.exchange(signal, async ({ controlOut, interfaceNumber, timeoutMs, name }) => {
        await controlOut(powerRequest(action, interfaceNumber), new Uint8Array(0), timeoutMs);
        log.info(`power ${action}: ${name}`);
      });

    const measure = (signal: AbortSignal) =>
      board.exchange(signal, async ({ controlIn, controlOut, interfaceNumber, timeoutMs, name }) => {
        await controlOut(refreshRequest(interfaceNumber), new Uint8Array(0), timeoutMs);
        const text = replyText(await controlIn(readRequest("power", interfaceNumber), replyBytes, timeoutMs));
        const reading = parseMeter(text);
        if (reading !== undefined) return reading;
        throw new AgentError("E_IO", `the meter of ${name} shows ${JSON.stringify(text.slice(0, 60))}`);
      });

    return {
      methods: {
        on: (call) => act(call, "on"),
        off: (call) => act(call, "off"),
        rescue: (call) => act(call, "rescue"),
        force_on: (call) => act(call, "force-on"),
        force_off: (call) => act(call, "force-off"),
        async *read({ signal }) {
          let last: { voltage: number; current: number } | undefined;
          for (;;) {
            const reading = await measure(signal);
            if (reading.voltage !== last?.voltage || reading.current !== last.current) yield (last = reading);
            await sleep(lookAgainMs, undefined, { signal });
          }
        },
      },
      check: async () => void (await board.check()),
    };
  },
});
