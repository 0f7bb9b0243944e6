import { once } from "node:events";
import type { Duplex } from "node:stream";
import { setTimeout as sleep } from "node:timers/promises";
import type { Call, ChildHandle, OpenContext } from "../../agent/driver/driver.ts";
import { AgentError } from "../../agent/driver/errors.ts";
import { Turns } from "../power/turns.ts";
import { harness } from "./interface.ts";
import { isAcknowledged, type Step } from "./protocol.ts";

/** Of what the harness says, for errors. */
const keptCharacters = 200;
const longestAnswer = 64 * 1024;

/** One script at a time: the board's drivers speak to one harness. */
export interface Harness {
  readonly turns: Turns;
  close?(): void;
}

/** That of the exporter. */
export const harnessOf = (context: OpenContext<unknown>): Harness =>
  context.shared<Harness>("ridesx harness", () => ({ turns: new Turns() }));

export interface ScriptOptions {
  readonly serial: ChildHandle;
  readonly steps: readonly Step[];
  /** Wait for the harness's prompt after each command, too. */
  readonly prompted: boolean;
  /** How long it may take to acknowledge one command, in seconds. */
  readonly timeoutS: number;
  /** Of the pauses between commands. */
  readonly pauseFactor: number;
}

/**
 * Tells the harness one command after the other, each when it has acknowledged the one before.
 * @throws AgentError E_TIMEOUT with what it said instead; E_CONNECTION if its port is closed; DeviceOffline if it is unplugged
 */
export async function runScript({ signal, log }: Call, options: ScriptOptions): Promise<void> {
  const stream = await options.serial.as(harness, { signal }).connect();
  try {
    const listen = listenTo(stream);
    for (const [command, seconds] of options.steps) {
      log.info(`Executing ${command}`);
      const answered = listen((said) => isAcknowledged(said, options.prompted), command, options.timeoutS, signal);
      stream.write(`${command}\r`);
      await answered;
      await sleep(seconds * 1000 * options.pauseFactor, undefined, { signal });
    }
  } finally {
    stream.destroy();
  }
}

/** What is said is counted from the moment at which one begins to wait. */
function listenTo(stream: Duplex) {
  let said = "";
  let look = () => {};
  stream.on("data", (chunk: Buffer) => {
    said = (said + chunk.toString("latin1")).slice(-longestAnswer);
    look();
  });
  stream.on("error", () => {}); // whoever waits is told
  return async (
    isEnough: (said: string) => boolean,
    command: string,
    timeoutS: number,
    signal: AbortSignal,
  ): Promise<void> => {
    said = "";
    const over = new AbortController();
    const ended = Promise.race([once(stream, "end", over), once(stream, "close", over)]).then(() => {
      throw new AgentError("E_CONNECTION", `the harness has gone while it did '${command}'`);
    });
    const late = sleep(timeoutS * 1000, undefined, over).then(() => {
      const instead = said.trim() === "" ? "nothing" : JSON.stringify(said.slice(-keptCharacters));
      throw new AgentError("E_TIMEOUT", `no 'ok' after '${command}' in ${timeoutS} s; the harness said ${instead}`);
    });
    const enough = new Promise<void>((resolve, reject) => {
      look = () => isEnough(said) && resolve();
      signal.addEventListener("abort", () => reject(signal.reason as Error), over);
      if (signal.aborted) reject(signal.reason as Error);
    });
    for (const one of [ended, late]) one.catch(() => {});
    try {
      await Promise.race([enough, ended, late]);
    } finally {
      over.abort();
      look = () => {};
    }
  };
}
