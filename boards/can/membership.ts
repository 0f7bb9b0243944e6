import type { OpenContext } from "../../agent/driver/driver.ts";
import { AgentError } from "../../agent/driver/errors.ts";
import type { CanBus, CanFilter, CanFrame } from "./bus.ts";
import { FrameQueue } from "./frame-queue.ts";
import { openBus, type BusSettings } from "./open.ts";
import { PeriodicTasks } from "./periodic.ts";
import { passes } from "./protocol.ts";

/** What one lease has of a bus: received frames, periodic tasks, filters. */
export interface Membership {
  readonly bus: CanBus;
  readonly queue: FrameQueue;
  readonly tasks: PeriodicTasks;
  /** Why the interface is not there any more. */
  readonly lost: Error | undefined;
  /** True if what comes has passed the filters already. */
  readonly filtered: boolean;
  /** @throws AgentError E_UNSUPPORTED where the interface cannot */
  applyFilters(filters: readonly CanFilter[] | null): void;
  /** Frames from now on, in a queue of their own. */
  subscribe(filters: readonly CanFilter[] | null): Subscription;
  status(): Promise<Status>;
  /** Sends and receives nothing more; the tasks are stopped and still known. Idempotent. */
  leaveBus(): void;
  /** The same, and nothing is known any more. Idempotent. */
  forget(): void;
}

interface Subscription {
  readonly queue: FrameQueue;
  stop(this: void): void;
}

interface Status {
  readonly channel_info: string;
  readonly state: Awaited<ReturnType<CanBus["state"]>>;
  readonly bitrate: number | null;
  readonly data_bitrate: number | null;
  readonly send_errors: number | null;
  readonly receive_errors: number | null;
  readonly bus_errors: number | null;
  readonly bus_offs: number | null;
  readonly restarts: number | null;
  readonly queued_frames: number;
  readonly dropped_frames: number;
  readonly lost_frames: number;
}

/** @throws what {@link openBus} throws */
export async function openMembership(
  settings: BusSettings,
  queueFrames: number,
  context: Pick<OpenContext<unknown>, "sharedOnHost" | "log">,
): Promise<Membership> {
  const { log } = context;
  const bus = await openBus(settings, context);
  const queues = new Set<FrameQueue>();
  let lost: Error | undefined;
  let isTold = false;

  const addQueue = (filters: readonly CanFilter[] | null): Subscription => {
    const queue = new FrameQueue(queueFrames);
    queues.add(queue);
    const onFrame = (frame: CanFrame) => {
      if (!passes(filters, frame)) return;
      queue.push(frame);
      if (queue.dropped === 0 || isTold) return;
      isTold = true;
      log.warn(`${bus.channelInfo}: ${queueFrames} frames wait to be fetched; from now on the oldest go`);
    };
    const unlisten = bus.listen(onFrame, (error) => {
      if (lost === undefined) log.warn(error.message);
      lost = error;
      tasks.stopAll();
      queue.close(error);
    });
    const stop = () => {
      unlisten();
      queues.delete(queue);
    };
    return { queue, stop };
  };

  const tasks = new PeriodicTasks({ send: (frame) => bus.send(frame), warn: (text) => log.warn(text) });
  const { queue } = addQueue(null);

  const leaveBus = () => {
    tasks.stopAll();
    bus.close();
    const reason = new AgentError("E_FAILED", "Cannot operate on a closed bus");
    for (const each of queues) each.close(reason);
    queues.clear();
  };

  return {
    bus,
    queue,
    tasks,
    get lost() {
      return lost;
    },
    filtered: bus.setFilters !== undefined,
    applyFilters(filters) {
      // python-can then filters by itself.
      if (bus.setFilters === undefined) throw new AgentError("E_UNSUPPORTED", "virtual buses do not filter");
      bus.setFilters(filters);
      // What came before and is not fetched yet has passed the old ones only.
      queue.keep((frame) => passes(filters, frame));
    },
    subscribe: addQueue,
    async status() {
      const link = bus.link?.();
      const controller = link?.controller;
      return {
        channel_info: bus.channelInfo,
        state: await bus.state(),
        bitrate: controller?.bitrate ?? null,
        data_bitrate: controller?.fd === true ? controller.dataBitrate : null,
        send_errors: controller?.sendErrors ?? null,
        receive_errors: controller?.receiveErrors ?? null,
        bus_errors: controller?.busErrors ?? null,
        bus_offs: controller?.busOffs ?? null,
        restarts: controller?.restarts ?? null,
        queued_frames: queue.length,
        dropped_frames: queue.dropped,
        lost_frames: bus.lostFrames,
      };
    },
    leaveBus,
    forget() {
      leaveBus();
      tasks.clear();
    },
  };
}
