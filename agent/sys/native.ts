import { getSystemErrorName } from "node:util";
import { AgentError } from "../driver/errors.ts";

export type Koffi = (typeof import("koffi"))["default"];

/**
 * Loads the package through which the system calls that Node lacks are made; only who needs it pays for it.
 * @throws AgentError E_UNSUPPORTED where it is not installed or has no binary for this machine.
 */
export async function loadKoffi(): Promise<Koffi> {
  try {
    return (await import("koffi")).default;
  } catch (cause) {
    throw new AgentError("E_UNSUPPORTED", "the native package koffi cannot be loaded on this machine", {
      hint: "install it beside the agent: npm install koffi",
      cause,
    });
  }
}

/** An error like those that Node makes of a failed system call. `errno` is positive, as the C library tells it. */
export function systemError(errno: number, syscall: string, path?: string): NodeJS.ErrnoException {
  const code = getSystemErrorName(-errno);
  const error: NodeJS.ErrnoException = new Error(`${code}: ${syscall}${path === undefined ? "" : ` '${path}'`}`);
  return Object.assign(error, { errno: -errno, code, syscall }, path === undefined ? {} : { path });
}
