import { AgentError } from "../../agent/driver/errors.ts";
import { ConsoleLost, type ConsoleDialog } from "./console.ts";

export interface Answer {
  readonly status: number;
  readonly output: string;
}

/** Ends a command that still runs; U-Boot, unlike for an empty line, does not repeat its last one. */
const interrupt = "\x03";
const nudgeEveryMs = 5_000;
/** The line is quiet when nothing was said for so long. */
const quietMs = 300;
/** How long the prompt may take to follow a command's last line. */
const promptTimeoutMs = 10_000;

/**
 * A command line on the console, U-Boot's or a shell's. Each command's end is known by its own mark and exit
 * status: `echo done7=$?` is echoed as typed and answered with a number, so the two cannot be mixed up.
 */
export class CommandLine {
  readonly console: ConsoleDialog;
  readonly #prompt: RegExp;
  #count = 0;

  /** @param prompt comes after every command */
  constructor(console: ConsoleDialog, prompt: RegExp) {
    this.console = console;
    this.#prompt = prompt;
  }

  /**
   * Runs a command, whatever its exit status. When the console goes meanwhile and comes back, it is run once more: only
   * commands are given that may be.
   * @throws AgentError E_TIMEOUT if it does not end in time, E_CONNECTION if the console stays away
   */
  async run(command: string, timeoutMs: number): Promise<Answer> {
    for (;;) {
      try {
        return await this.#run(command, timeoutMs);
      } catch (error) {
        if (!(error instanceof ConsoleLost)) throw error;
        await this.resume(timeoutMs);
      }
    }
  }

  /** Takes a console that has gone back, and waits for the prompt. @throws AgentError as {@link run} */
  async resume(timeoutMs: number): Promise<void> {
    for (;;) {
      await this.console.reattach();
      try {
        return await this.#findPrompt(timeoutMs);
      } catch (error) {
        if (!(error instanceof ConsoleLost)) throw error;
      }
    }
  }

  async #findPrompt(timeoutMs: number): Promise<void> {
    const deadline = performance.now() + timeoutMs;
    do {
      this.console.send(interrupt);
      if ((await this.console.hear(this.#prompt, nudgeEveryMs)) === undefined) continue;
      while ((await this.console.hear(this.#prompt, quietMs)) !== undefined);
      return;
    } while (performance.now() < deadline);
    throw new AgentError("E_CONNECTION", "the console came back, but the board does not show its prompt");
  }

  async #run(command: string, timeoutMs: number): Promise<Answer> {
    this.#count += 1;
    const mark = `done${this.#count}=`;
    this.console.send(`${command}; echo ${mark}$?\n`);
    const { before, match } = await this.console.expect(new RegExp(`${mark}(\\d+)(?=\\n)`), {
      what: `end of "${command}"`,
      timeoutMs,
    });
    await this.console.expect(this.#prompt, { what: `prompt after "${command}"`, timeoutMs: promptTimeoutMs });
    // The first line is the command's own echo.
    const output = before.slice(before.indexOf("\n") + 1).trim();
    return { status: Number(match[1]), output };
  }

  /** Runs a command that must succeed. @throws AgentError E_FAILED with its output */
  async check(command: string, timeoutMs: number): Promise<string> {
    const { status, output } = await this.run(command, timeoutMs);
    if (status === 0) return output;
    throw new AgentError("E_FAILED", `"${command}" failed with status ${status}: ${lastLines(output)}`);
  }
}

/** The end of some output, as one line. */
export function lastLines(output: string, count = 4): string {
  const lines = output.split("\n").map((line) => line.trim());
  return (
    lines
      .filter((line) => line !== "")
      .slice(-count)
      .join(" / ") || "no output"
  );
}

/** Source of a regular expression that matches just this text. */
export function literal(text: string): string {
  return text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
}
