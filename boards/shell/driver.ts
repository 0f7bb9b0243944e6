import { stat } from "node:fs/promises";
import * as z from "zod";
import { defineDriver } from "../../agent/driver/driver.ts";
import { AgentError } from "../../agent/driver/errors.ts";
import * as lax from "../../agent/driver/lax.ts";
import { scriptEnvironment } from "./environment.ts";
import { shell } from "./interface.ts";
import { run, TimeoutExpired } from "./process.ts";

/** What clients get as exit code when the time is up. */
const timeoutCode = 199;

const seconds = lax.number().pipe(z.number().positive("must be more than 0").max(2_000_000));

const method = z.union([
  z.string(),
  z.strictObject({
    command: z.string().default("echo Hello"),
    description: z.string().optional(),
    timeout: seconds.optional().describe("seconds; instead of the driver's"),
  }),
]);

export default defineDriver({
  types: ["jumpstarter_driver_shell.driver.Shell"],
  summary: "Runs scripts of the configuration on the exporter's host.",
  implements: shell,
  config: z.strictObject({
    methods: z.record(z.string(), method).describe("scripts by name: text, or command with description and timeout"),
    shell: z.array(z.string()).min(1).default(["bash", "-c"]).describe("program and options before the script"),
    timeout: seconds.prefault(300).describe("seconds"),
    cwd: z.string().nullish().describe("working directory"),
    env: z.record(z.string(), z.string()).default({}).describe("environment added to the exporter's"),
  }),
  needs: () => ({ rights: ["programs"] }),
  open: ({ config }) => {
    const scripts = new Map(
      Object.entries(config.methods).map(([name, given]) => [
        name,
        typeof given === "string" ? { command: given, description: undefined, timeout: undefined } : given,
      ]),
    );
    const descriptions = [...scripts].flatMap(([name, { description }]) =>
      description === undefined ? [] : [[name, description] as const],
    );
    /** Groups that got their SIGTERM: the agent does not end before them, or nobody would send the SIGKILL. */
    const ending = new Set<Promise<void>>();
    return {
      methodsDescription: Object.fromEntries(descriptions),
      methods: {
        get_methods: () => [...scripts.keys()],
        async *call_method({ signal, log }, name, env, ...given: unknown[]) {
          const script = scripts.get(name);
          if (script === undefined) {
            const known = [...scripts.keys()].map((key) => `'${key}'`).join(", ");
            throw new AgentError("E_INVALID", `Method '${name}' not found in available methods: [${known}]`);
          }
          const environment = scriptEnvironment(process.env, config.env, env ?? {});
          if (script.command.trim() === "") {
            throw new AgentError("E_INVALID", "Shell script must be a non-empty string");
          }
          const args = given.map(requireString);
          await requireDirectory(config.cwd);
          log.info(`calling ${name} with ${args.length} arguments`);
          const timeoutS = script.timeout ?? config.timeout;
          try {
            yield* run({
              argv: [...(config.shell as [string, ...string[]]), script.command, name, ...args],
              cwd: config.cwd ?? undefined,
              env: environment,
              timeoutMs: timeoutS * 1000,
              signal,
              onEnding: (ended) => {
                ending.add(ended);
                void ended.then(() => ending.delete(ended));
              },
            });
          } catch (error) {
            if (!(error instanceof TimeoutExpired)) throw error;
            const text = `Timeout expired while running ${name}: it timed out after ${timeoutS} seconds`;
            log.error(text);
            yield ["", `\n${text}\n`, timeoutCode];
          }
        },
      },
      close: async () => void (await Promise.all(ending)),
    };
  },
});

function requireString(argument: unknown): string {
  if (typeof argument === "string" && !argument.includes("\0")) return argument;
  throw new AgentError("E_INVALID", `All arguments must be strings, got ${typeof argument}`);
}

async function requireDirectory(path: string | null | undefined): Promise<void> {
  if (path === null || path === undefined || path === "") return;
  const found = await stat(path).catch(() => undefined);
  if (found?.isDirectory() !== true) {
    throw new AgentError("E_INVALID", `Working directory does not exist: ${path}`);
  }
}
