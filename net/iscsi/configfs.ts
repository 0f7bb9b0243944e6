import { constants } from "node:fs";
import { mkdir, open, readdir, readFile, readlink, rmdir, symlink, unlink } from "node:fs/promises";
import { join } from "node:path";
import { AgentError, isSystemError, toAgentError } from "../../agent/driver/errors.ts";
import type { Step } from "./protocol.ts";

/** The kernel waits for what initiators have under way, and for its own threads. */
const stepLimitMs = 30_000;

/** The directory in which the kernel's targets are configured. */
export class Configfs {
  readonly root: string;

  constructor(root: string) {
    this.root = root;
  }

  /**
   * Takes steps one after the other.
   * @throws AgentError E_FAILED naming the step that failed, never a secret; E_TIMEOUT when the kernel does not answer
   */
  async take(steps: readonly Step[]): Promise<void> {
    for (const step of steps) {
      try {
        await withinLimit(this.step(step), step);
      } catch (error) {
        throw explain(error, step);
      }
    }
  }

  /** Takes steps that undo something: what has gone already is no failure, and one that fails does not keep the rest from it. */
  async undo(steps: readonly Step[]): Promise<void> {
    let first: Error | undefined;
    for (const step of steps) {
      await this.take([step]).catch((error: Error) => {
        // Whatever else there is would wait as long.
        if (error instanceof AgentError && error.code === "E_TIMEOUT") throw error;
        const { cause } = error;
        if (!(isSystemError(cause) && cause.code === "ENOENT")) first ??= error;
      });
    }
    if (first !== undefined) throw first;
  }

  protected async step(step: Step): Promise<void> {
    const path = join(this.root, step.path);
    switch (step.do) {
      case "make":
        await mkdir(path).catch((error: unknown) => {
          if (!(isSystemError(error) && error.code === "EEXIST")) throw error;
        });
        return;
      case "write": {
        // Without O_CREAT: an attribute that the kernel does not have is ENOENT.
        const file = await open(path, constants.O_WRONLY);
        try {
          await file.write(step.text);
        } finally {
          await file.close();
        }
        return;
      }
      case "link":
        return symlink(join(this.root, step.to), path);
      case "unlink":
        return unlink(path);
      case "remove":
        return rmdir(path);
    }
  }

  /** Makes a directory that must be new. @returns false if there is one already */
  async makeNew(path: string): Promise<boolean> {
    try {
      await mkdir(join(this.root, path));
      return true;
    } catch (error) {
      if (isSystemError(error) && error.code === "EEXIST") return false;
      throw explain(error, { do: "make", path });
    }
  }

  /** Names in a directory, links marked; empty if there is none. */
  async list(path: string): Promise<{ name: string; isLink: boolean; isDirectory: boolean }[]> {
    try {
      const entries = await readdir(join(this.root, path), { withFileTypes: true });
      return entries.map((entry) => ({
        name: entry.name,
        isLink: entry.isSymbolicLink(),
        isDirectory: entry.isDirectory(),
      }));
    } catch (error) {
      if (isSystemError(error) && error.code === "ENOENT") return [];
      throw error;
    }
  }

  /** An attribute without its last line end; empty if it cannot be read. */
  async read(path: string): Promise<string> {
    return (await readFile(join(this.root, path), "utf8").catch(() => "")).replace(/\n$/, "");
  }

  /** Where a link leads, as the kernel spells it. */
  readLink(path: string): Promise<string> {
    return readlink(join(this.root, path));
  }
}

async function withinLimit(work: Promise<void>, step: Step): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => {
      reject(new AgentError("E_TIMEOUT", `the kernel has not done it in ${stepLimitMs / 1000}s: ${describe(step)}`));
    }, stepLimitMs);
  });
  try {
    await Promise.race([work, late]);
  } finally {
    clearTimeout(timer);
  }
}

/** Without what is written: it may be a password. */
const describe = (step: Step) => `${step.do} ${step.path}`;

function explain(error: unknown, step: Step): AgentError {
  if (error instanceof AgentError) return error;
  const reason = isSystemError(error) ? error.code : toAgentError(error).message;
  const hint =
    isSystemError(error) && (error.code === "EACCES" || error.code === "EPERM")
      ? "the agent must be root to configure the kernel's iSCSI target"
      : undefined;
  return new AgentError("E_FAILED", `the kernel refuses to ${describe(step)}: ${reason}`, { cause: error, hint });
}
