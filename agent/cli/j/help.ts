import type { RemoteNode } from "../../client/node.ts";
import type { Command, Commands } from "./command.ts";
import { kinds } from "./kinds.ts";
import { describeWords, synopsis, type Row } from "./words.ts";

/** The options that `j` takes before the first word, and nowhere else. */
const globalRows: readonly Row[] = [
  ["--log-level LEVEL", "Show what the exporter logs meanwhile, from this level on"],
  ["-q, --quiet", "No progress"],
  ["--help", "Show this text"],
];

/**
 * Names of the drivers below a node that `j` can do something with: those of a known kind, and whatever has such
 * drivers below it. Others are hidden, as the Python client hides drivers that are not installed.
 */
export function visibleChildren(node: RemoteNode): RemoteNode[] {
  return [...node.children.values()].filter(isVisible);
}

export function isVisible(node: RemoteNode): boolean {
  return kinds.has(node.clientClass) || visibleChildren(node).length > 0;
}

function summaryOf(node: RemoteNode): string {
  return node.description ?? kinds.get(node.clientClass)?.summary ?? "";
}

/** A command's help as the exporter's configuration words it, else its own. */
function helpOf(node: RemoteNode, name: string, command: Command): string {
  const { methodsDescription: described } = node;
  return (Object.hasOwn(described, name) ? described[name] : undefined) ?? command.help;
}

/** What `--help` shows after the words that lead to a driver. */
export function nodeHelp(node: RemoteNode, words: readonly string[], commands: Commands): string {
  const isRoot = words.length === 0;
  const drivers = visibleChildren(node)
    .filter((child) => !(child.name in commands))
    .map((child): Row => [child.name, firstLine(summaryOf(child))]);
  const own = Object.entries(commands).map(([name, each]): Row => [name, firstLine(helpOf(node, name, each))]);
  return page([
    `Usage: ${["j", ...(isRoot ? ["[OPTIONS]"] : []), ...words, "COMMAND [ARGS]..."].join(" ")}`,
    summaryOf(node),
    section("Options", isRoot ? globalRows : []),
    section("Commands", own),
    section(isRoot ? "Drivers" : "Parts", drivers),
  ]);
}

/** What `--help` shows after a command. */
export function commandHelp(node: RemoteNode, words: readonly string[], name: string, command: Command): string {
  const { args, options } = describeWords(command);
  return page([
    `Usage: ${["j", ...words, name, synopsis(command)].join(" ").trim()}`,
    helpOf(node, name, command),
    section("Arguments", args),
    section("Options", [...options, ["--help", "Show this text"]]),
  ]);
}

function section(title: string, rows: readonly Row[]): string {
  if (rows.length === 0) return "";
  const width = Math.min(32, Math.max(...rows.map(([left]) => left.length)));
  const lines = rows.map(([left, right]) => `  ${left.padEnd(width)}  ${right}`.trimEnd());
  return [`${title}:`, ...lines].join("\n");
}

function page(parts: readonly string[]): string {
  return parts.filter((part) => part !== "").join("\n\n") + "\n";
}

function firstLine(text: string): string {
  return text.split("\n", 1)[0] ?? "";
}
