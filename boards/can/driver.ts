import * as z from "zod";
import { defineDriver, type Finding, type HostRight } from "../../agent/driver/driver.ts";
import { AgentError, toAgentError } from "../../agent/driver/errors.ts";
import { unsupported } from "../../agent/driver/interface.ts";
import * as lax from "../../agent/driver/lax.ts";
import type { CanState } from "./bus.ts";
import { can } from "./interface.ts";
import { openMembership, type Membership } from "./membership.ts";
import { toFilters, toFrame, toMessage } from "./messages.ts";
import { busAddress, type BusSettings } from "./open.ts";

/** python-can's BusState. */
const busStates: Record<CanState, 1 | 2 | 3> = {
  "error-active": 1,
  "error-warning": 1,
  "error-passive": 2,
  "bus-off": 3,
  stopped: 3,
};
/** python-can's CanProtocol. */
const [CAN_20, CAN_FD] = [1, 2];
/** Frames of one item of the stream. */
const batchFrames = 256;

const samplePoint = () => lax.number().pipe(z.number().min(0.1).max(0.99)).optional();

const config = z.strictObject({
  interface: z
    .string()
    .nullable()
    .describe("socketcan, virtual, or null: what CAN_INTERFACE in the agent's environment says"),
  channel: z
    .union([z.string(), z.int()])
    .nullable()
    .describe("name of the network interface, like can0; any name of a virtual bus; null: what CAN_CHANNEL says"),
  fd: lax.boolean().optional().describe("send and receive CAN FD frames; by itself, as the interface can"),
  bitrate: lax
    .int(1, 8_000_000)
    .optional()
    .describe("bits a second; sets up the interface, which is otherwise left as it is"),
  dbitrate: lax.int(1, 20_000_000).optional().describe("bits a second of the data of FD frames"),
  sample_point: samplePoint().describe("0 to 1; by itself, what the kernel thinks best"),
  dsample_point: samplePoint(),
  listen_only: lax.boolean().optional().describe("the controller sends nothing, not even acknowledgements"),
  restart_ms: lax.int(0, 3_600_000).optional().describe("how long after bus-off the controller comes back; 0: never"),
  receive_own_messages: lax.boolean().prefault(false),
  rx_queue_size: lax
    .int(1, 1_000_000)
    .prefault(65_536)
    .describe("frames kept until they are fetched; then the oldest go"),
});

function settingsOf(given: z.output<typeof config>): BusSettings {
  return {
    interface: given.interface,
    channel: given.channel,
    fd: given.fd,
    bitrate: given.bitrate,
    dbitrate: given.dbitrate,
    samplePoint: given.sample_point,
    dsamplePoint: given.dsample_point,
    listenOnly: given.listen_only,
    restartMs: given.restart_ms,
    receiveOwnMessages: given.receive_own_messages,
  };
}

export default defineDriver({
  types: ["jumpstarter_driver_can.driver.Can", "jumpstarter_driver_can.Can"],
  summary: "A CAN bus, classic or FD: an interface of Linux (SocketCAN), or a virtual bus among drivers.",
  implements: can,
  config,
  hotPlugged: true,
  async inspect(given) {
    const { interface: kind, channel } = busAddress(given, process.env);
    if (kind === "virtual") return [{ ok: true, text: `virtual CAN bus ${channel ?? "without a name"}` }];
    const { inspectInterface } = await import("./socketcan.ts");
    return [await inspectInterface(String(channel))] satisfies Finding[];
  },
  needs: (given) => {
    if (busAddress(given, process.env).interface === "virtual") return {};
    const rights: HostRight[] = given.bitrate == null ? ["can"] : ["can", "can-setup"];
    return { modules: ["can", "can_raw"], rights };
  },
  async suggest() {
    const { listInterfaces } = await import("./socketcan.ts");
    return (await listInterfaces()).map(({ name, text }) => ({
      name,
      entry: { type: "jumpstarter_driver_can.driver.Can", config: { interface: "socketcan", channel: name } },
      why: text,
    }));
  },

  async open(context) {
    const { rx_queue_size: queueFrames } = context.config;
    const settings = settingsOf(context.config);
    const address = busAddress(settings, process.env);
    const join = () => openMembership(settings, queueFrames, context);

    /** From opening or the start of a lease to its end. */
    let member: Membership | undefined = await join();
    let joining: Promise<Membership> | undefined;
    let hasShutDown = false;

    /** @throws AgentError E_FAILED after `shutdown`; DeviceOffline when the interface has gone */
    const onBus = async (): Promise<Membership> => {
      if (hasShutDown) throw new AgentError("E_FAILED", "Cannot operate on a closed bus");
      if (member !== undefined) {
        if (member.lost !== undefined) throw member.lost;
        return member;
      }
      joining ??= join().finally(() => (joining = undefined));
      member = await joining;
      return member;
    };
    const leave = () => {
      const left = member;
      member = undefined;
      hasShutDown = false;
      left?.forget();
    };

    return {
      methods: {
        async _recv_internal(call, timeoutS) {
          const { queue, filtered } = await onBus();
          let frame = queue.takeNow();
          if (frame === undefined) {
            frame = await queue.take(timeoutS === null ? undefined : timeoutS * 1000, call.signal);
            // It came in the moment in which its receiver gave up.
            if (frame !== undefined && call.signal.aborted) queue.putBack(frame);
          }
          return [frame === undefined ? null : toMessage(frame), filtered];
        },
        async send({ signal }, message, timeoutS) {
          const frame = toFrame(message);
          await (await onBus()).bus.send(frame, { timeoutMs: inMs(timeoutS), signal });
        },
        async _send_periodic_internal(_call, messages, periodS, durationS, autostart) {
          const { tasks } = await onBus();
          const frames = (Array.isArray(messages) ? messages : [messages]).map(toFrame);
          const uuid = tasks.add(frames, periodS, durationS ?? undefined);
          if (autostart ?? true) tasks.start(uuid);
          return uuid;
        },
        async _start_task(_call, uuid) {
          (await onBus()).tasks.start(uuid);
        },
        // Clients stop their tasks after they have shut down.
        _stop_task(_call, uuid) {
          if (member === undefined) throw new AgentError("E_FAILED", `no periodic task ${uuid}`);
          member.tasks.remove(uuid);
        },
        async state(_call, wanted) {
          if (typeof wanted === "number") throw new AgentError("E_UNSUPPORTED", "Property is not implemented.");
          return busStates[await (await onBus()).bus.state()];
        },
        async protocol() {
          const { bus } = await onBus();
          return (settings.fd ?? (address.interface === "socketcan" && bus.fd)) ? CAN_FD : CAN_20;
        },
        channel_info: async () => (await onBus()).bus.channelInfo,
        async _apply_filters(_call, filters) {
          (await onBus()).applyFilters(toFilters(filters));
        },
        flush_tx_buffer: unsupported(`a ${address.interface} bus cannot forget what it was given to send`),
        shutdown() {
          hasShutDown = true;
          member?.leaveBus();
        },

        async *frames({ signal }, filters) {
          const { queue, stop } = (await onBus()).subscribe(toFilters(filters));
          try {
            for (;;) {
              const batch = [];
              // None without a time limit is never taken for the end.
              let frame = await queue.take(undefined, signal);
              for (; frame !== undefined; frame = batch.length < batchFrames ? queue.takeNow() : undefined) {
                batch.push(toMessage(frame));
              }
              yield batch;
            }
          } finally {
            stop();
          }
        },
        async send_frames({ signal }, messages, timeoutS) {
          const frames = messages.map(toFrame);
          const { bus } = await onBus();
          for (const [index, frame] of frames.entries()) {
            try {
              await bus.send(frame, { timeoutMs: inMs(timeoutS), signal });
            } catch (thrown) {
              const error = toAgentError(thrown);
              const text = `${index} of ${frames.length} frames were sent, then: ${error.message}`;
              throw new AgentError(error.code, text, { cause: thrown, hint: error.hint });
            }
          }
        },
        status: async () => (await onBus()).status(),
        async restart() {
          const { bus } = await onBus();
          if (bus.restart === undefined) throw new AgentError("E_UNSUPPORTED", "this bus has no controller to restart");
          bus.restart();
        },
      },
      async reset() {
        leave();
        await onBus();
      },
      release: leave,
      close: leave,
      async check() {
        if (member?.lost !== undefined) throw member.lost;
        if (address.interface !== "socketcan") return;
        const { checkInterface } = await import("./socketcan.ts");
        await checkInterface(String(address.channel));
      },
    };
  },
});

function inMs(seconds: number | null | undefined): number | undefined {
  return seconds === null || seconds === undefined ? undefined : seconds * 1000;
}
