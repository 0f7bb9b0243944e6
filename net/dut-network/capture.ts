import { setTimeout as sleep } from "node:timers/promises";
import { StringDecoder } from "node:string_decoder";
import { AgentError } from "../../agent/driver/errors.ts";
import type { Child, Privileged } from "./privilege.ts";

/**
 * What clients may ask of tcpdump. All that is not listed is refused: options that name an interface, read or write
 * files (`-w -r -F -V -E`), run commands (`-z`) or change users (`-Z`) among them.
 */
const flags = new Set("#AbefKlNnOpqStUuvXx");
const flagNames = new Set(["--number", "--no-promiscuous-mode", "--no-optimize", "--dont-verify-checksums"]);

/** Options with a value, and what it may be. */
const valued: Readonly<Record<string, RegExp>> = {
  c: /^[1-9]\d{0,8}$/, // packets
  s: /^(0|[1-9]\d{0,5})$/, // bytes of each
  B: /^[1-9]\d{0,4}$/, // KiB of buffer
  Q: /^(in|out|inout)$/,
  T: /^[a-z0-9_]{1,16}$/, // how to read the payload
};
const valuedNames: Readonly<Record<string, string>> = {
  "--snapshot-length": "s",
  "--buffer-size": "B",
  "--direction": "Q",
};

const wordLimit = 256;
const charLimit = 8_192;

/**
 * Arguments for tcpdump from those of a client: options first, then `--`, behind which nothing is an option any more,
 * then the filter. Reads them as getopt_long does, with options after words and several letters in one word.
 * @throws AgentError E_INVALID for what is not allowed
 */
export function captureArguments(given: readonly string[]): string[] {
  if (given.length > wordLimit || given.join(" ").length > charLimit) {
    throw new AgentError("E_INVALID", "too many arguments for tcpdump");
  }
  if (given.some((word) => /[\0\n\r]/.test(word))) {
    throw new AgentError("E_INVALID", "tcpdump: an argument has more than one line");
  }
  const options: string[] = [];
  const filter: string[] = [];
  const words = [...given];
  const value = (option: string, letter: string, attached: string | undefined) => {
    const text = attached ?? words.shift() ?? "";
    if (!valued[letter]?.test(text)) throw new AgentError("E_INVALID", `tcpdump: '${text}' is no value for ${option}`);
    options.push(`-${letter}`, text);
  };
  for (let word = words.shift(); word !== undefined; word = words.shift()) {
    if (word === "--") {
      filter.push(...words.splice(0));
    } else if (word.startsWith("--")) {
      const [name = "", ...rest] = word.split("=");
      const letter = valuedNames[name];
      if (letter !== undefined) value(name, letter, rest.length > 0 ? rest.join("=") : undefined);
      else if (flagNames.has(word)) options.push(word);
      else throw notAllowed(name);
    } else if (word.startsWith("-") && word.length > 1) {
      for (let index = 1; index < word.length; index += 1) {
        const letter = word.charAt(index);
        if (flags.has(letter)) {
          options.push(`-${letter}`);
        } else if (Object.hasOwn(valued, letter)) {
          value(`-${letter}`, letter, word.slice(index + 1) || undefined);
          break;
        } else {
          throw notAllowed(`-${letter}`);
        }
      }
    } else {
      filter.push(word);
    }
  }
  return filter.length === 0 ? options : [...options, "--", ...filter];
}

function notAllowed(option: string): AgentError {
  return new AgentError("E_INVALID", `tcpdump option ${option} is not allowed`);
}

/** Lines that wait for a slow client before tcpdump is made to wait (and the kernel drops packets). */
const queueLimit = 1_024;
const lineLimitChars = 65_536;
/** Between SIGTERM and SIGKILL. */
const graceMs = 2_000;

/** What tcpdump prints, until it ends, the caller leaves the loop, or the signal is aborted. */
export async function* capture(
  privileged: Privileged,
  interfaceName: string,
  given: readonly string[],
  signal: AbortSignal,
): AsyncGenerator<string> {
  const words = captureArguments(given);
  signal.throwIfAborted();
  // It opens the interface with its rights, and reads packets from strangers as nobody.
  const argv = ["tcpdump", "-i", interfaceName, "-l", "--packet-buffered", "-Z", "nobody", ...words] as const;
  const child = privileged.spawn([...argv]);
  child.stdin.end();
  const lines: string[] = [];
  let wake = () => {};
  let open = 2;
  for (const pipe of [child.stdout, child.stderr]) {
    const decoder = new StringDecoder("utf8");
    let rest = "";
    const add = (text: string) => {
      const parts = (rest + text).split("\n");
      rest = parts.pop() ?? "";
      if (rest.length > lineLimitChars) parts.push(rest.slice(0, lineLimitChars));
      if (rest.length > lineLimitChars) rest = "";
      lines.push(...parts);
      if (lines.length >= queueLimit) pipe.pause();
      wake();
    };
    pipe.on("data", (chunk: Buffer) => add(decoder.write(chunk)));
    pipe.once("error", () => {});
    pipe.once("close", () => {
      open -= 1;
      add(rest === "" ? "" : "\n");
    });
  }
  let failure: Error | undefined;
  child.once("error", (error) => {
    failure = error;
    wake();
  });
  const cancel = () => wake();
  signal.addEventListener("abort", cancel, { once: true });
  try {
    for (;;) {
      signal.throwIfAborted();
      if (failure !== undefined) throw failure;
      const line = lines.shift();
      if (line !== undefined) {
        yield line;
        continue;
      }
      if (open === 0) return;
      child.stdout.resume();
      child.stderr.resume();
      await new Promise<void>((resolve) => (wake = resolve));
    }
  } finally {
    signal.removeEventListener("abort", cancel);
    child.stdout.destroy();
    child.stderr.destroy();
    await ended(privileged, child);
  }
}

async function ended(privileged: Privileged, child: Child): Promise<void> {
  const gone = () => child.pid === undefined || child.exitCode !== null || child.signalCode !== null;
  if (gone()) return;
  const exited = new Promise<void>((resolve) => child.once("exit", () => resolve()));
  await privileged.kill(child.pid, "SIGTERM");
  const over = new AbortController();
  const late = sleep(graceMs, undefined, { signal: over.signal }).then(
    () => privileged.kill(child.pid, "SIGKILL"),
    () => {},
  );
  await exited;
  over.abort();
  await late;
}
