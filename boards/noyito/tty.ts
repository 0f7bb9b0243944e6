import { close, constants, open, readSync, write } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { promisify } from "node:util";
import { AgentError, DeviceOffline, isSystemError, toAgentError } from "../../agent/driver/errors.ts";
import { loadKoffi } from "../../agent/sys/native.ts";
import { watchDescriptor } from "../../agent/sys/poll.ts";
import { loadTermios } from "../../agent/sys/termios.ts";
import { baudRate, longestAnswerBytes, serialStatusQuery } from "./protocol.ts";
import type { Board } from "./relay.ts";

/** As the Python driver waits for an answer. */
const answerTimeoutMs = 2_000;
/** Nine bytes take 9 ms at 9600 baud: after that long a silence no further channel comes. */
const silenceMs = 100;
const sendTimeoutMs = 2_000;
const drainPollMs = 2;

const missing = new Set(["ENOENT", "ENODEV", "ENXIO", "EIO"]);

interface OpenBoard extends Board {
  close(): Promise<void>;
}

/**
 * Opens the board's port for one call, as the Python driver does: other programs may use it in between.
 * @throws DeviceOffline when it is missing; the system's error otherwise
 */
export async function openBoard(port: string, signal: AbortSignal): Promise<OpenBoard> {
  const [termios, koffi] = await Promise.all([loadTermios(), loadKoffi()]);
  const explain = (error: unknown): unknown =>
    isSystemError(error) && missing.has(error.code)
      ? new DeviceOffline(`NOYITO relay at ${port} is missing: ${toAgentError(error).message}`, { cause: error })
      : error;
  const { O_RDWR, O_NOCTTY, O_NONBLOCK } = constants;
  const fd = await promisify(open)(port, O_RDWR | O_NOCTTY | O_NONBLOCK).catch((error: unknown) => {
    throw explain(error);
  });
  const buffer = Buffer.alloc(longestAnswerBytes);
  /** @returns "" when there is nothing now */
  const readNow = (): string => {
    try {
      return buffer.toString("latin1", 0, readSync(fd, buffer));
    } catch (error) {
      if (isSystemError(error) && error.code === "EAGAIN") return "";
      throw explain(error);
    }
  };

  try {
    termios.setRaw(fd, { baudRate });
    termios.flush(fd, "input");
  } catch (error) {
    await promisify(close)(fd);
    throw isSystemError(error) && error.code === "ENOTTY" ? new AgentError("E_IO", `${port} is not a terminal`) : error;
  }

  const send = async (bytes: Uint8Array) => {
    await promisify(write)(fd, bytes).catch((error: unknown) => {
      throw explain(error);
    });
    // What is not sent when a port is closed may be lost.
    const deadline = performance.now() + sendTimeoutMs;
    while (termios.outputQueueBytes(fd) > 0) {
      if (performance.now() > deadline) throw new AgentError("E_TIMEOUT", `NOYITO relay at ${port} takes no bytes`);
      await sleep(drainPollMs, undefined, { signal });
    }
  };

  /** Waits for more. @returns "" after that long a silence */
  const more = (waitMs: number): Promise<string> =>
    new Promise((resolve, reject) => {
      signal.throwIfAborted();
      const over = (settle: () => void) => {
        clearTimeout(timer);
        signal.removeEventListener("abort", onAbort);
        unwatch();
        settle();
      };
      const onAbort = () => over(() => reject(signal.reason as Error));
      const timer = setTimeout(() => over(() => resolve("")), waitMs);
      signal.addEventListener("abort", onAbort);
      const unwatch = watchDescriptor(koffi, fd, "readable", () => {
        try {
          const text = readNow();
          if (text !== "") over(() => resolve(text));
        } catch (error) {
          over(() => reject(toAgentError(error)));
        }
      });
    });

  return {
    write: send,
    async ask(enough) {
      readNow();
      await send(serialStatusQuery);
      let answer = "";
      while (answer.length < longestAnswerBytes) {
        // Nobody knows how many channels the board has: it is asked until it has said what we want, and falls silent.
        const text = await more(enough(answer) ? silenceMs : answerTimeoutMs);
        if (text === "") break;
        answer += text;
      }
      return answer;
    },
    close: () => promisify(close)(fd),
  };
}
