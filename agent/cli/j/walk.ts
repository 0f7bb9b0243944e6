import { closest } from "../../driver/closest.ts";
import { AgentError } from "../../driver/errors.ts";
import type { RemoteNode } from "../../client/node.ts";
import type { Command, Commands } from "./command.ts";
import { isVisible, visibleChildren } from "./help.ts";
import { kinds } from "./kinds.ts";

/** Where words lead in an exporter's tree. */
export interface Place {
  readonly node: RemoteNode;
  readonly commands: Commands;
  /** The words that lead to the node, one for each level. */
  readonly words: readonly string[];
  /** The command that was named, if one was. */
  readonly command?: { readonly name: string; readonly is: Command };
  /** What follows. */
  readonly rest: readonly string[];
}

/**
 * Follows words through the tree: names of drivers, nested or dotted (`board power` or `board.power`), then a command.
 * A driver's own command goes before a driver below it with the same name.
 * @throws AgentError E_USAGE for a word that is neither
 */
export async function walk(root: RemoteNode, words: readonly string[], signal: AbortSignal): Promise<Place> {
  let node = root;
  const path: string[] = [];
  const rest = [...words];
  for (;;) {
    const commands: Commands = (await kinds.get(node.clientClass)?.commands(node, signal)) ?? {};
    const word = rest[0];
    const here = { node, commands, words: [...path] };
    if (word === undefined || word.startsWith("-")) return { ...here, rest };
    if (Object.hasOwn(commands, word)) {
      return { ...here, command: { name: word, is: commands[word] as Command }, rest: rest.slice(1) };
    }
    const child = node.children.get(word);
    if (child !== undefined && isVisible(child)) {
      rest.shift();
      path.push(word);
      node = child;
    } else if (word.includes(".") && child === undefined) {
      rest.splice(0, 1, ...word.split(".").filter((part) => part !== ""));
    } else {
      throw noSuchWord(word, node, commands, child);
    }
  }
}

function noSuchWord(word: string, node: RemoteNode, commands: Commands, hidden: RemoteNode | undefined): AgentError {
  if (hidden !== undefined) {
    return new AgentError("E_USAGE", `j has no commands for '${word}', a driver of class ${hidden.clientClass}`);
  }
  const known = [...Object.keys(commands), ...visibleChildren(node).map(({ name }) => name)];
  const meant = closest(word, known);
  return new AgentError(
    "E_USAGE",
    `No such command '${word}'.${meant === undefined ? "" : ` Did you mean '${meant}'?`}`,
  );
}
