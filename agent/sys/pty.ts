import { closeSync, constants, openSync, readdirSync } from "node:fs";
import { loadKoffi, systemError } from "./native.ts";

const { O_RDWR, O_NOCTTY, O_NONBLOCK } = constants;

/** asm-generic/fcntl.h; Node does not name it. */
const O_CLOEXEC = 0o2000000;
const F_SETFD = 2;
const FD_CLOEXEC = 1;

/** Longer than any `/dev/pts/<number>`. */
const longestName = 64;

/** Both ends of a new pseudo terminal, as descriptors that no child inherits by accident. Who asked closes them. */
export interface Pty {
  /** Where what the programs print is read, without waiting; EIO when none of them has the terminal open any more. */
  readonly controller: number;
  /** What programs get as their terminal. */
  readonly terminal: number;
}

export interface Ptys {
  /** Its window has no size, and it becomes nobody's controlling terminal. @throws the system's error */
  open(): Pty;
  /** Marks the descriptors that this process was given at its own start, which its children would get as well. */
  keepDescriptors(): void;
}

/** @throws AgentError E_UNSUPPORTED where native code cannot be loaded. */
export async function loadPtys(): Promise<Ptys> {
  const koffi = await loadKoffi();
  const libc = koffi.load(null);
  const openpt = libc.func("int posix_openpt(int flags)") as (flags: number) => number;
  const grantpt = libc.func("int grantpt(int fd)") as (fd: number) => number;
  const unlockpt = libc.func("int unlockpt(int fd)") as (fd: number) => number;
  const ptsname = libc.func("int ptsname_r(int fd, void *name, size_t size)") as (
    ...args: [fd: number, name: Buffer, size: number]
  ) => number;
  const fcntl = libc.func("int fcntl(int fd, int command, ...)") as (...args: unknown[]) => number;
  const check = (result: number, call: string) => {
    if (result === -1) throw systemError(koffi.errno(), call);
    return result;
  };
  return {
    open() {
      const controller = check(openpt(O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC), "posix_openpt");
      try {
        check(grantpt(controller), "grantpt");
        check(unlockpt(controller), "unlockpt");
        const name = Buffer.alloc(longestName);
        // Unlike its neighbours it answers the error itself.
        const errno = ptsname(controller, name, name.length);
        if (errno !== 0) throw systemError(errno === -1 ? koffi.errno() : errno, "ptsname_r");
        const path = name.toString("latin1", 0, name.indexOf(0));
        return { controller, terminal: openSync(path, O_RDWR | O_NOCTTY) };
      } catch (error) {
        closeSync(controller);
        throw error;
      }
    },
    keepDescriptors() {
      for (const name of readdirSync("/proc/self/fd")) {
        // One of them is the directory that is being read, and is gone.
        if (Number(name) > 2) fcntl(Number(name), F_SETFD, "int", FD_CLOEXEC);
      }
    },
  };
}
