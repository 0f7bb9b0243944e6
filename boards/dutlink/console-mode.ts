import type { Duplex } from "node:stream";
import { AgentError } from "../../agent/driver/errors.ts";
import { shell } from "./protocol.ts";

const answerTimeoutMs = 1_000;
/** A prompt that is searched for lies within this much of the last output. */
const keptCharacters = 4_096;

/**
 * Brings a board whose mode nobody knows into console mode.
 *
 * There is no question to which only the shell answers: whatever is written in console mode reaches the device under test, where a
 * carriage return stops a boot loader or logs somebody in. Five times Ctrl-B does least there, and after them the shell listens in
 * either mode; so they go first and alone, and everything else only once the shell must be there. The line ends with a carriage return
 * alone: with the line feed behind it the device would get the first key of its console from us.
 * @throws AgentError E_TIMEOUT if the shell does not answer
 */
export async function enterConsole(console: Duplex, signal: AbortSignal): Promise<void> {
  const output = new Output(console);
  console.write(shell.escape);
  // The shell says nothing to those who are there already.
  if (!(await output.shows(shell.prompt, signal))) {
    console.write("\r");
    if (!(await output.shows(shell.prompt, signal))) throw new AgentError("E_TIMEOUT", "its shell does not answer");
  }
  console.write(`${shell.enterConsole}\r`);
  if (!(await output.shows(shell.entered, signal))) {
    throw new AgentError("E_TIMEOUT", "its shell does not enter console mode");
  }
}

class Output {
  #text = "";
  #looking: { readonly text: string; readonly found: (is: boolean) => void } | undefined;

  constructor(stream: Duplex) {
    stream.on("data", (chunk: Buffer) => {
      this.#text = (this.#text + chunk.toString("latin1")).slice(-keptCharacters);
      this.#look();
    });
    stream.on("close", () => this.#looking?.found(false));
  }

  /** Waits for a text in what came since the last one. @returns false if it does not come in time */
  async shows(text: string, signal: AbortSignal): Promise<boolean> {
    signal.throwIfAborted();
    const found = await new Promise<boolean>((resolve) => {
      const over = (is: boolean) => {
        clearTimeout(timer);
        signal.removeEventListener("abort", onAbort);
        this.#looking = undefined;
        resolve(is);
      };
      const onAbort = () => over(false);
      const timer = setTimeout(() => over(false), answerTimeoutMs);
      signal.addEventListener("abort", onAbort);
      this.#looking = { text, found: over };
      this.#look();
    });
    signal.throwIfAborted();
    return found;
  }

  #look(): void {
    const looking = this.#looking;
    if (looking === undefined) return;
    const at = this.#text.indexOf(looking.text);
    if (at === -1) return;
    this.#text = this.#text.slice(at + looking.text.length);
    looking.found(true);
  }
}

/** Calls back for everything that is written to a stream. A stream between the two would blur its ends and its pressure. */
export function watchWrites(stream: Duplex, onBytes: (bytes: Uint8Array) => void): void {
  const write = stream._write.bind(stream);
  stream._write = (chunk: Buffer, encoding, done) => {
    onBytes(chunk);
    write(chunk, encoding, done);
  };
}
