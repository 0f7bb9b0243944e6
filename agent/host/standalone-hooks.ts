import { mkdtemp, rm } from "node:fs/promises";
import { join } from "node:path";
import type { ExporterConfig } from "../config/schema.ts";
import { runHook, type HookName } from "../hooks/hook.ts";
import { killLeftoverHooks } from "../hooks/leftovers.ts";
import { serve } from "../session/server.ts";
import type { Session } from "../session/session.ts";
import { leaseDirectoryPrefix } from "./lease-directories.ts";

/** The hooks of an exporter without a controller: its whole life is one lease, called `standalone`. */
export interface StandaloneHooks {
  /** Sets the session's status, and says how the exporter goes on: `failed` stays up and tells clients why. */
  before(): Promise<"ready" | "failed" | "exit">;
  /** Once, unless the hook before failed. */
  after(): Promise<void>;
  close(graceMs: number): Promise<void>;
}

export async function openStandaloneHooks(
  session: Session,
  hooks: ExporterConfig["hooks"],
  env: NodeJS.ProcessEnv,
): Promise<StandaloneHooks> {
  const ready = (message: string) => {
    session.status.set("LEASE_READY", message);
    return "ready" as const;
  };
  if (hooks.beforeLease === null && hooks.afterLease === null) {
    const none = { after: async () => {}, close: async () => {} };
    return { before: async () => ready("Ready for commands"), ...none };
  }

  const directory = await mkdtemp(leaseDirectoryPrefix(env));
  const hookSocket = join(directory, "socket");
  const served = await serve(session, { unix: hookSocket, caller: "hook" });
  const over = new AbortController();
  const run = async (name: HookName) => {
    const hook = hooks[name];
    if (hook === null) return { kind: "ok" as const };
    const { logs } = session.exporter;
    return await runHook(name, hook, {
      ...{ lease: "standalone", client: "", hookSocket, directory, logs, env },
      signal: over.signal,
    });
  };

  let afterDue = true;
  return {
    async before() {
      if (hooks.beforeLease === null) return ready("Ready for commands");
      session.status.set("BEFORE_LEASE_HOOK", "Running beforeLease hook");
      const result = await run("beforeLease");
      if (result.motd !== undefined) session.motd = [session.motd, result.motd].filter(Boolean).join("\n");
      if (result.kind === "ok") return ready("Ready for commands");
      const { error, onFailure } = result;
      if (onFailure === "warn") return ready(`[HOOK_WARNING] beforeLease hook warning: ${error}`);
      afterDue = false;
      const mode = onFailure === "exit" ? "exit, shutting down" : onFailure;
      session.status.set("BEFORE_LEASE_HOOK_FAILED", `beforeLease hook failed (on_failure=${mode}): ${error}`);
      return onFailure === "exit" ? "exit" : "failed";
    },
    async after() {
      if (!afterDue || hooks.afterLease === null) return;
      afterDue = false;
      session.status.set("AFTER_LEASE_HOOK", "Running afterLease hooks");
      await run("afterLease");
    },
    async close(graceMs) {
      over.abort();
      await served.close(graceMs);
      await killLeftoverHooks(directory);
      await rm(directory, { recursive: true, force: true });
    },
  };
}
