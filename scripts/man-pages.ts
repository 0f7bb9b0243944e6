// Man pages of jmp-agent's commands, made of the commands' own declarations: what `--help` says, as roff.
// usage: node --import tsx scripts/man-pages.ts DIRECTORY     writes j.1, jmp-agent.1, jmp-agent-COMMAND.1 ...
// Pages bear the date of SOURCE_DATE_EPOCH, as all that is built reproducibly, or today's.
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { globalOptions, type Command, type Options } from "../agent/cli/command.ts";
import { flatten, loadCommandTree, type CommandNode } from "../agent/cli/command-tree.ts";
import { commands } from "../agent/cli/commands.ts";
import { version } from "../agent/cli/version.ts";

const program = "jmp-agent";

/** @returns file name to roff, one page for each command and group */
export async function manPages(): Promise<Map<string, string>> {
  const root = await loadCommandTree("a Jumpstarter exporter for lab hosts", commands);
  const epoch = process.env["SOURCE_DATE_EPOCH"];
  const date = new Date(epoch === undefined ? Date.now() : Number(epoch) * 1000).toISOString().slice(0, 10);
  const pages = flatten(root).map((node): [string, string] => [`${pageName(node)}.1`, page(node, root, date)]);
  // The words of j are the drivers of the exporter that it talks to, so there is nothing to derive its page from.
  const j = readFileSync(new URL("j.1", import.meta.url), "utf8")
    .replace("DATE", date)
    .replace("VERSION", version);
  return new Map([...pages, ["j.1", j]]);
}

function page(node: CommandNode, root: CommandNode, date: string): string {
  const name = pageName(node);
  const { command, children } = node;
  const synopsis = [[program, ...node.words].join(" ")]
    .concat(command === undefined ? ["COMMAND ..."] : ["[OPTIONS]", ...(command.words?.usage.split(" ") ?? [])])
    .join(" ");
  const sections: [string, string][] = [
    ["NAME", `${escaped(name)} \\- ${escaped(lowerFirst(node.summary.replace(/\.$/, "")))}`],
    ["SYNOPSIS", `.B ${escaped(synopsis)}`],
  ];
  if (command !== undefined) {
    sections.push(["DESCRIPTION", escaped(command.summary)], ...optionSections(command));
  } else {
    sections.push(["COMMANDS", children.map((child) => entry(pageReference(child), child.summary)).join("\n")]);
    if (node.words.length === 0) sections.push(["OPTIONS OF ALL COMMANDS", optionList(globalOptions)]);
  }
  sections.push(...notes((command ?? node.group)?.notes));
  const others = flatten(root).filter((other) => isNear(node, other));
  if (others.length > 0) sections.push(["SEE ALSO", others.map(pageReference).join(",\n")]);
  const head = `.TH ${name.toUpperCase().replaceAll("-", "\\-")} 1 "${date}" "jumpstarter-agent ${version}" "jumpstarter-agent"`;
  return [head, ...sections.flatMap(([title, text]) => [`.SH ${title}`, text])].join("\n") + "\n";
}

/** Parents, children and siblings. */
function isNear(node: CommandNode, other: CommandNode): boolean {
  if (node === other) return false;
  const parent = (words: readonly string[]) => words.slice(0, -1).join(" ");
  const isParent = other.words.join(" ") === parent(node.words) && node.words.length > 0;
  return isParent || (node.words.length > 1 && parent(node.words) === parent(other.words) && other.words.length > 1);
}

function optionSections({ options }: Command): [string, string][] {
  const groups = new Map<string, Record<string, Options[string]>>();
  for (const [name, option] of Object.entries({ ...options, ...globalOptions } as Options)) {
    const group = (option.group ?? "Options").toUpperCase();
    groups.set(group, { ...groups.get(group), [name]: option });
  }
  return [...groups].map(([title, declared]) => [title, optionList(declared)]);
}

function optionList(options: Options): string {
  const rows = Object.entries(options).map(([name, option]) => {
    const value = option.type === "boolean" ? "" : ` \\fI${escaped(option.value)}\\fR`;
    const choices = option.type === "string" && option.choices ? `; one of ${option.choices.join(", ")}` : "";
    return entry(`\\fB\\-\\-${escaped(name)}\\fR${value}`, option.help + choices);
  });
  return rows.join("\n");
}

/** Notes are paragraphs, or a head that ends in a colon with lines that are shown as they are. */
function notes(text: string | undefined): [string, string][] {
  if (text === undefined) return [];
  const sections: [string, string][] = [];
  for (const paragraph of text.trim().split("\n\n")) {
    const [first = "", ...rest] = paragraph.split("\n");
    if (/^[A-Z][\w ]*:$/.test(first)) {
      sections.push([escaped(first.slice(0, -1).toUpperCase()), shownAsIs(rest)]);
    } else {
      const before = sections.at(-1);
      const plain = paragraph.split("\n").every((line) => !line.startsWith(" "));
      const shown = plain ? escaped(paragraph) : shownAsIs(paragraph.split("\n"));
      if (before?.[0] === "NOTES") before[1] += `\n.PP\n${shown}`;
      else sections.push(["NOTES", shown]);
    }
  }
  return sections;
}

function shownAsIs(lines: readonly string[]): string {
  return [".nf", ...lines.map(escaped), ".fi"].join("\n");
}

function entry(term: string, text: string): string {
  return `.TP\n${term}\n${escaped(text)}`;
}

function pageName({ words }: CommandNode): string {
  return [program, ...words].join("-");
}

function pageReference(node: CommandNode): string {
  return `\\fB${escaped(pageName(node))}\\fR(1)`;
}

/** Text as roff shows it: no escapes, no requests, and minus signs that can be copied to a command line. */
function escaped(text: string): string {
  return text
    .replaceAll("\\", "\\e")
    .replaceAll("-", "\\-")
    .replaceAll(/^([.'])/gm, "\\&$1");
}

function lowerFirst(text: string): string {
  return text.slice(0, 1).toLowerCase() + text.slice(1);
}

const [directory] = process.argv.slice(2);
if (directory !== undefined && import.meta.url === `file://${process.argv[1] ?? ""}`) {
  mkdirSync(directory, { recursive: true });
  for (const [file, text] of await manPages()) writeFileSync(join(directory, file), text);
}
