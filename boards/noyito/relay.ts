import type { Call } from "../../agent/driver/driver.ts";
import { AgentError } from "../../agent/driver/errors.ts";
import { unsupported } from "../../agent/driver/interface.ts";
import { readStatus, relayCommand, summary, type Channels } from "./protocol.ts";

/** A board that is open for one call. */
export interface Board {
  write(bytes: Uint8Array): Promise<void>;
  /** Asks for the state. @returns all that came until `enough` is content, or the board has fallen silent */
  ask(enough: (answer: string) => boolean): Promise<string>;
}

export interface RelayOptions {
  readonly channels: readonly number[];
  /** How the channel is called in errors. */
  readonly label: (channel: number) => string;
  readonly verify: boolean;
  /** Opens the board for one call, alone. */
  readonly use: <T>(call: Call, step: (board: Board) => Promise<T>) => Promise<T>;
}

/** The calls of a driver, over either kind of board. */
export function relayMethods({ channels, label, verify, use }: RelayOptions) {
  const states = async (board: Board): Promise<("on" | "off")[]> => {
    const complete = (known: Channels) => channels.every((channel) => known.has(channel));
    const answer = await board.ask((sofar) => complete(readStatus(sofar)));
    const known = readStatus(answer, true);
    if (known.size === 0) {
      throw new AgentError("E_INVALID", `Unexpected status response: ${JSON.stringify(answer.slice(0, 100))}`);
    }
    return channels.map((channel) => {
      const state = known.get(channel);
      if (state !== undefined) return state;
      const there = JSON.stringify(Object.fromEntries([...known].map(([number, is]) => [`CH${number}`, is])));
      throw new AgentError("E_INVALID", `Channel ${label(channel)} not found in status response: ${there}`);
    });
  };

  const set = (call: Call, on: boolean) =>
    use(call, async (board) => {
      for (const channel of channels) {
        await board.write(relayCommand(channel, on));
        call.log.info(`Relay channel ${channel} ${on ? "ON" : "OFF"}`);
      }
      if (!verify) return;
      for (const [index, state] of (await states(board)).entries()) {
        if (state === (on ? "on" : "off")) continue;
        throw new AgentError("E_FAILED", `relay channel ${channels[index]} stays ${state}`);
      }
    });

  return {
    on: (call: Call) => set(call, true),
    off: (call: Call) => set(call, false),
    status: (call: Call) => use(call, async (board) => summary(await states(board))),
    read: unsupported("the relay has no meter"),
  };
}
