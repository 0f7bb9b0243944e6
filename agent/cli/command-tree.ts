import type { Command, CommandGroup, Commands } from "./command.ts";

/** A command or a group with all that stands below it. */
export interface CommandNode {
  /** The words that lead here; none for `jmp-agent` itself. */
  readonly words: readonly string[];
  readonly summary: string;
  /** Absent for groups. */
  readonly command?: Command;
  readonly group?: CommandGroup;
  readonly children: readonly CommandNode[];
}

/** Loads the code of every command: for what is made of their declarations, as man pages and completions are. */
export async function loadCommandTree(summary: string, commands: Commands): Promise<CommandNode> {
  return await nodeOf([], { summary, commands });
}

async function nodeOf(words: readonly string[], found: Command | CommandGroup): Promise<CommandNode> {
  if (!("commands" in found)) return { words, summary: found.summary, command: found, children: [] };
  const children = Object.entries(found.commands).map(async ([name, listed]) => ({
    ...(await nodeOf([...words, name], await listed.load())),
    summary: listed.summary,
  }));
  return { words, summary: found.summary, group: found, children: await Promise.all(children) };
}

/** The node and all below it, parents first. */
export function flatten(node: CommandNode): CommandNode[] {
  return [node, ...node.children.flatMap(flatten)];
}
