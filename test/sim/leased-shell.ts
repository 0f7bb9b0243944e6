import type { TestContext } from "node:test";
import type { Lab } from "./controller/controller.ts";
import { pythonClient } from "./controller/python.ts";

export interface ShellOptions {
  /** Default: 0.9.0. */
  readonly version?: string;
  /** A client of the lab. Default: ann. */
  readonly client?: string;
  /** What is run in the shell. Default: `j power on`. */
  readonly command?: readonly string[];
  readonly env?: Record<string, string>;
  /** Default: two minutes, as the client waits longer than that for an exporter that is lost. */
  readonly timeoutMs?: number;
}

export interface Shown {
  readonly code: number | null;
  /** All that the user sees. */
  readonly text: string;
}

/** Runs `jmp shell WORDS… -- COMMAND…` as a client of the lab. */
export async function leasedShell(
  t: Pick<TestContext, "after">,
  lab: Pick<Lab, "clientConfig">,
  words: readonly string[],
  options: ShellOptions = {},
): Promise<Shown> {
  const { version = "0.9.0", client = "ann", command = ["j", "power", "on"], timeoutMs = 120_000 } = options;
  return await jmp(t, lab, ["shell", "--client", client, ...words, "--", ...command], {
    ...{ version, client, timeoutMs },
    ...(options.env && { env: options.env }),
  });
}

/** Runs `jmp WORDS…`; `--client NAME` is up to the caller. */
export async function jmp(
  t: Pick<TestContext, "after">,
  lab: Pick<Lab, "clientConfig">,
  words: readonly string[],
  { version = "0.9.0", client = "ann", env = {}, timeoutMs = 120_000 }: Omit<ShellOptions, "command"> = {},
): Promise<Shown> {
  const { code, stdout, stderr } = await pythonClient(t, lab, version, client).jmp(words, {
    timeoutMs,
    // The client breaks its lines at the width of the terminal, also without one.
    env: { COLUMNS: "400", ...env },
  });
  return { code, text: stdout + stderr };
}
