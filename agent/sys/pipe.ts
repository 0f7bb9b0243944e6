import { closeSync, constants } from "node:fs";
import { constants as osConstants } from "node:os";
import { loadKoffi, systemError, type Koffi } from "./native.ts";
import { watchDescriptor } from "./poll.ts";

const O_CLOEXEC = 0o2000000;
/** fcntl.h; a test compares them with C's. */
export const commands = { F_SETFL: 4, F_SETPIPE_SZ: 1031 } as const;

/** The most that users other than root may have, where the administrator has not changed it. */
const capacityBytes = 1024 * 1024;

/**
 * A pipe for the output of a program, read into memory of the reader: what Node makes for a child is a pair of sockets, whose every 64 KiB are
 * memory of their own.
 */
export class InputPipe {
  /** For the program; closed here when it has it. */
  readonly writeFd: number;
  readonly #koffi: Koffi;
  readonly #read: (fd: number, memory: Buffer, bytes: number) => number;
  readonly #readFd: number;
  #stopWaiting: (() => void) | undefined;
  #isClosed = false;

  private constructor(koffi: Koffi) {
    const libc = koffi.load(null);
    const pipe2 = libc.func("int pipe2(_Out_ int *ends, int flags)") as (ends: number[], flags: number) => number;
    // Without the dots of its prototype: integers are passed alike.
    const fcntl = libc.func("int fcntl(int fd, int command, long argument)") as (...words: number[]) => number;
    const ends = [-1, -1];
    if (pipe2(ends, O_CLOEXEC) === -1) throw systemError(koffi.errno(), "pipe2");
    [this.#readFd, this.writeFd] = ends as [number, number];
    this.#koffi = koffi;
    this.#read = libc.func("long read(int fd, void *memory, size_t bytes)");
    // Only of this end: programs do not expect it of theirs.
    fcntl(this.#readFd, commands.F_SETFL, constants.O_NONBLOCK);
    // Many pipes of a user may have used up what he may have; then it works in smaller steps.
    fcntl(this.#readFd, commands.F_SETPIPE_SZ, capacityBytes);
  }

  /** @throws the system's error; AgentError E_UNSUPPORTED where native code cannot be loaded */
  static async open(): Promise<InputPipe> {
    return new InputPipe(await loadKoffi());
  }

  /** Reads what there is, or waits for it. One at a time. @returns how many bytes; 0 when the program has closed its end, or this one is closed */
  async read(memory: Buffer): Promise<number> {
    while (!this.#isClosed) {
      // Not fs.readSync, which makes an error of each time that there is nothing.
      const count = this.#read(this.#readFd, memory, memory.length);
      if (count !== -1) return count;
      const errno = this.#koffi.errno();
      if (errno !== osConstants.errno.EAGAIN) throw systemError(errno, "read");
      await this.#readable();
    }
    return 0;
  }

  close(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#stopWaiting?.();
    closeSync(this.#readFd);
  }

  async #readable(): Promise<void> {
    await new Promise<void>((resolve) => {
      const unwatch = watchDescriptor(this.#koffi, this.#readFd, "readable", () => this.#stopWaiting?.());
      this.#stopWaiting = () => {
        this.#stopWaiting = undefined;
        unwatch();
        resolve();
      };
    });
  }
}
