import type * as z from "zod";
import { AgentError } from "../../../driver/errors.ts";
import type { Interface, Method } from "../../../driver/interface.ts";
import { resourceHandle } from "../../../driver/resource.ts";
import { command, type Command, type Commands } from "../command.ts";
import type { Argument } from "../words.ts";

/**
 * Commands made of an interface: every call whose arguments can be typed is one. `get_url` is called `get-url`,
 * a result that is no text is printed as JSON.
 */
export function commandsOf(wanted: Interface): Commands {
  const commands: Record<string, Command> = {};
  for (const [name, method] of Object.entries(wanted.methods)) {
    if (method.kind === "stream" || method.args.some((schema) => schema === resourceHandle)) continue;
    commands[name.replaceAll("_", "-")] = commandOf(name, method);
  }
  return commands;
}

function commandOf(name: string, method: Exclude<Method, { kind: "stream" }>): Command {
  const args: Record<string, Argument> = {};
  for (const [index, schema] of method.args.entries()) {
    args[`arg${index + 1}`] = {
      ...(schema.description === undefined ? {} : { help: schema.description }),
      ...(schema.safeParse(undefined).success ? { optional: true } : {}),
    };
  }
  return command({
    help: method.help ?? `Call ${name}`,
    args,
    run: async ({ node, signal, print }, words) => {
      const given = method.args.map((schema, index) => {
        const word = words[`arg${index + 1}`];
        return typeof word === "string" ? readWord(schema, word, `ARG${index + 1}`) : undefined;
      });
      if (method.kind === "unary") {
        printValue(await node.call(name, given, { signal }), print);
      } else {
        for await (const item of node.streamingCall(name, given, { signal })) printValue(item, print);
      }
    },
  });
}

/** A word as the argument it is meant to be: as text where text is taken, else as JSON. */
function readWord(schema: z.ZodType, word: string, label: string): unknown {
  if (schema.safeParse(word).success) return word;
  try {
    const value: unknown = JSON.parse(word);
    if (schema.safeParse(value).success) return value;
  } catch {
    // no JSON either
  }
  const problem = schema.safeParse(word).error?.issues[0]?.message ?? "not allowed";
  throw new AgentError("E_USAGE", `${label}: '${word}': ${problem}`);
}

function printValue(value: unknown, print: (line: string) => void): void {
  if (value === null) return;
  print(typeof value === "string" ? value : JSON.stringify(value, null, 2));
}
