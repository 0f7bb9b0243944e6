import * as z from "zod";
import { defineDriver } from "../../agent/driver/driver.ts";
import { AgentError } from "../../agent/driver/errors.ts";
import * as lax from "../../agent/driver/lax.ts";
import { busAddress, openBus } from "../can/open.ts";
import { Inbox } from "../../agent/stream/inbox.ts";
import { isoTp } from "./interface.ts";
import { problem, type Problem } from "./problem.ts";
import { singleFrameLimit } from "./protocol.ts";
import { isoTpAddress, isoTpParams, machineSettings } from "./schema.ts";
import type { SendRequest } from "./sender.ts";
import { IsoTpConnection } from "./transport.ts";

/** What waits at most, each way. */
const limits = { messages: 4096, bytes: 64 << 20 };

/** Longer times than a timer takes mean: forever. */
const longestTimerMs = 0x7fff_ffff;

const stopped = problem("N_ERROR", "stopped");
const givenUp = problem("N_ERROR", "given up by the sender");

export default defineDriver({
  types: ["jumpstarter_driver_can.driver.IsoTpPython", "jumpstarter_driver_can.IsoTpPython"],
  summary: "ISO-TP (ISO 15765-2) over any CAN interface.",
  implements: isoTp,
  config: z.strictObject({
    interface: z
      .string()
      .nullable()
      .describe("socketcan, virtual, or null: what CAN_INTERFACE in the agent's environment says"),
    channel: z
      .union([z.string(), z.int()])
      .nullable()
      .describe("name of the network interface, like can0; any name of a virtual bus; null: what CAN_CHANNEL says"),
    address: isoTpAddress.describe("whom to speak with"),
    params: isoTpParams.prefault({}),
    read_timeout: lax.number().prefault(0.05).describe("taken, and of no effect"),
  }),
  hotPlugged: true,
  needs: (given) => (busAddress(given, process.env).interface === "virtual" ? {} : { rights: ["can"] }),
  async inspect(given) {
    const { interface: kind, channel } = busAddress(given, process.env);
    if (kind === "virtual") return [{ ok: true, text: `virtual CAN bus ${channel ?? "without a name"}` }];
    const { inspectInterface } = await import("../can/socketcan.ts");
    return [await inspectInterface(String(channel))];
  },
  async open(context) {
    const { config, log } = context;
    const { params } = config;
    const where = busAddress(config, process.env);
    const fd = params.can_fd ? true : undefined;
    const bus = await openBus({ interface: config.interface, channel: config.channel, fd }, context);
    const inbox = new Inbox(limits);
    let address = config.address;
    let lost: Error | undefined;
    const outgoing = { messages: 0, bytes: 0 };

    const tell = (what: Problem) => {
      // What is not even a frame of the protocol says nothing about a message; a bus may be full of it.
      if (what.text.startsWith("ignored ")) log.debug(what.text);
      else log.warn(what.text);
    };
    const connection = new IsoTpConnection(bus, machineSettings(params), address, {
      deliver: (message) => inbox.put(message),
      hasRoom: (bytes) => inbox.hasRoom(bytes),
      problem: tell,
    });
    const stop = () => {
      connection.stop(stopped);
      inbox.clear();
    };
    const demandBus = () => {
      if (lost !== undefined) throw lost;
    };

    /** Queues a message. @param done with what went wrong, when it has ended */
    const submit = (message: Uint8Array, isFunctional: boolean, done: (problem?: Problem) => void): SendRequest => {
      if (outgoing.messages >= limits.messages || outgoing.bytes + message.length > limits.bytes) {
        throw new AgentError("E_FAILED", "Transmit queue is full");
      }
      outgoing.messages += 1;
      outgoing.bytes += message.length;
      const request: SendRequest = {
        message,
        target: isFunctional ? "functional" : "physical",
        done: (why) => {
          outgoing.messages -= 1;
          outgoing.bytes -= message.length;
          done(why);
        },
      };
      connection.submit(request);
      return request;
    };

    const sendToEnd = async (
      message: Uint8Array,
      isFunctional: boolean,
      seconds: number | undefined,
      signal: AbortSignal,
    ) => {
      signal.throwIfAborted();
      let end!: (why?: Problem) => void;
      const ended = new Promise<Problem | undefined>((resolve) => (end = resolve));
      const request = submit(message, isFunctional, end);
      // Who is told that a message was not sent must not see it arrive later.
      const giveUp = () => connection.withdraw(request, givenUp);
      const isTimed = seconds !== undefined && seconds * 1000 <= longestTimerMs;
      const timer = isTimed ? setTimeout(giveUp, seconds * 1000) : undefined;
      signal.addEventListener("abort", giveUp, { once: true });
      const why = await ended;
      clearTimeout(timer);
      signal.removeEventListener("abort", giveUp);
      if (why === undefined) return;
      if (why !== givenUp) throw new AgentError("E_FAILED", `Error while sending IsoTP frame: ${why.text}`);
      signal.throwIfAborted();
      throw new AgentError("E_FAILED", "Failed to send IsoTP frame in time");
    };

    return {
      methods: {
        start() {
          demandBus();
          if (connection.started) throw new AgentError("E_FAILED", "Transport Layer is already started");
          connection.start((error) => {
            lost = error;
            log.warn(`the CAN interface has gone: ${error.message}`);
            connection.stop(problem("N_ERROR", error.message));
          });
        },
        stop,
        send({ signal }, { data }, targetType, seconds) {
          demandBus();
          if (params.listen_mode) throw new AgentError("E_FAILED", "Cannot transmit when listen_mode=True");
          const isFunctional = (targetType ?? params.default_target_address_type) === 1;
          if (isFunctional && data.length > singleFrameLimit(params.tx_data_length, address.tx.prefix.length)) {
            throw new AgentError("E_INVALID", "Cannot send multi packet frame with Functional TargetAddressType");
          }
          if (params.blocking_send) return sendToEnd(data, isFunctional, seconds ?? undefined, signal);
          submit(data, isFunctional, (why) => {
            if (why !== undefined && why !== stopped) {
              log.warn(`a message of ${data.length} bytes was not sent: ${why.text}`);
            }
          });
          return undefined;
        },
        async recv({ signal }, block, seconds) {
          const timeoutMs = block !== true ? 0 : seconds == null ? undefined : seconds * 1000;
          const message = timeoutMs === 0 ? inbox.take() : await inbox.wait({ timeoutMs, signal });
          return { data: message === undefined ? null : Buffer.from(message).toString("base64") };
        },
        available: () => !inbox.empty,
        transmitting: () => connection.transmitting,
        set_address(_call, wanted) {
          address = wanted;
          connection.setAddress(wanted);
        },
        stop_sending: () => connection.stopSending(stopped),
        stop_receiving: () => connection.stopReceiving(),
      },
      async check() {
        demandBus();
        if (where.interface !== "socketcan") return;
        const { checkInterface } = await import("../can/socketcan.ts");
        await checkInterface(String(where.channel));
      },
      release() {
        stop();
        address = config.address;
        connection.setAddress(address);
      },
      close() {
        stop();
        bus.close();
      },
    };
  },
});
