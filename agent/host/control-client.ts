import { readdir, unlink } from "node:fs/promises";
import { connect } from "node:net";
import { join } from "node:path";
import * as z from "zod";
import { AgentError, isSystemError, toAgentError } from "../driver/errors.ts";
import { searchedDirectories, systemDirectory, whyNotOurs } from "./control-directory.ts";
import { answerLimitMs, answerLine, longestAnswerBytes, parseLine, readLine } from "./control-protocol.ts";
import type { ControlRequests } from "./control-protocol.ts";

/** What one agent said, or why it said nothing. */
export interface AgentAnswer {
  readonly pid: number;
  readonly answer?: unknown;
  readonly error?: AgentError;
}

export interface AskOptions {
  /** Only this agent. */
  readonly pid?: number | undefined;
  readonly env?: NodeJS.ProcessEnv;
  /** How long an agent may take. The agent itself ends its wait before the default, and says so. */
  readonly limitMs?: number;
}

/**
 * Asks every running agent of this user (root: those of the service manager, too), all at once, and removes the sockets of those that died.
 * @returns the answers by process number; empty if nobody runs
 */
export async function askAgents<K extends keyof ControlRequests>(
  request: K,
  params: ControlRequests[K],
  { pid: only, env = process.env, limitMs = answerLimitMs + 5_000 }: AskOptions = {},
): Promise<AgentAnswer[]> {
  const asked: Promise<AgentAnswer | undefined>[] = [];
  for (const directory of searchedDirectories(env)) {
    const ours = (await whyNotOurs(directory)) === undefined;
    // Root asks the service manager's agents, too. It tells them no secret, and takes what they say for no more than that.
    if (!ours && !(process.getuid?.() === 0 && directory === systemDirectory)) continue;
    for (const name of await readdir(directory).catch(() => [])) {
      const pid = Number(/^(\d{1,10})\.sock$/.exec(name)?.[1] ?? NaN);
      if (Number.isNaN(pid) || (only !== undefined && only !== pid)) continue;
      asked.push(askOne(directory, pid, `${JSON.stringify({ request, params })}\n`, { limitMs, ours }));
    }
  }
  const answers = (await Promise.all(asked)).filter((one) => one !== undefined);
  return answers.sort((a, b) => a.pid - b.pid);
}

async function askOne(
  directory: string,
  pid: number,
  line: string,
  { limitMs, ours }: { limitMs: number; ours: boolean },
): Promise<AgentAnswer | undefined> {
  const path = join(directory, `${pid}.sock`);
  const socket = connect(path);
  try {
    socket.write(line);
    const text = await readLine(socket, { mostBytes: longestAnswerBytes, limitMs });
    const answered = parseLine(text, answerLine);
    if ("answer" in answered) return { pid, answer: answered.answer };
    throw new AgentError(answered.error.code, answered.error.message);
  } catch (thrown) {
    if (isSystemError(thrown) && ["ECONNREFUSED", "ENOENT"].includes(thrown.code)) {
      // A socket between bind and listen refuses too; its process lives.
      if (ours && !isAlive(pid)) await unlink(path).catch(() => {});
      return undefined;
    }
    return { pid, error: toAgentError(thrown) };
  } finally {
    socket.destroy();
  }
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "EPERM";
  }
}

/** The answer to a reload. */
export const reloadAnswer = z.array(
  z.object({
    exporter: z.string(),
    outcome: z.enum(["unchanged", "reloaded", "at-lease-end", "refused", "started", "stopped"]),
    changes: z.array(z.string()),
    problems: z.array(z.string()),
  }),
);

/** The answer to a question for the status. */
export const statusAnswer = z.array(
  z.object({
    exporter: z.string(),
    config: z.string(),
    state: z.string(),
    online: z.boolean(),
    lease: z.string().nullable(),
    client: z.string().nullable(),
    leaseSince: z.string().nullable().default(null),
    offline: z.array(z.object({ driver: z.string(), reason: z.string() })),
    registered: z.boolean().default(false),
    drivers: z.array(z.object({ driver: z.string(), type: z.string(), offline: z.string().nullable() })).default([]),
    transfers: z
      .array(
        z.object({
          protocol: z.string(),
          peer: z.string(),
          name: z.string(),
          direction: z.string(),
          sizeBytes: z.number().nullable(),
          movedBytes: z.number(),
          seconds: z.number(),
        }),
      )
      .default([]),
    flashing: z
      .array(
        z.object({
          driver: z.string(),
          image: z.string().nullable(),
          target: z.string().nullable(),
          step: z.string(),
          movedBytes: z.number(),
          sizeBytes: z.number().nullable(),
          remainingSeconds: z.number().nullable(),
          seconds: z.number(),
        }),
      )
      .default([]),
  }),
);
