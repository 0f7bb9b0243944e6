import { globalOptions, type Options } from "../command.ts";
import { flatten, type CommandNode } from "../command-tree.ts";

/** What may follow the words that lead to a command or a group. */
export interface Place {
  /** The words, joined by spaces; empty at the start. */
  readonly words: string;
  readonly commands: readonly { readonly name: string; readonly help: string }[];
  readonly options: readonly OptionRow[];
  /** Whether the command takes words that may be files. */
  readonly takesFiles: boolean;
}

export interface OptionRow {
  readonly name: string;
  readonly help: string;
  /** What its value may be: nothing at all for a flag, the only ones there are, a path, or anything. */
  readonly value: undefined | readonly string[] | "path" | "any";
}

/** Values of options and words that are files or directories, as the help calls them. */
const paths = /\b(?:PATH|FILE|DIR|IMAGE|CONFIG)/;

/** The declarations of all commands, as completions need them. */
export function completionTable(root: CommandNode): Place[] {
  return flatten(root).map(({ words, command, children }) => ({
    words: words.join(" "),
    commands: children.map((child) => ({ name: child.words.at(-1) ?? "", help: firstLine(child.summary) })),
    options: optionRows(command?.options ?? {}),
    takesFiles: paths.test(command?.words?.usage ?? ""),
  }));
}

function optionRows(own: Options): OptionRow[] {
  const all: Options = { ...own, ...globalOptions, help: { type: "boolean", help: "show the help" } };
  return Object.entries(all).map(([name, option]) => ({
    name: `--${name}`,
    help: firstLine(option.help),
    value: option.type === "boolean" ? undefined : (option.choices ?? (paths.test(option.value) ? "path" : "any")),
  }));
}

function firstLine(text: string): string {
  return text.split("\n", 1)[0] ?? "";
}
