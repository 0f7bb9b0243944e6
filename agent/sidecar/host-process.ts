import { spawn, type ChildProcess } from "node:child_process";
import type { Readable, Writable } from "node:stream";
import { fileURLToPath } from "node:url";
import * as z from "zod";
import { AgentError } from "../driver/errors.ts";
import { isolatedLines } from "./lines.ts";

/** The program beside this file: in the sources as in the build. */
const program = fileURLToPath(new URL("host.py", import.meta.url));

/** What the program says; see there. */
const event = z.discriminatedUnion("is", [
  z.object({ is: z.literal("loaded"), client: z.string(), version: z.string() }),
  z.object({ is: z.literal("begun"), report: z.base64() }),
  z.object({ is: z.literal("ended") }),
  z.object({ is: z.literal("failed"), text: z.string() }),
  z.object({ is: z.literal("log"), logger: z.string(), level: z.string(), text: z.string() }),
]);
type Event = z.output<typeof event>;
type Answer = Exclude<Event, { is: "log" }>;
export type Record = Extract<Event, { is: "log" }>;

/** A report of many drivers is long; nothing else is. */
const longestLine = 16 * 1024 * 1024;
/** What a driver prints in one line. */
const longestPrinted = 16 * 1024;
const keptLines = 8;

export interface HostProcessOptions {
  readonly python: string;
  /** Where its sockets are; it goes when we are killed. */
  readonly directory: string;
  readonly env: NodeJS.ProcessEnv;
  readonly onRecord: (record: Record) => void;
  /** A line that something in the process has printed, and where. */
  readonly onPrinted: (line: string, on: "stdout" | "stderr") => void;
}

/** The Python process of one side-car, in a process group of its own. */
export class HostProcess {
  readonly #child: ChildProcess;
  readonly #commands: Writable;
  /** The last lines of its standard error: why it ended, as a rule. */
  readonly #lastWords: string[] = [];
  #waiting: { resolve: (answer: Answer) => void; reject: (error: AgentError) => void } | undefined;
  #why: string | undefined;
  /** Settles when the last command is answered. */
  #turn: Promise<unknown> = Promise.resolve();
  /** Resolves with the reason when the process has ended; never rejects. */
  readonly ended: Promise<string>;

  constructor({ python, directory, env, onRecord, onPrinted }: HostProcessOptions) {
    const child = spawn(python, ["-u", program, directory], {
      env,
      detached: true,
      stdio: ["pipe", "pipe", "pipe", "pipe", "pipe"],
    });
    this.#child = child;
    const [commands, stdout, stderr, events, lifeline] = child.stdio as [
      Writable,
      Readable,
      Readable,
      Readable,
      Writable,
    ];
    this.#commands = commands;
    for (const pipe of [commands, stdout, stderr, events, lifeline]) pipe.on("error", () => {});
    isolatedLines(stdout, longestPrinted, (line) => onPrinted(line, "stdout"));
    isolatedLines(stderr, longestPrinted, (line) => {
      this.#lastWords.push(line);
      if (this.#lastWords.length > keptLines) this.#lastWords.shift();
      onPrinted(line, "stderr");
    });
    isolatedLines(
      events,
      longestLine,
      (line) => {
        const told = parseEvent(line);
        if (told === undefined) this.kill("its Python process says what is not of the protocol");
        else if (told.is === "log") onRecord(told);
        else this.#answered(told);
      },
      () => this.kill("its Python process says more than the protocol allows"),
    );
    this.ended = new Promise((resolve) => {
      const over = (how: string) => {
        this.#killGroup();
        const reason = this.#why ?? [how, ...this.#lastWords].join("\n");
        this.#waiting?.reject(new AgentError("E_DEVICE_OFFLINE", reason));
        this.#waiting = undefined;
        resolve(reason);
      };
      child.once("error", (error) => over(`${python} cannot be started: ${error.message}`));
      // After "close" its last words are here; but what it has started may hold the pipes.
      child.once("exit", (code, signal) => {
        const how = `its Python process ended (${signal ?? `exit code ${code}`})`;
        this.#killGroup();
        const late = setTimeout(() => over(how), lastWordsMs);
        child.once("close", () => {
          clearTimeout(late);
          over(how);
        });
      });
    });
  }

  get pid(): number | undefined {
    return this.#child.pid;
  }

  /** False as soon as it is known that it ends. */
  get alive(): boolean {
    return (
      this.#child.pid !== undefined &&
      this.#child.exitCode === null &&
      this.#child.signalCode === null &&
      this.#why === undefined
    );
  }

  /**
   * Sends a command when those before it are answered, and waits for its answer.
   * @throws AgentError E_DEVICE_OFFLINE if it failed, or the process ended
   */
  ask<K extends Answer["is"]>(command: object, wanted: K): Promise<Extract<Answer, { is: K }>> {
    const answered = this.#turn.then(() => this.#ask(command, wanted));
    this.#turn = answered.catch(() => {});
    return answered;
  }

  async #ask<K extends Answer["is"]>(command: object, wanted: K): Promise<Extract<Answer, { is: K }>> {
    const answer = await new Promise<Answer>((resolve, reject) => {
      if (!this.alive) {
        void this.ended.then((reason) => reject(new AgentError("E_DEVICE_OFFLINE", reason)));
        return;
      }
      this.#waiting = { resolve, reject };
      this.#commands.write(JSON.stringify(command) + "\n");
    });
    if (answer.is === "failed") throw new AgentError("E_DEVICE_OFFLINE", answer.text);
    if (answer.is !== wanted) {
      this.kill("its Python process answers what was not asked");
      throw new AgentError("E_DEVICE_OFFLINE", this.#why ?? "");
    }
    return answer as Extract<Answer, { is: K }>;
  }

  /** Ends the process and all that its drivers have started. */
  kill(why: string): void {
    this.#why ??= why;
    this.#killGroup();
  }

  /** Lets it close its drivers and end. @param limitMs then it is killed */
  async close(limitMs: number): Promise<void> {
    const late = setTimeout(() => this.kill("its Python process did not end in time"), limitMs);
    this.#commands.end();
    await this.ended;
    clearTimeout(late);
  }

  #answered(answer: Answer): void {
    const waiting = this.#waiting;
    this.#waiting = undefined;
    waiting?.resolve(answer);
  }

  #killGroup(): void {
    if (this.#child.pid === undefined) return;
    try {
      process.kill(-this.#child.pid, "SIGKILL");
    } catch {
      // Nobody is left in it.
    }
  }
}

/** What an ended process printed last may still be under way. */
const lastWordsMs = 500;

function parseEvent(line: string): Event | undefined {
  try {
    return event.parse(JSON.parse(line));
  } catch {
    return undefined;
  }
}
