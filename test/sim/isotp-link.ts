import type { Address } from "../../boards/isotp/address.ts";
import { IsoTpMachine, type LinkFrame, type MachineSettings } from "../../boards/isotp/machine.ts";
import { isoTpAddress, isoTpParams, machineSettings } from "../../boards/isotp/schema.ts";
import type { Problem } from "../../boards/isotp/problem.ts";
import type { SendRequest } from "../../boards/isotp/sender.ts";
import type * as z from "zod";

export type Params = z.input<typeof isoTpParams>;

export const settingsOf = (params: Params = {}): MachineSettings => machineSettings(isoTpParams.parse(params));
export const addressOf = (given: z.input<typeof isoTpAddress>): Address => isoTpAddress.parse(given);

/** The same connection, seen by the other node. */
export const turned = ({ tx, rx }: Address): Address => ({ tx: rx, rx: tx });

/** One node: everything that its machine did, and the time by which it did it. */
export interface Node {
  readonly machine: IsoTpMachine;
  readonly received: Uint8Array[];
  readonly problems: Problem[];
  readonly sent: { readonly atMs: number; readonly frame: LinkFrame }[];
  /** False: received messages are refused. */
  room: boolean;
  /** Begins to send. */
  send(message: Uint8Array, target?: "physical" | "functional"): Sending;
}

export interface Sending {
  readonly request: SendRequest;
  /** Undefined until the end, null if it went well. */
  result: Problem | null | undefined;
}

/** What becomes of a frame: when it arrives at the other nodes, as a rule once; or it cannot even be sent. */
export type Fate = { readonly afterMs: readonly number[] } | "refused" | "stuck";

export interface Link {
  readonly nowMs: number;
  node(address: Address, params?: Params): Node;
  /** A frame of somebody who is no node here. */
  inject(frame: Partial<LinkFrame> & { readonly id: number; readonly data: Uint8Array }): void;
  /** Lets time pass, at most so much, until nothing is left to happen. */
  run(mostMs?: number): void;
}

/**
 * A CAN bus on a clock of its own, which runs as fast as it can. Every frame takes `frameMs` to leave.
 * @param fate of each frame, in the order in which they are sent
 */
export function createLink({
  frameMs = 0.1,
  fate = () => ({ afterMs: [0] }),
}: {
  frameMs?: number;
  fate?: (frame: LinkFrame, atMs: number) => Fate;
} = {}): Link {
  const nodes: Node[] = [];
  const events: { readonly atMs: number; readonly number: number; readonly run: () => void }[] = [];
  let nowMs = 0;
  let numbers = 0;
  const at = (atMs: number, run: () => void) => {
    const event = { atMs, number: (numbers += 1), run };
    let index = events.length;
    while (index > 0 && (events[index - 1]?.atMs ?? 0) > atMs) index -= 1;
    events.splice(index, 0, event);
  };

  return {
    get nowMs() {
      return nowMs;
    },
    node(address, params = {}) {
      const received: Uint8Array[] = [];
      const problems: Problem[] = [];
      const sent: Node["sent"] = [];
      const machine = new IsoTpMachine(settingsOf(params), address, {
        deliver: (message) => received.push(message),
        hasRoom: () => node.room,
        problem: (problem) => problems.push(problem),
        giveUp: () => {},
        send: (frame, number) => {
          sent.push({ atMs: nowMs, frame });
          const will = fate(frame, nowMs);
          if (will === "stuck") return;
          const leavesMs = nowMs + frameMs;
          if (will === "refused") return at(leavesMs, () => machine.failed(number, "the bus is off", nowMs));
          for (const afterMs of will.afterMs) {
            at(leavesMs + afterMs, () => {
              for (const other of nodes) if (other !== node) other.machine.receive(frame, nowMs);
            });
          }
          at(leavesMs, () => machine.sent(number, nowMs));
        },
      });
      const node: Node = {
        machine,
        received,
        problems,
        sent,
        room: true,
        send(message, target = "physical") {
          const sending: Sending = {
            request: { message, target, done: (problem) => (sending.result = problem ?? null) },
            result: undefined,
          };
          machine.submit(sending.request, nowMs);
          return sending;
        },
      };
      nodes.push(node);
      return node;
    },
    inject(frame) {
      const complete = { extended: false, fd: false, bitrateSwitch: false, ...frame };
      for (const node of nodes) node.machine.receive(complete, nowMs);
    },
    run(mostMs = Infinity) {
      const untilMs = nowMs + mostMs;
      for (let steps = 0; ; steps += 1) {
        if (steps > 5_000_000) throw new Error("it never ends");
        const due = nodes.filter(({ machine }) => machine.deadlineMs !== undefined);
        const timerMs = Math.min(...due.map(({ machine }) => machine.deadlineMs ?? Infinity));
        const [event] = events;
        const nextMs = Math.max(nowMs, Math.min(event?.atMs ?? Infinity, timerMs));
        if (nextMs > untilMs || nextMs === Infinity) break;
        nowMs = nextMs;
        // What has arrived counts before time is up.
        if (event !== undefined && event.atMs <= nowMs) {
          events.shift();
          event.run();
        } else for (const { machine } of due) machine.onTime(nowMs);
      }
      if (untilMs !== Infinity) nowMs = untilMs;
    },
  };
}

export const plainAddress = (txid = 0x7e0, rxid = 0x7e8): Address => addressOf({ txid, rxid });
