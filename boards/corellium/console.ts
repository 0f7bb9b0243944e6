import { defineDriver } from "../../agent/driver/driver.ts";
import { AgentError, toAgentError } from "../../agent/driver/errors.ts";
import { dialWebSocket } from "../../agent/stream/dial-websocket.ts";
import { deviceOf, partConfig } from "./device.ts";
import { corelliumConsole } from "./interface.ts";

/** A console sends lines. */
const mostMessageBytes = 1024 * 1024;

export default defineDriver({
  types: ["jumpstarter_driver_corellium.driver.CorelliumConsole"],
  summary: "Console of a Corellium device.",
  implements: corelliumConsole,
  config: partConfig,
  open(context) {
    const { device_name, console_name, enable_address } = context.config;
    const device = deviceOf(context);
    // Never the URL: it is all that one needs to connect.
    const name = `console ${console_name} of ${device_name}`;
    return {
      methods: {
        connect: async ({ signal, log }) => {
          const url = await device.consoleUrl(signal);
          log.info(`Connecting to ${name}`);
          try {
            return await dialWebSocket(url, name, mostMessageBytes, signal);
          } catch (error) {
            const { code, message } = toAgentError(error);
            throw code === "E_CANCELLED"
              ? error
              : new AgentError("E_CONNECTION", `${name}: ${message}`, { cause: error });
          }
        },
        address: async ({ signal }) => {
          if (enable_address) return device.consoleUrl(signal);
          throw new AgentError("E_INVALID", "enable_address mode is not true in the exporter configuration");
        },
      },
    };
  },
});
