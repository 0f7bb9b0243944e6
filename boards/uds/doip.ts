import * as z from "zod";
import { defineDriver } from "../../agent/driver/driver.ts";
import { doipConfig, doipSettings } from "../doip/config.ts";
import { DoipLink } from "../doip/link.ts";
import { requestTimeout } from "./config.ts";
import { Conversation } from "./conversation.ts";
import { uds } from "./interface.ts";
import { udsMethods } from "./methods.ts";

/** Routing activation: the default type. */
const activationType = 0;

export default defineDriver({
  types: ["jumpstarter_driver_uds_doip.driver.UdsDoip"],
  summary: "UDS (ISO 14229) with an ECU over DoIP.",
  implements: uds,
  config: z.strictObject({ ...doipConfig, request_timeout: requestTimeout() }),
  open({ config, log }) {
    // Always anew: the interface has no way to ask for it, and an ECU that was reset has closed its connections.
    const link = new DoipLink(doipSettings(config, activationType), log, true);
    const open = async (signal: AbortSignal) => {
      const connection = await link.use(signal);
      return {
        forgetReceived: () => connection.forgetReceived(),
        send: (message: Uint8Array, each: AbortSignal) => connection.sendDiagnostic(message, each),
        receive: (options: Parameters<typeof connection.receiveDiagnostic>[0]) => connection.receiveDiagnostic(options),
      };
    };
    const conversation = new Conversation(open, config.request_timeout * 1000, log);
    return {
      methods: udsMethods(conversation),
      release() {
        link.reset();
        conversation.reset();
      },
      close: () => link.shut(),
    };
  },
});
