import * as z from "zod";
import { defineDriver } from "../../agent/driver/driver.ts";
import { AgentError } from "../../agent/driver/errors.ts";
import { unsupported } from "../../agent/driver/interface.ts";
import { anySignal } from "../../agent/sys/any-signal.ts";
import { loadIsoTp } from "../../agent/sys/isotp.ts";
import { checkInterface, inspectInterface } from "../can/socketcan.ts";
import { isoTp } from "./interface.ts";
import { KernelConnection } from "./kernel-connection.ts";
import { isoTpAddress, isoTpParams, machineSettings } from "./schema.ts";

const notByKernel = unsupported("the ISO-TP of the kernel cannot do this; IsoTpPython can");

export default defineDriver({
  types: ["jumpstarter_driver_can.driver.IsoTpSocket", "jumpstarter_driver_can.IsoTpSocket"],
  summary: "ISO-TP (ISO 15765-2) by the Linux kernel, on a SocketCAN interface.",
  implements: isoTp,
  config: z.strictObject({
    channel: z.string().describe("name of the network interface, such as can0"),
    address: isoTpAddress.describe("whom to speak with"),
    params: isoTpParams.prefault({}).describe("timeouts, max_frame_size and the rate limit are the kernel's own"),
  }),
  hotPlugged: true,
  inspect: async ({ channel }) => [await inspectInterface(channel)],
  needs: () => ({ modules: ["can_isotp"], rights: ["can"] }),
  async open({ config, log }) {
    const { channel, address, params } = config;
    await checkInterface(channel);
    const sockets = await loadIsoTp();
    let connection: KernelConnection | undefined;

    const started = () => {
      if (connection === undefined) throw new AgentError("E_INVALID", "socket not started");
      return connection;
    };
    const stop = async () => {
      const last = connection;
      connection = undefined;
      await last?.close(new AgentError("E_FAILED", "the socket was stopped"));
    };

    return {
      methods: {
        start() {
          if (connection !== undefined) throw new AgentError("E_INVALID", "socket already started");
          const { tx, rx } = address;
          if (tx.prefix.length !== rx.prefix.length) {
            throw new AgentError(
              "E_INVALID",
              "The IsoTP socket module does not support asymmetric addresses with inconsistent address_extension byte",
            );
          }
          if (!params.can_fd && params.tx_data_length > 8) {
            throw new AgentError("E_INVALID", `frames of ${params.tx_data_length} bytes need can_fd`);
          }
          const settings = machineSettings(params);
          const socket = sockets.open({
            interfaceName: channel,
            // A socket of the kernel knows one id; who wants the functional one gives it as txid.
            tx: { id: tx.id.physical, extended: tx.extended },
            rx: { id: rx.id.physical, extended: rx.extended },
            txPrefix: tx.prefix[0],
            rxPrefix: rx.prefix[0],
            padding: settings.layout.padding,
            blockSize: settings.blockSize,
            stmin: settings.stmin,
            waitLimit: settings.waitLimit,
            fd: settings.fd,
            bitrateSwitch: settings.bitrateSwitch,
            frameBytes: settings.layout.frameBytes,
            listenOnly: settings.listenOnly,
            overrideSeparationMs: settings.overrideSeparationMs,
          });
          connection = new KernelConnection(socket, channel, ({ text }) => log.warn(text));
        },
        async stop() {
          started();
          await stop();
        },
        async send({ signal }, { data }, _targetType, seconds) {
          const socket = started();
          if (params.listen_mode) throw new AgentError("E_FAILED", "Cannot transmit when listen_mode=True");
          if (!params.blocking_send || seconds == null) return socket.send(data, params.blocking_send, signal);
          const timeout = AbortSignal.timeout(Math.round(Math.min(seconds * 1000, 0x7fff_ffff)));
          try {
            await socket.send(data, true, anySignal([signal, timeout]));
          } catch (error) {
            if (!timeout.aborted || signal.aborted) throw error;
            throw new AgentError("E_FAILED", "Failed to send IsoTP frame in time", { cause: error });
          }
        },
        async recv({ signal }, block, seconds) {
          const timeoutMs = block !== true ? 0 : seconds == null ? undefined : seconds * 1000;
          const message = await started().receive(timeoutMs, signal);
          return { data: message?.toString("base64") ?? null };
        },
        available: notByKernel,
        transmitting: notByKernel,
        set_address: notByKernel,
        stop_sending: notByKernel,
        stop_receiving: notByKernel,
      },
      check: () => checkInterface(channel),
      release: stop,
      close: stop,
    };
  },
});
