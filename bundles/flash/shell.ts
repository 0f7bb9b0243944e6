import { AgentError } from "../../agent/driver/errors.ts";
import type { ConsoleDialog } from "./console.ts";

export interface Answer {
  readonly status: number;
  readonly output: string;
}

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

  /** Runs a command, whatever its exit status. @throws AgentError E_TIMEOUT if it does not end in time. */
  async run(command: string, timeoutMs: number): Promise<Answer> {
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
