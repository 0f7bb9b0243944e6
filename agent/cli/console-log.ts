import { once } from "node:events";
import { showLog, type LogSource, type ShowOptions } from "../../boards/serial/record/show.ts";
import { AgentError } from "../driver/errors.ts";

/** The words of `j serial log` and `jmp-agent console`. */
export interface LogWords {
  readonly follow: boolean;
  readonly lines: number | undefined;
  readonly grep: string | undefined;
  readonly boots: boolean;
  readonly json: boolean;
  readonly raw: boolean;
}

/** Prints a record to stdout as the words ask for it. @throws AgentError E_USAGE */
export async function printLog(source: LogSource, words: LogWords, signal: AbortSignal): Promise<void> {
  const options = readWords(words);
  try {
    await showLog(source, options, async (text) => {
      if (!process.stdout.write(text)) await once(process.stdout, "drain", { signal });
    });
  } catch (error) {
    // Ctrl-C is how one stops to follow.
    if (!signal.aborted || !words.follow) throw error;
  }
}

function readWords({ follow, lines, grep, boots, json, raw }: LogWords): ShowOptions {
  const usage = (message: string) => new AgentError("E_USAGE", message);
  if (raw && (json || boots || grep !== undefined))
    throw usage("--raw cannot be combined with --json, --boots, --grep");
  if (boots && grep !== undefined) throw usage("--boots cannot be combined with --grep");
  if (lines !== undefined && (lines < 0 || lines > 100_000)) throw usage("--lines takes 0 to 100000");
  return { follow, lines, grep: pattern(grep), boots, form: json ? "json" : raw ? "raw" : "text" };
}

function pattern(source: string | undefined): RegExp | undefined {
  if (source === undefined) return undefined;
  try {
    return new RegExp(source, "u");
  } catch (error) {
    throw new AgentError("E_USAGE", `--grep: ${(error as Error).message}`);
  }
}
