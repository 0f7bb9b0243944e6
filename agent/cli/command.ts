import { parseArgs } from "node:util";
import { closest } from "../driver/closest.ts";
import { AgentError } from "../driver/errors.ts";

interface OptionBase {
  readonly help: string;
  /** Name of a group of lines in the help; options without one come first. */
  readonly group?: string;
}

export interface FlagOption extends OptionBase {
  readonly type: "boolean";
}

export interface ValueOption extends OptionBase {
  readonly type: "string";
  /** How the help calls the value, e.g. `PATH`. */
  readonly value: string;
  /** The only values it takes, compared without regard to case. */
  readonly choices?: readonly string[];
  /** It may be given several times. */
  readonly multiple?: true;
}

export type Options = Readonly<Record<string, FlagOption | ValueOption>>;

/** What was given on the command line: `true` or absent for a flag, the text (or texts) or absent for a value. */
export type Given<O extends Options> = {
  readonly [K in keyof O]?: O[K] extends FlagOption
    ? true
    : O[K] extends { multiple: true }
      ? readonly string[]
      : string;
};

/** One word of `jmp-agent`. Declared in a file of its own and loaded only when it is called. */
export interface Command<O extends Options = Options> {
  readonly name: string;
  readonly summary: string;
  /** Words that are not options, for the usage line: `FILE...`, `[TYPE]`. Absent: it takes none. */
  readonly words?: { readonly usage: string; readonly least: number; readonly most: number };
  readonly options: O;
  /** Further text of the help: examples, environment. */
  readonly notes?: string;
  /** @returns the exit code. Throws AgentError E_USAGE (exit 2) or any other error (exit 1). */
  run(options: Given<O> & Given<typeof globalOptions>, words: readonly string[]): Promise<number>;
}

/** Commands that share their first word, as in `jmp-agent bundle push`. */
export interface CommandGroup {
  readonly summary: string;
  readonly commands: Commands;
  /** What words that name none of the commands are for, as in `jmp-agent update FILE`. */
  readonly otherwise?: () => Promise<Command>;
  /** Further text of the help. */
  readonly notes?: string;
}

/** By name; each is loaded only when it is called. */
export type Commands = Readonly<Record<string, { summary: string; load(): Promise<Command | CommandGroup> }>>;

export function defineCommand<const O extends Options>(command: Command<O>): Command<O> {
  return command;
}

/** Understood before and after the command's name, like the Python exporter's. */
export const globalOptions = {
  "log-level": {
    type: "string",
    value: "LEVEL",
    choices: ["debug", "info", "warning", "error", "critical"],
    help: "least severe log lines to write (info)",
    group: "Logging",
  },
  "log-format": {
    type: "string",
    value: "FORMAT",
    choices: ["auto", "json", "text"],
    help: "auto is text on a terminal, fields in the journal, else JSON (auto)",
    group: "Logging",
  },
} as const satisfies Options;

/**
 * Reads the words that follow a command's name.
 * @throws AgentError E_USAGE for what the command does not know
 */
export function readArguments<O extends Options>(
  args: readonly string[],
  options: O,
): { given: Given<O> & { help?: true }; words: string[] } {
  const known: Options = { ...options, help: { type: "boolean", help: "" } };
  const { tokens, positionals } = parseArgs({
    args: [...args],
    options: Object.fromEntries(Object.entries(known).map(([name, { type }]) => [name, { type }])),
    allowPositionals: true,
    strict: false,
    tokens: true,
  });
  const given: Record<string, string | true | string[]> = {};
  for (const token of tokens) {
    if (token.kind !== "option") continue;
    const option = Object.hasOwn(known, token.name) ? known[token.name] : undefined;
    if (option === undefined) throw unknownOption(token.rawName, Object.keys(known));
    if (option.type === "boolean") {
      if (token.value !== undefined) throw new AgentError("E_USAGE", `--${token.name} does not take a value`);
      given[token.name] = true;
    } else {
      const value = checkValue(token.name, option, token.value);
      const before = given[token.name];
      given[token.name] = option.multiple === true ? [...(Array.isArray(before) ? before : []), value] : value;
    }
  }
  return { given: given as Given<O>, words: positionals };
}

function unknownOption(name: string, known: string[]): AgentError {
  const meant = closest(name, known);
  return new AgentError("E_USAGE", `no such option: ${name}${meant === undefined ? "" : `, did you mean --${meant}?`}`);
}

function checkValue(name: string, { value: placeholder, choices }: ValueOption, value: string | undefined): string {
  if (value === undefined) throw new AgentError("E_USAGE", `--${name} needs a value: --${name} ${placeholder}`);
  if (choices === undefined) return value;
  const choice = choices.find((candidate) => candidate === value.toLowerCase());
  if (choice === undefined) throw new AgentError("E_USAGE", `--${name} must be one of ${choices.join(", ")}`);
  return choice;
}

/** The text of `jmp-agent COMMAND --help`. */
export function commandHelp({ name, summary, words, options, notes }: Command): string {
  const all: Options = { ...options, ...globalOptions, help: { type: "boolean", help: "show this text" } };
  const groups = new Map<string, [string, string][]>();
  for (const [option, declared] of Object.entries(all)) {
    const again = declared.type === "string" && declared.multiple === true ? " ..." : "";
    const left = `--${option}${declared.type === "string" ? ` ${declared.value}${again}` : ""}`;
    const group = option === "help" ? "Options" : (declared.group ?? "Options");
    groups.set(group, [...(groups.get(group) ?? []), [left, declared.help]]);
  }
  const width = Math.max(...[...groups.values()].flat().map(([left]) => left.length));
  const sections = [...groups].map(([group, lines]) => `${group}:\n${table(lines, width)}`);
  const usage = `Usage: jmp-agent ${name} [OPTIONS]${words === undefined ? "" : ` ${words.usage}`}`;
  return [usage, summary, ...sections, ...(notes === undefined ? [] : [notes.trim()])].join("\n\n") + "\n";
}

/** The text of `jmp-agent --help` and `jmp-agent GROUP --help`. @param words what stands before the command's name */
export function groupHelp({ summary, commands, notes }: CommandGroup, words: readonly string[]): string {
  const width = Math.max(...Object.keys(commands).map((name) => name.length));
  const list = table(
    Object.entries(commands).map(([name, listed]) => [name, listed.summary] as const),
    width,
  );
  const start = ["jmp-agent", ...words].join(" ");
  const usage = `Usage: ${start} ${words.length === 0 ? "[--log-level LEVEL] [--log-format FORMAT] " : ""}COMMAND ...`;
  const more = `'${start} COMMAND --help' tells more about one of them.`;
  return (
    [usage, summary, `Commands:\n${list}`, ...(notes === undefined ? [] : [notes.trim()]), more].join("\n\n") + "\n"
  );
}

export function table(lines: readonly (readonly [string, string])[], width: number): string {
  return lines.map(([left, right]) => `  ${left.padEnd(width)}  ${right}`).join("\n");
}
