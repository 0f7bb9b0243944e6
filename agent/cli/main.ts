import { closest } from "../driver/closest.ts";
import { AgentError, toAgentError } from "../driver/errors.ts";
import { commandHelp, globalOptions, readArguments, table, type Command } from "./command.ts";
import { commands } from "./commands.ts";
import { version } from "./version.ts";

/** Reads the command line, runs one command and answers the exit code: 2 for wrong words, 1 for a failure. */
export async function main(args: readonly string[]): Promise<number> {
  // Options before the command's name belong to every command, as with the Python command line.
  let name: string | undefined;
  try {
    const at = commandIndex(args);
    name = args[at];
    const before = readArguments(args.slice(0, at), { ...globalOptions, version: { type: "boolean", help: "" } });
    if (before.given.version || name === "version") return say(`${version}\n`);
    if (before.given.help || name === "help") return say(help());
    if (name === undefined) throw new AgentError("E_USAGE", "a command is missing");
    const listed = Object.hasOwn(commands, name) ? commands[name] : undefined;
    if (listed === undefined) {
      const meant = closest(name, Object.keys(commands));
      throw new AgentError(
        "E_USAGE",
        `no such command: ${name}${meant === undefined ? "" : `, did you mean ${meant}?`}`,
      );
    }
    const command = await listed.load();
    const { given, words } = readArguments(args.slice(at + 1), { ...command.options, ...globalOptions });
    if (given.help) return say(commandHelp(command));
    const { least, most } = command.words ?? { least: 0, most: 0 };
    if (words.length < least) throw new AgentError("E_USAGE", `missing ${command.words?.usage ?? "argument"}`);
    if (words.length > most) throw new AgentError("E_USAGE", `unexpected argument: ${words[most] ?? ""}`);
    return await command.run({ ...before.given, ...given } as Parameters<Command["run"]>[0], words);
  } catch (thrown) {
    return fail(toAgentError(thrown), name);
  }
}

/** Where the command's name stands: the first word that is neither an option nor the value of one. */
function commandIndex(args: readonly string[]): number {
  for (let index = 0; index < args.length; index += 1) {
    const word = args[index] as string;
    if (!word.startsWith("-")) return index;
    if (Object.hasOwn(globalOptions, word.slice(2))) index += 1;
  }
  return args.length;
}

function say(text: string): number {
  process.stdout.write(text);
  return 0;
}

function fail(error: AgentError, command: string | undefined): number {
  const usage = error.code === "E_USAGE";
  const known = command !== undefined && Object.hasOwn(commands, command) ? ` ${command}` : "";
  if (usage) process.stderr.write(`Try 'jmp-agent${known} --help' for help.\n\n`);
  process.stderr.write(`Error: ${error.message}\n`);
  if (error.hint !== undefined) process.stderr.write(`Hint: ${error.hint}\n`);
  return usage ? 2 : 1;
}

function help(): string {
  const lines = Object.entries(commands).map(([name, { summary }]) => [name, summary] as const);
  const all = [...lines, ["version", "Show the version"] as const];
  return `Usage: jmp-agent [--log-level LEVEL] [--log-format FORMAT] COMMAND ...

jumpstarter-agent ${version}: a Jumpstarter exporter. Unmodified Jumpstarter clients drive what it serves.

Commands:
${table(all, Math.max(...all.map(([name]) => name.length)))}

'jmp-agent COMMAND --help' tells more about one of them.
`;
}
