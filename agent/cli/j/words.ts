import { parseArgs, type ParseArgsConfig } from "node:util";
import { AgentError } from "../../driver/errors.ts";

/** An option `--name`; the key of the record in camelCase is its name in kebab-case. */
export interface Option {
  /** `flag`: given or not. The others take a value. */
  readonly kind: "flag" | "text" | "integer" | "number";
  readonly help: string;
  readonly short?: string;
  readonly default?: boolean | string | number;
  readonly required?: true;
  /** A flag that `--no-name` takes back. */
  readonly negatable?: true;
  /** May be given several times. */
  readonly many?: true;
  /** The only values allowed; compared without case. */
  readonly choices?: readonly string[];
}

/** A positional word. Only the last ones may be optional, only the very last may be `many`. */
export interface Argument {
  readonly kind?: "text" | "integer";
  readonly help?: string;
  readonly optional?: true;
  readonly many?: true;
}

type Options = Readonly<Record<string, Option>>;
type Arguments = Readonly<Record<string, Argument>>;

type Value<K> = K extends "flag" ? boolean : K extends "integer" | "number" ? number : string;
type OptionValue<O extends Option> = O extends { many: true }
  ? Value<O["kind"]>[]
  : O extends { kind: "flag" } | { required: true } | { default: boolean | string | number }
    ? Value<O["kind"]>
    : Value<O["kind"]> | undefined;
type ArgumentValue<A extends Argument> = A extends { many: true }
  ? Value<A["kind"]>[]
  : A extends { optional: true }
    ? Value<A["kind"]> | undefined
    : Value<A["kind"]>;

/** What a command is run with: every argument and option by its name. */
export type Values<A extends Arguments, O extends Options> = {
  readonly [K in keyof A]: ArgumentValue<A[K]>;
} & { readonly [K in keyof O]: OptionValue<O[K]> };

export interface Grammar<A extends Arguments = Arguments, O extends Options = Options> {
  readonly args?: A;
  readonly options?: O;
  /** From the first positional word on nothing is an option any more (`shell` methods). */
  readonly raw?: true;
}

const kebab = (name: string) => name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);

/**
 * Reads the words of one command.
 * @throws AgentError E_USAGE that names the wrong word.
 */
export function parseWords<A extends Arguments, O extends Options>(
  grammar: Grammar<A, O>,
  words: readonly string[],
): Values<A, O> {
  const options: Options = grammar.options ?? {};
  const [ours, untouched] = grammar.raw ? splitRaw(options, words) : [words, []];
  const { given, positionals } = split(options, ours);
  const parsed: Record<string, unknown> = takeArguments(grammar.args ?? {}, [...positionals, ...untouched]);
  for (const [name, option] of Object.entries(options)) {
    parsed[name] = takeOption(name, option, given.get(kebab(name)) ?? []);
  }
  return parsed as Values<A, O>;
}

/** Lets Node's parser do the dashes; every value is kept, in the order given. */
function split(options: Options, words: readonly string[]) {
  const config: NonNullable<ParseArgsConfig["options"]> = {};
  const given = new Map<string, (string | boolean)[]>();
  for (const [name, { kind, short, negatable }] of Object.entries(options)) {
    const type = kind === "flag" ? "boolean" : "string";
    config[kebab(name)] = { type, ...(short === undefined ? {} : { short }) };
    if (negatable) config[`no-${kebab(name)}`] = { type };
    given.set(kebab(name), []);
  }
  try {
    const { tokens, positionals } = parseArgs({
      args: [...words],
      options: config,
      allowPositionals: true,
      tokens: true,
    });
    for (const token of tokens) {
      if (token.kind !== "option") continue;
      const values = given.get(token.name);
      if (values !== undefined) values.push(token.value ?? true);
      else given.get(token.name.slice("no-".length))?.push(false);
    }
    return { given, positionals };
  } catch (thrown) {
    // Node's own words are good ("Unknown option '--wat'"), but for its advice on `--` after them.
    throw usage((thrown as Error).message.replace(/\. To specify .*$/s, "").replace(/\.$/, ""));
  }
}

/** Finds where the raw words begin: at the first that is no option of ours (nor the value of one). */
function splitRaw(options: Options, words: readonly string[]): [ours: string[], raw: string[]] {
  let next = 0;
  for (;;) {
    const word = words[next] ?? "";
    const option = Object.entries(options).find(([name, { kind, short }]) => {
      const long = `--${kebab(name)}`;
      if (word === long || word === `-${short}`) return true;
      return kind !== "flag" && (word.startsWith(`${long}=`) || (short !== undefined && word.startsWith(`-${short}`)));
    })?.[1];
    if (option === undefined) break;
    const valueFollows = option.kind !== "flag" && (word.startsWith("--") ? !word.includes("=") : word.length === 2);
    next += valueFollows ? 2 : 1;
  }
  return [words.slice(0, next), words.slice(words[next] === "--" ? next + 1 : next)];
}

function takeArguments(args: Arguments, words: readonly string[]): Record<string, unknown> {
  const taken: Record<string, unknown> = {};
  const rest = [...words];
  for (const [name, argument] of Object.entries(args)) {
    const label = metavar(name);
    if (argument.many) {
      taken[name] = rest.splice(0).map((word) => convert(argument, word, label));
      continue;
    }
    const word = rest.shift();
    if (word === undefined && !argument.optional) throw usage(`Missing argument ${label}`);
    taken[name] = word === undefined ? undefined : convert(argument, word, label);
  }
  if (rest.length > 0) throw usage(`Unexpected argument${rest.length > 1 ? "s" : ""} ${rest.join(" ")}`);
  return taken;
}

function takeOption(name: string, option: Option, given: readonly (string | boolean)[]): unknown {
  const label = `--${kebab(name)}`;
  if (option.kind === "flag") return given.at(-1) ?? option.default ?? false;
  const values = given.map((word) => convert(option, String(word), label));
  if (option.many) return values;
  if (values.length === 0 && option.required) throw usage(`Missing option ${label}`);
  return values.at(-1) ?? option.default;
}

function convert({ kind, choices }: Pick<Option, "choices"> & { kind?: string }, word: string, label: string): unknown {
  if (kind === "integer" || kind === "number") {
    const number = word.trim() === "" ? NaN : Number(word);
    if (!Number.isFinite(number) || (kind === "integer" && !Number.isSafeInteger(number))) {
      throw usage(`${label} takes ${kind === "integer" ? "a whole number" : "a number"}, not '${word}'`);
    }
    return number;
  }
  if (choices === undefined) return word;
  const choice = choices.find((allowed) => allowed.toLowerCase() === word.toLowerCase());
  if (choice === undefined) throw usage(`${label} takes ${choices.join(", ")}, not '${word}'`);
  return choice;
}

/** `dstFile` as it stands in help and errors: `DST_FILE`. */
function metavar(name: string): string {
  return kebab(name).replaceAll("-", "_").toUpperCase();
}

function usage(message: string): AgentError {
  return new AgentError("E_USAGE", message);
}

/** `[OPTIONS] FILE [TARGET]`: the words after a command's name. */
export function synopsis({ args = {}, options = {} }: Grammar): string {
  const words = Object.entries(args).map(([name, { optional, many }]) => {
    const label = metavar(name) + (many ? "..." : "");
    return optional || many ? `[${label}]` : label;
  });
  return [...(Object.keys(options).length > 0 ? ["[OPTIONS]"] : []), ...words].join(" ");
}

/** The two columns of help for arguments and options. */
export function describeWords({ args = {}, options = {} }: Grammar): { args: Row[]; options: Row[] } {
  return {
    args: Object.entries(args).flatMap(([name, { help }]) => (help === undefined ? [] : [[metavar(name), help]])),
    options: Object.entries(options).map(([name, option]) => [optionLabel(name, option), optionHelp(option)]),
  };
}

export type Row = [left: string, right: string];

function optionLabel(name: string, { short, kind, negatable, choices }: Option): string {
  const long = `--${kebab(name)}` + (negatable ? `, --no-${kebab(name)}` : "");
  const value = kind === "flag" ? "" : ` ${choices?.join("|") ?? kind.toUpperCase()}`;
  return `${short === undefined ? "" : `-${short}, `}${long}${value}`;
}

function optionHelp({ help, default: preset, required, many }: Option): string {
  const notes = [
    ...(preset === undefined || preset === false ? [] : [`default: ${preset === true ? "on" : preset}`]),
    ...(required ? ["required"] : []),
    ...(many ? ["may be repeated"] : []),
  ];
  return notes.length > 0 ? `${help}  [${notes.join("; ")}]` : help;
}
