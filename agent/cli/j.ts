#!/usr/bin/env node
import { connect, type Client } from "../client/connect.ts";
import { AgentError, toAgentError } from "../driver/errors.ts";
import { severities, type Severity } from "../driver/log.ts";
import type { Run } from "./j/command.ts";
import { commandHelp, nodeHelp } from "./j/help.ts";
import { walk, type Place } from "./j/walk.ts";
import { parseWords } from "./j/words.ts";
import { listenForStop } from "./signals.ts";

/** What stands before the first word. */
const globalGrammar = {
  args: { words: { many: true } },
  options: {
    logLevel: { kind: "text", choices: severities, help: "" },
    quiet: { kind: "flag", short: "q", help: "" },
    help: { kind: "flag", help: "" },
  },
  raw: true,
} as const;

/** Runs the words of one `j` against the exporter that the environment names. @returns the exit code */
async function main(args: readonly string[], env: NodeJS.ProcessEnv): Promise<number> {
  const stop = listenForStop((exitCode) => process.exit(exitCode));
  let client: Client | undefined;
  let place: Place | undefined;
  try {
    const given = parseWords(globalGrammar, args);
    client = await connectTo(env, stop.signal);
    if (given.logLevel !== undefined) void showLogs(client, given.logLevel as Severity, stop.signal);
    place = await walk(client.root, given.help ? [...given.words, "--help"] : given.words, stop.signal);
    return await run(place, { quiet: given.quiet, signal: stop.signal });
  } catch (thrown) {
    if (stop.signal.aborted) return (await stop.requested).exitCode;
    return fail(toAgentError(thrown), place);
  } finally {
    await client?.close();
  }
}

async function connectTo(env: NodeJS.ProcessEnv, signal: AbortSignal): Promise<Client> {
  const host = env["JUMPSTARTER_HOST"];
  if (!host) {
    throw new AgentError("E_FAILED", "the j command must be used inside a jmp shell: JUMPSTARTER_HOST not set", {
      hint: "JUMPSTARTER_HOST is the path of an exporter's unix socket, or host:port",
    });
  }
  return await connect({
    host,
    insecure: env["JMP_GRPC_INSECURE"] === "1" || env["JUMPSTARTER_GRPC_INSECURE"] === "1",
    passphrase: env["JMP_GRPC_PASSPHRASE"] || undefined,
    signal,
  });
}

async function run(
  { node, commands, words, command, rest }: Place,
  given: Pick<Run, "quiet" | "signal">,
): Promise<number> {
  if (command === undefined) {
    const [first] = rest;
    if (first !== undefined && first !== "--help") throw new AgentError("E_USAGE", `Unknown option '${first}'`);
    // Asked for, it is the answer; else it is what was missing.
    (first === undefined ? process.stderr : process.stdout).write(nodeHelp(node, words, commands));
    return first === undefined ? 2 : 0;
  }
  const { name, is } = command;
  const options = rest.includes("--") ? rest.slice(0, rest.indexOf("--")) : rest;
  if (is.raw ? rest[0] === "--help" : options.includes("--help")) {
    process.stdout.write(commandHelp(node, words, name, is));
    return 0;
  }
  const exitCode = await is.run(
    {
      ...given,
      node,
      print: (line) => void process.stdout.write(`${line}\n`),
      note: (line) => void process.stderr.write(`${line}\n`),
    },
    parseWords(is, rest),
  );
  return exitCode ?? 0;
}

/** Writes the exporter's log records to stderr until the connection ends. */
async function showLogs(client: Client, least: Severity, signal: AbortSignal): Promise<void> {
  // The session tells what it still remembers first. Clocks of other hosts may be off; then some of it is shown.
  const since = new Date();
  const shown = severities.slice(severities.indexOf(least)) as readonly string[];
  try {
    for await (const { severity, message, timestamp } of client.logs({ signal })) {
      const isOld = timestamp !== undefined && timestamp < since;
      if (!isOld && shown.includes(severity)) process.stderr.write(`${severity.padEnd(8)} ${message}\n`);
    }
  } catch {
    // What matters of a lost connection is told by the command itself.
  }
}

function fail(error: AgentError, place: Place | undefined): number {
  const usage = error.code === "E_USAGE";
  const words = ["j", ...(place?.words ?? []), ...(place?.command === undefined ? [] : [place.command.name])];
  if (usage) process.stderr.write(`Try '${words.join(" ")} --help' for help.\n\n`);
  process.stderr.write(`Error: ${error.message}\n`);
  if (error.hint !== undefined) process.stderr.write(`Hint: ${error.hint}\n`);
  return usage ? 2 : 1;
}

// Whoever reads our output may leave before we are done (`j … | head`).
process.stdout.on("error", () => process.exit(1));
process.exit(await main(process.argv.slice(2), process.env));
