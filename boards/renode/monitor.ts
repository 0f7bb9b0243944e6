import type { Socket } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { AgentError } from "../../agent/driver/errors.ts";
import { dial } from "../../agent/stream/dial.ts";
import { saysError, TelnetFilter, upToPrompt, withoutEcho } from "./protocol.ts";

const retryMs = 100;
const commandTimeoutMs = 30_000;
const longestAnswer = 4 * 2 ** 20;

/** A conversation with Renode's monitor, one command at a time. */
export class Monitor {
  readonly #socket: Socket;
  readonly #names: readonly string[];
  readonly #telnet = new TelnetFilter();
  #said = "";
  #look = () => {};

  private constructor(socket: Socket, names: readonly string[]) {
    this.#socket = socket;
    this.#names = names;
    socket.on("data", (chunk: Buffer) => {
      const plain = Buffer.from(this.#telnet.filter(chunk)).toString("latin1");
      this.#said = (this.#said + plain).slice(-longestAnswer);
      this.#look();
    });
    socket.once("close", () => this.#look());
  }

  /**
   * Connects as soon as Renode listens, and waits for its prompt.
   * @param machine whose name will be in the prompt
   * @throws AgentError E_TIMEOUT; the reason of the signal
   */
  static async connect(port: number, machine: string, timeoutMs: number, signal: AbortSignal): Promise<Monitor> {
    const deadline = performance.now() + timeoutMs;
    const left = () => Math.max(1, deadline - performance.now());
    for (;;) {
      try {
        const socket = await dial({ host: "127.0.0.1", port, noDelay: true }, `Renode's port ${port}`, signal, left());
        const monitor = new Monitor(socket, ["monitor", machine]);
        try {
          await monitor.#prompt(left(), signal, "Renode's monitor shows no prompt");
          return monitor;
        } catch (error) {
          monitor.close();
          throw error;
        }
      } catch (error) {
        signal.throwIfAborted();
        if (performance.now() > deadline) {
          throw new AgentError("E_TIMEOUT", `Renode's monitor is not ready after ${timeoutMs / 1000} s`, {
            cause: error,
          });
        }
        await sleep(retryMs, undefined, { signal });
      }
    }
  }

  get isOpen(): boolean {
    return !this.#socket.destroyed;
  }

  /**
   * @returns what the monitor answers
   * @throws AgentError E_FAILED with the answer, if it tells of an error; E_INVALID for more than one line; E_TIMEOUT; E_CONNECTION
   */
  async execute(command: string, signal: AbortSignal): Promise<string> {
    if (/[\r\n]/.test(command)) {
      throw new AgentError("E_INVALID", "monitor commands must not contain newline characters");
    }
    this.#said = "";
    const answered = this.#prompt(commandTimeoutMs, signal, `Renode does not answer to '${command}'`);
    this.#socket.write(`${command}\n`);
    const answer = withoutEcho(await answered, command);
    if (saysError(answer)) throw new AgentError("E_FAILED", answer.trim());
    return answer;
  }

  /** Says something without waiting for an answer. */
  say(command: string): void {
    if (this.isOpen) this.#socket.write(`${command}\n`);
  }

  close(): void {
    this.#socket.destroy();
  }

  #prompt(timeoutMs: number, signal: AbortSignal, late: string): Promise<string> {
    return new Promise((resolve, reject) => {
      const settle = (how: () => void) => {
        clearTimeout(timer);
        signal.removeEventListener("abort", aborted);
        this.#look = () => {};
        how();
      };
      // An answer that comes later would be taken for the next command's.
      const giveUp = (reason: Error) => settle(() => (this.close(), reject(reason)));
      const aborted = () => giveUp(signal.reason as Error);
      const timer = setTimeout(() => giveUp(new AgentError("E_TIMEOUT", late)), timeoutMs);
      signal.addEventListener("abort", aborted);
      this.#look = () => {
        const answer = upToPrompt(this.#said, this.#names);
        if (answer !== undefined) return settle(() => resolve(Buffer.from(answer, "latin1").toString("utf8")));
        if (!this.isOpen) giveUp(new AgentError("E_CONNECTION", "Renode monitor connection closed"));
      };
      if (signal.aborted) aborted();
      else this.#look();
    });
  }
}
