import type { RemoteNode } from "../../client/node.ts";
import type { Argument, Grammar, Option, Values } from "./words.ts";

type Arguments = Readonly<Record<string, Argument>>;
type Options = Readonly<Record<string, Option>>;

/** What a command runs in. */
export interface Run {
  /** The driver that the words before the command name. */
  readonly node: RemoteNode;
  /** Aborted by Ctrl-C. A command that returns then has ended well; one that throws was interrupted. */
  readonly signal: AbortSignal;
  /** No progress. */
  readonly quiet: boolean;
  /** A line on stdout: what was asked for. */
  readonly print: (line: string) => void;
  /** A line on stderr: what is worth knowing beside it. */
  readonly note: (line: string) => void;
}

/** One word of `j` that does something. */
export interface Command<A extends Arguments = Arguments, O extends Options = Options> extends Grammar<A, O> {
  readonly help: string;
  /** @returns the exit code, 0 if nothing. Throws AgentError E_USAGE (exit 2) or any other error (exit 1). */
  run(run: Run, values: Values<A, O>): Promise<number | void>;
}

/** The commands of one driver by the words that call them, as the Python `j` has them. */
export type Commands = Readonly<Record<string, Command>>;

/** Gives `run` the types of what the grammar says. */
export function command<
  const A extends Arguments = Record<never, Argument>,
  const O extends Options = Record<never, Option>,
>(declared: Command<A, O>): Command {
  return declared;
}
