import { isIPv6 } from "node:net";
import * as z from "zod";
import { defineDriver, type Call } from "../../agent/driver/driver.ts";
import { AgentError, DeviceOffline } from "../../agent/driver/errors.ts";
import * as lax from "../../agent/driver/lax.ts";
import { dial } from "../../agent/stream/dial.ts";
import { findProgram } from "../../agent/sys/program.ts";
import { adb } from "./interface.ts";
import { isConnected } from "./protocol.ts";
import { AdbServer } from "./server.ts";

/** For what the server knows without asking a device. */
const answerTimeoutMs = 10_000;

/** For what is done after a call, also one that was cancelled. */
const withdrawing = { timeoutMs: 2_000, signal: new AbortController().signal };

const config = z.strictObject({
  adb_path: z.string().min(1).default("adb").describe("the program adb"),
  host: z.string().min(1).default("127.0.0.1").describe("address at which the ADB server of this host listens"),
  port: lax
    .number()
    .refine((port) => Number.isInteger(port) && port >= 1 && port <= 65_535, {
      error: ({ input }) => `Invalid port number: ${String(input)}`,
    })
    .prefault(15_037)
    .describe("TCP port of the ADB server; adb's own is 5037"),
  connect_timeout: lax
    .number()
    .pipe(z.number().positive("must be more than 0").max(86_400))
    .prefault(30)
    .describe("seconds that connecting to a device may take"),
  enable_address: lax.boolean().prefault(true).describe("tell clients the address, so they may connect directly"),
});

export default defineDriver({
  types: ["jumpstarter_driver_adb.driver.AdbServer"],
  summary: "An ADB server for Android devices on USB or the network; clients reach it through a tunnel.",
  implements: adb,
  config,
  needs: ({ adb_path, port }) => ({
    programs: [adb_path, "setpriv"],
    rights: ["usb"],
    ports: [{ protocol: "tcp", port, hosts: ["127.0.0.1"] }],
  }),
  open({ config: { adb_path, host, port, connect_timeout, enable_address }, log, ...context }) {
    const program = findProgram(adb_path);
    if (program === undefined) {
      const text = adb_path === "adb" ? "ADB executable not found in PATH" : `ADB executable not found: ${adb_path}`;
      throw new DeviceOffline(text, { hint: "apt install adb" });
    }
    const server = context.sharedOnHost(`adb server ${port}`, () => new AdbServer(program, port));
    const user = {};

    const serve = async (call: Call, service: string, what: string, timeoutMs = answerTimeoutMs) => {
      await server.start(user, log);
      return server.ask(service, { timeoutMs, what, signal: call.signal });
    };
    const leave = () => server.leave(user);

    return {
      methods: {
        async connect({ signal }) {
          await server.start(user, log);
          return dial({ host, port, noDelay: true }, `${host}:${port}`, signal);
        },
        address() {
          if (enable_address) return `tcp://${isIPv6(host) ? `[${host}]` : host}:${port}`;
          throw new AgentError("E_INVALID", "enable_address mode is not true in the exporter configuration");
        },
        async start_server() {
          await server.start(user, log);
          return port;
        },
        async kill_server() {
          await server.kill();
          log.info(`ADB server on port ${port} is ended`);
          return port;
        },
        async connect_device(call, device) {
          const what = `adb connect ${device}`;
          const text = await serve(call, `host:connect:${device}`, what, connect_timeout * 1000).catch(
            async (error) => {
              // The server would go on trying, and list the device as offline.
              await server.ask(`host:disconnect:${device}`, { ...withdrawing, what }).catch(() => {});
              throw error;
            },
          );
          // The program adb has exit status 0 for this, too.
          if (!isConnected(text)) throw new AgentError("E_FAILED", `${what} failed: ${text}`);
          log.info(text);
          return `${text}\n`;
        },
        async disconnect_device(call, device) {
          return `${await serve(call, `host:disconnect:${device}`, `adb disconnect ${device}`)}\n`;
        },
        async list_devices(call) {
          return `List of devices attached\n${await serve(call, "host:devices-l", "adb devices")}\n`;
        },
      },
      release: leave,
      close: leave,
    };
  },
});
