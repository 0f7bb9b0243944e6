import * as z from "zod";
import { defineDriver } from "../../agent/driver/driver.ts";
import { AgentError } from "../../agent/driver/errors.ts";
import * as lax from "../../agent/driver/lax.ts";
import { anySignal } from "../../agent/sys/any-signal.ts";
import { busAddress, openBus } from "../can/open.ts";
import { addressProblem, resolveAddress, type AddressFields } from "../isotp/address.ts";
import { Inbox } from "../../agent/stream/inbox.ts";
import { problem, type Problem } from "../isotp/problem.ts";
import { isoTpParams, machineSettings } from "../isotp/schema.ts";
import { IsoTpConnection } from "../isotp/transport.ts";
import { requestTimeout } from "./config.ts";
import { Conversation, type DiagnosticChannel } from "./conversation.ts";
import { uds } from "./interface.ts";
import { udsMethods } from "./methods.ts";

/** What waits to be fetched; a server says one thing at a time. */
const inboxLimits = { messages: 64, bytes: 8 << 20 };
const longestShortId = 0x7ff;
const stopped = problem("N_ERROR", "stopped");
const givenUp = problem("N_ERROR", "given up");

const config = z
  .strictObject({
    channel: z.union([z.string(), z.int()]).describe("name of the network interface, like can0"),
    interface: z.string().default("socketcan").describe("socketcan, or virtual"),
    rxid: lax.int(0, 0x1fff_ffff).describe("CAN id that the ECU sends with"),
    txid: lax.int(0, 0x1fff_ffff).describe("CAN id that the ECU listens to"),
    request_timeout: requestTimeout(),
    isotp_params: isoTpParams.nullish().transform((params) => params ?? isoTpParams.parse({})),
  })
  .superRefine((given, context) => {
    const wrong = addressProblem(addressFields(given));
    if (wrong !== undefined) context.addIssue(wrong);
  });

/** Ids that do not fit into 11 bits have 29. */
function addressFields({ rxid, txid }: { readonly rxid: number; readonly txid: number }): AddressFields {
  return {
    addressing_mode: Math.max(rxid, txid) > longestShortId ? "Normal_29bits" : "Normal_11bits",
    rxid,
    txid,
    target_address: undefined,
    source_address: undefined,
    physical_id: undefined,
    functional_id: undefined,
    address_extension: undefined,
    rx_only: false,
    tx_only: false,
  };
}

export default defineDriver({
  types: ["jumpstarter_driver_uds_can.driver.UdsCan"],
  summary: "UDS (ISO 14229) with an ECU over ISO-TP, on a CAN bus.",
  implements: uds,
  config,
  hotPlugged: true,
  needs: (given) => (busAddress(given, process.env).interface === "virtual" ? {} : { rights: ["can"] }),
  async inspect(given) {
    const { interface: kind, channel } = busAddress(given, process.env);
    if (kind === "virtual") return [{ ok: true, text: `virtual CAN bus ${channel}` }];
    const { inspectInterface } = await import("../can/socketcan.ts");
    return [await inspectInterface(String(channel))];
  },
  async open(context) {
    const { config: given, log } = context;
    const params = given.isotp_params;
    const where = busAddress(given, process.env);
    const fd = params.can_fd ? true : undefined;
    const bus = await openBus({ interface: given.interface, channel: given.channel, fd }, context);
    const inbox = new Inbox(inboxLimits);
    let lost: Error | undefined;
    const gone = new AbortController();
    const connection = new IsoTpConnection(bus, machineSettings(params), resolveAddress(addressFields(given)), {
      deliver: (message) => inbox.put(message),
      hasRoom: (bytes) => inbox.hasRoom(bytes),
      problem: ({ text }) => log.debug(text),
    });
    connection.start((error) => {
      lost = error;
      gone.abort(error);
      log.warn(`the CAN interface has gone: ${error.message}`);
      connection.stop(problem("N_ERROR", error.message));
    });

    const send = async (message: Uint8Array, signal: AbortSignal) => {
      let end!: (why?: Problem) => void;
      const ended = new Promise<Problem | undefined>((resolve) => (end = resolve));
      const request = { message, target: "physical" as const, done: end };
      connection.submit(request);
      const giveUp = () => connection.withdraw(request, givenUp);
      signal.addEventListener("abort", giveUp, { once: true });
      const why = await ended;
      signal.removeEventListener("abort", giveUp);
      signal.throwIfAborted();
      if (lost !== undefined) throw lost;
      if (why === undefined) return;
      const code = why.result.startsWith("N_TIMEOUT") ? "E_TIMEOUT" : "E_FAILED";
      throw new AgentError(code, `the request was not sent: ${why.text}`);
    };
    const channel: DiagnosticChannel = {
      forgetReceived: () => inbox.clear(),
      send,
      receive: ({ timeoutMs, signal }) => inbox.wait({ timeoutMs, signal: anySignal([signal, gone.signal]) }),
    };
    const conversation = new Conversation(
      async () => {
        if (lost !== undefined) throw lost;
        return channel;
      },
      given.request_timeout * 1000,
      log,
    );

    return {
      methods: udsMethods(conversation),
      async check() {
        if (lost !== undefined) throw lost;
        if (where.interface !== "socketcan") return;
        const { checkInterface } = await import("../can/socketcan.ts");
        await checkInterface(String(where.channel));
      },
      release() {
        inbox.clear();
        conversation.reset();
      },
      close() {
        connection.stop(stopped);
        bus.close();
      },
    };
  },
});
