import type { RemoteNode } from "../../../client/node.ts";
import { shell } from "../../../../boards/shell/interface.ts";
import { AgentError } from "../../../driver/errors.ts";
import { command, type Command, type Commands } from "../command.ts";

/** One command for each script that the exporter's configuration has. */
export async function commandsOf(node: RemoteNode, signal: AbortSignal): Promise<Commands> {
  const names = await node.as(shell, { signal }).get_methods();
  return Object.fromEntries(names.map((name) => [name, script(name)]));
}

function script(name: string): Command {
  return command({
    help: `Execute the ${name} shell method`,
    args: { args: { many: true } },
    options: {
      env: { kind: "text", short: "e", many: true, help: "Environment variables in KEY=VALUE format" },
    },
    raw: true,
    run: async ({ node, signal }, { args, env }) => {
      let exitCode = 0;
      // Further arguments follow the declared ones; the types of interfaces do not know them.
      const output = node.streamingCall("call_method", [name, parseEnv(env), ...args], { signal });
      for await (const piece of output) {
        const [stdout, stderr, code] = shell.methods.call_method.item.parse(piece);
        process.stdout.write(stdout);
        process.stderr.write(stderr);
        exitCode = code ?? exitCode;
      }
      // A script that a signal killed has a negative code; a shell would report 128 + the signal.
      return exitCode < 0 ? 128 - exitCode : exitCode;
    },
  });
}

function parseEnv(pairs: readonly string[]): Record<string, string> {
  return Object.fromEntries(
    pairs.map((pair) => {
      const at = pair.indexOf("=");
      if (at < 1) throw new AgentError("E_USAGE", `Invalid --env value '${pair}'. Use KEY=VALUE.`);
      return [pair.slice(0, at), pair.slice(at + 1)];
    }),
  );
}
