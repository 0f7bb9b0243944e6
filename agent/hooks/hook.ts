import type { ExporterConfig } from "../config/schema.ts";
import { AgentError, toAgentError } from "../driver/errors.ts";
import type { LogBus, LogSource } from "../driver/log.ts";
import { commandOf, environmentOf } from "./command.ts";
import { startHookProcess, type HookProcess } from "./hook-process.ts";
import { installLauncher } from "./launcher.ts";
import { createMotdFile } from "./motd-file.ts";

export type HookName = "beforeLease" | "afterLease";

export type HookConfig = NonNullable<ExporterConfig["hooks"][HookName]>;

export interface HookContext {
  /** `standalone` without a controller. */
  readonly lease: string;
  readonly client: string;
  /** The unix socket through which the hook's `j` reaches the drivers. */
  readonly hookSocket: string;
  /** Private to the lease and to this user: the hook's files are put there, and go with it. */
  readonly directory: string;
  readonly logs: LogBus;
  readonly env: NodeJS.ProcessEnv;
  /** Kills the hook, which has then failed. */
  readonly signal: AbortSignal;
}

/** `motd` is what a beforeLease hook has to say to the client's shell. */
export type HookOutcome =
  | { readonly kind: "ok"; readonly motd?: string }
  | {
      readonly kind: "failed";
      /** As clients are shown it. */
      readonly error: string;
      readonly onFailure: HookConfig["onFailure"];
      readonly motd?: string;
    };

const kinds: Record<HookName, { source: LogSource; words: string }> = {
  beforeLease: { source: "before-lease-hook", words: "before-lease hook" },
  afterLease: { source: "after-lease-hook", words: "after-lease hook" },
};

/** The longest wait that a timer takes; 24 days. */
const longestTimerMs = 2 ** 31 - 1;

/** Runs a hook to its end. Whatever its script does is an outcome; clients know the wording of logs and errors. */
export async function runHook(name: HookName, config: HookConfig, context: HookContext): Promise<HookOutcome> {
  const { source, words } = kinds[name];
  const { onFailure } = config;
  const system = context.logs.logger({ source: "system", logger: "hooks" });
  const own = context.logs.logger({ source, logger: "hooks" });

  system.info(`Executing ${words} for lease ${context.lease}`);
  const succeeded = (motd?: string): HookOutcome => {
    system.info(`${name} hook completed successfully`);
    return { kind: "ok", ...(motd === undefined ? {} : { motd }) };
  };
  if (config.script.trim() === "") return succeeded();
  system.info(`Using dedicated hook socket: ${context.hookSocket}`);

  let error: string | undefined;
  let motd: string | undefined;
  try {
    const motdFile = name === "beforeLease" ? await createMotdFile(context.directory, system) : undefined;
    try {
      error = await execute(config, context, motdFile?.path, own);
      if (error === undefined || onFailure === "warn") motd = await motdFile?.read();
    } finally {
      await motdFile?.remove();
    }
  } catch (thrown) {
    error = `Error executing hook: ${describe(thrown)}`;
  }
  if (error === undefined) return succeeded(motd);

  if (onFailure === "warn") {
    own.warn(`${error} (on_failure=warn, continuing)`);
    system.info(`${name} hook completed successfully`);
  } else own.error(`${error} (on_failure=${onFailure}, raising exception)`);
  return { kind: "failed", error, onFailure, ...(motd === undefined ? {} : { motd }) };
}

/** @returns what went wrong */
async function execute(
  config: HookConfig,
  context: HookContext,
  motdFile: string | undefined,
  log: { info(line: string): void; error(line: string): void },
): Promise<string | undefined> {
  const stopped = "Hook was stopped before its end";
  const { directory, signal } = context;
  if (signal.aborted) return stopped;
  await installLauncher(directory, context.env);
  const env = environmentOf(context, motdFile);
  const emit = (line: string) => log.info(line);
  const hook = await startHookProcess({ command: commandOf(config, env), env, directory, emit });

  const end = await endOf(hook, config.timeout * 1_000, signal);
  const timedOut = `Hook timed out after ${config.timeout} seconds`;
  if (end === "timeout") log.error(timedOut);
  if (typeof end !== "number") await hook.kill();
  await hook.finish();
  if (end === "timeout") return timedOut;
  if (end === "abort") return stopped;
  return end === 0 ? undefined : `Hook failed with exit code ${end}`;
}

/** Waits for the exit code, but no longer than allowed. */
async function endOf(hook: HookProcess, timeoutMs: number, signal: AbortSignal): Promise<number | "timeout" | "abort"> {
  let timer: NodeJS.Timeout | undefined;
  let abort: (() => void) | undefined;
  const cut = new Promise<"timeout" | "abort">((resolve) => {
    timer = setTimeout(() => resolve("timeout"), Math.min(timeoutMs, longestTimerMs));
    abort = () => resolve("abort");
    signal.addEventListener("abort", abort);
    if (signal.aborted) abort();
  });
  try {
    return await Promise.race([hook.exited, cut]);
  } finally {
    clearTimeout(timer);
    if (abort !== undefined) signal.removeEventListener("abort", abort);
  }
}

/** Who reads it sees no hint elsewhere. */
function describe(thrown: unknown): string {
  const error: AgentError = toAgentError(thrown);
  return error.hint === undefined ? error.message : `${error.message} (${error.hint})`;
}
