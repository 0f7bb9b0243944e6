import { closest } from "../driver/closest.ts";
import { AgentError, toAgentError } from "../driver/errors.ts";
import {
  commandHelp,
  defineCommand,
  globalOptions,
  groupHelp,
  readArguments,
  type Command,
  type CommandGroup,
} from "./command.ts";
import { commands } from "./commands.ts";
import { Interrupted } from "./signals.ts";
import { version } from "./version.ts";

const showVersion = defineCommand({
  name: "version",
  summary: "Show the version",
  options: {},
  run: () => Promise.resolve(say(`${version}\n`)),
});

const everything: CommandGroup = {
  summary: `jumpstarter-agent ${version}: a Jumpstarter exporter. Unmodified Jumpstarter clients drive what it serves.`,
  commands: { ...commands, version: { summary: showVersion.summary, load: () => Promise.resolve(showVersion) } },
};

/** Reads the command line, runs one command and answers the exit code: 2 for wrong words, 128 + N for signal N, 1 for a failure. */
export async function main(args: readonly string[]): Promise<number> {
  const name: string[] = [];
  try {
    return await callIn(everything, name, args, {});
  } catch (thrown) {
    return fail(toAgentError(thrown), name, Interrupted.in(thrown)?.exitCode);
  }
}

/**
 * Runs a command of a group.
 * @param name words that led to the group; those that lead on to the command are added
 * @param before options that stood between them
 */
async function callIn(group: CommandGroup, name: string[], args: readonly string[], before: object): Promise<number> {
  // Options before the command's name belong to every command, as with the Python command line.
  const at = commandIndex(args);
  const word = args[at];
  if (
    group.otherwise !== undefined &&
    word !== "help" &&
    !(word !== undefined && Object.hasOwn(group.commands, word))
  ) {
    if (args.includes("--help")) return say(`${groupHelp(group, name)}\n${commandHelp(await group.otherwise())}`);
    return await call(await group.otherwise(), args, before);
  }
  const { given } = readArguments(args.slice(0, at), { ...globalOptions, version: { type: "boolean", help: "" } });
  if (given.version) return say(`${version}\n`);
  if (given.help || word === "help") return say(groupHelp(group, name));
  if (word === undefined) throw new AgentError("E_USAGE", "a command is missing");
  const listed = Object.hasOwn(group.commands, word) ? group.commands[word] : undefined;
  if (listed === undefined) {
    const meant = closest(word, Object.keys(group.commands));
    const wrong = `no such command: ${[...name, word].join(" ")}`;
    throw new AgentError("E_USAGE", `${wrong}${meant === undefined ? "" : `, did you mean ${meant}?`}`);
  }
  name.push(word);
  const found = await listed.load();
  const rest = args.slice(at + 1);
  const options = { ...before, ...given };
  return "commands" in found ? await callIn(found, name, rest, options) : await call(found, rest, options);
}

async function call(command: Command, args: readonly string[], before: object): Promise<number> {
  const { given, words } = readArguments(args, { ...command.options, ...globalOptions });
  if (given.help) return say(commandHelp(command));
  const { least, most } = command.words ?? { least: 0, most: 0 };
  if (words.length < least) throw new AgentError("E_USAGE", `missing ${command.words?.usage ?? "argument"}`);
  if (words.length > most) throw new AgentError("E_USAGE", `unexpected argument: ${words[most] ?? ""}`);
  return await command.run({ ...before, ...given } as Parameters<Command["run"]>[0], words);
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

function fail(error: AgentError, name: readonly string[], interrupted?: number): number {
  const usage = error.code === "E_USAGE";
  if (usage) process.stderr.write(`Try '${["jmp-agent", ...name].join(" ")} --help' for help.\n\n`);
  process.stderr.write(`Error: ${error.message}\n`);
  if (error.hint !== undefined) process.stderr.write(`Hint: ${error.hint}\n`);
  return interrupted ?? (usage ? 2 : 1);
}
